"""`PrototypicalHeads` and `PrototypicalClassifier`: the moving average, both heads, classes added after training."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models.test_similarity_network import plain_network, plain_scores
from strategies import DEVICES, devices, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor, nn

from robustdml_ext.models import PrototypicalClassifier, PrototypicalHeads, build_embedder, class_means


def moved(prototypes: Tensor, embeddings: Tensor, labels: Tensor, momentum: float) -> Tensor:
    """C_t = λ·C_{t−1} + (1 − λ)·Ĉ_{t−1}, class by class."""
    replaced = prototypes.clone()
    for label in labels.unique().tolist():
        replaced[label] = embeddings[labels == label].mean(0)
    return momentum * prototypes + (1 - momentum) * replaced


@given(
    st.integers(0, 40), st.integers(1, 33), st.integers(1, 17), st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    st.sampled_from(["any", "one class", "all distinct"]), devices(), seeds(),
)  # fmt: skip
def test_prototypes_follow_the_batch_by_a_moving_average(
    batch: int, classes: int, dim: int, momentum: float, kind: str, device: str, seed: int
) -> None:
    torch.manual_seed(seed)
    heads = PrototypicalHeads(classes, dim, 4, momentum=momentum).to(device)
    batch = min(batch, classes) if kind == "all distinct" else batch
    labels = {
        "any": torch.randint(classes, (batch,)),
        "one class": torch.full((batch,), seed % classes),
        "all distinct": torch.randperm(classes)[:batch],
    }[kind].to(device)
    embeddings = values((batch, dim), torch.float32, device, seed)
    before = heads.prototypes.clone()
    heads.update(embeddings.clone().requires_grad_(), labels)
    plain = moved(before, embeddings, labels, momentum)
    exact = moved(before.double(), embeddings.double(), labels, momentum)
    assert_as_good_as(heads.prototypes, plain, exact, terms=float(embeddings.abs().max()) if batch else 1.0)
    absent = torch.ones(classes, dtype=torch.bool, device=device)
    absent[labels] = False
    assert torch.equal(heads.prototypes[absent], before[absent])
    assert not heads.prototypes.requires_grad


@pytest.mark.parametrize("device", DEVICES)
def test_prototypes_start_from_a_gaussian_and_are_in_the_state_dict(device: str) -> None:
    torch.manual_seed(0)
    heads = PrototypicalHeads(200, 300, 4).to(device)
    assert abs(heads.prototypes.mean().item()) < 0.02 and abs(heads.prototypes.std().item() - 1) < 0.02
    assert "prototypes" in heads.state_dict() and not any("prototypes" in name for name, _ in heads.named_parameters())
    other = PrototypicalHeads(200, 300, 4).to(device)
    other.load_state_dict(heads.state_dict())
    assert torch.equal(other.prototypes, heads.prototypes)


@pytest.mark.parametrize("device", DEVICES)
def test_heads_are_the_similarity_to_prototypes_and_the_dense_layer(device: str) -> None:
    torch.manual_seed(1)
    heads = PrototypicalHeads(7, 5, 16).to(device).eval()
    embeddings = torch.randn(9, 5, device=device)
    exact = plain_network(5, 16).to(device).double().eval()
    exact.load_state_dict(heads.similarity.state_dict())
    expected = plain_scores(exact, embeddings.double(), heads.prototypes.double())
    torch.testing.assert_close(heads.logits(embeddings).double(), expected, atol=1e-5, rtol=1e-5)
    dense = embeddings @ heads.dense.weight.T + heads.dense.bias
    torch.testing.assert_close(heads.logits(embeddings, "dense"), dense)
    both = heads.logits(embeddings, "both")
    assert torch.equal(both, torch.cat([heads.logits(embeddings), heads.logits(embeddings, "dense")], 1))
    with torch.autocast(device, torch.bfloat16):
        for head in ("similarity", "dense"):
            assert torch.equal(heads.logits(embeddings, head), heads.logits(embeddings.float(), head))
            assert heads.logits(embeddings, head).dtype == torch.float32
    with pytest.raises(ValueError, match="head: expected one of similarity, dense, both, got 'cosine'"):
        heads.logits(embeddings, "cosine")


def classifier(classes: int = 3, dim: int = 4) -> PrototypicalClassifier:
    torch.manual_seed(2)
    encoder = build_embedder("small", channels=1, embedding_dim=dim, unit_length=False)
    return PrototypicalClassifier(encoder, PrototypicalHeads(classes, dim, 8), [f"seen {n}" for n in range(classes)])


def test_new_classes_get_the_mean_embedding_of_their_examples() -> None:
    model = classifier().train()
    images, labels = torch.rand(5, 1, 8, 8), torch.tensor([1, 0, 1, 1, 0])
    statistics = copy.deepcopy(model.state_dict())
    before = model.eval().logits(images)
    dense = model.logits(images, "dense")
    model.train()
    model.add_classes(images, labels, ["fox", "owl"])
    assert model.training and model.class_names == ["seen 0", "seen 1", "seen 2", "fox", "owl"]
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in statistics.items() if name != "heads.prototypes")
    model.eval()
    embeddings = model.embed(images)
    expected = torch.stack([embeddings[labels == 0].mean(0), embeddings[labels == 1].mean(0)])
    torch.testing.assert_close(model.heads.prototypes[3:], expected)
    # What was known stays as it was, and the dense output layer knows nothing new.
    torch.testing.assert_close(model.logits(images)[:, :3], before)
    assert torch.equal(model.logits(images, "dense"), dense)
    assert model.logits(images).shape == (5, 5)
    # An example whose prototype it is alone: S against its own embedding.
    model.add_embedded_classes(embeddings[:1], torch.tensor([0]), ["yak"])
    own = model.heads.similarity(embeddings[:1], embeddings[:1])
    torch.testing.assert_close(model.logits(images[:1])[:, 5], own[:, 0])
    assert torch.equal(model.classify(images), model.logits(images).argmax(1))


def test_a_saved_model_brings_its_added_classes(tmp_path: Path) -> None:
    model = classifier()
    model.add_classes(torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), ["fox", "owl"])
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = classifier()
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(other.eval().logits(images), model.eval().logits(images)) and other.heads.classes == 5
    fewer = copy.deepcopy(model.state_dict())
    fewer["heads.prototypes"] = fewer["heads.prototypes"][:2]
    with pytest.raises(RuntimeError, match="prototypes"):
        classifier().load_state_dict(fewer)


def test_errors_name_the_argument() -> None:
    model = classifier()
    images, labels = torch.rand(2, 1, 8, 8), torch.tensor([0, 1])
    with pytest.raises(ValueError, match=r"names: .*seen 1"):
        model.add_classes(images, labels, ["fox", "seen 1"])
    with pytest.raises(ValueError, match=r"labels: .*none of \[1\]"):
        model.add_classes(images, torch.tensor([0, 0]), ["fox", "owl"])
    with pytest.raises(ValueError, match="labels: expected 0 to 0, got 0 to 1"):
        model.add_classes(images, labels, ["fox"])
    with pytest.raises(ValueError, match=r"labels: expected one an embedding"):
        class_means(torch.rand(2, 3), torch.tensor([0]), 1)
    with pytest.raises(ValueError, match="prototypes: expected finite"):
        model.heads.add_prototypes(torch.full((1, 4), torch.nan))
    with pytest.raises(ValueError, match=r"prototypes: expected \[N, 4\]"):
        model.heads.add_prototypes(torch.rand(1, 5))
    assert model.class_names == ["seen 0", "seen 1", "seen 2"] and model.heads.classes == 3
    for arguments, message in (((0, 4), "classes"), ((3, 0), "embedding_dim")):
        with pytest.raises(ValueError, match=message):
            PrototypicalHeads(*arguments)
    with pytest.raises(ValueError, match="momentum"):
        PrototypicalHeads(3, 4, momentum=1.5)
    with pytest.raises(ValueError, match="names: expected one a prototype, 3; got 1"):
        PrototypicalClassifier(nn.Identity(), PrototypicalHeads(3, 4), ["fox"])
    with pytest.raises(ValueError, match="head"):
        model.through("cosine")
