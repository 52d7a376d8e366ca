"""`PrototypicalLoss` and `Prototypes` against the paper's equations, written out pair by pair in float64."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import devices, seeds, values
from torch import Tensor

from robustdml_ext.attacks import PGD
from robustdml_ext.losses import TripletLoss
from robustdml_ext.methods import Batch, Context, Prototypes, PrototypicalLoss
from robustdml_ext.methods.prototypes import pair_loss
from robustdml_ext.models import Embedder, PrototypicalHeads, build_embedder


def score(heads: PrototypicalHeads, embedding: Tensor, other: Tensor) -> Tensor:
    """S(E(x′), E(x″)) of one pair."""
    first, leaky, _, last = heads.similarity
    return last(leaky(first(torch.cat([other, embedding])))).squeeze()  # type: ignore[no-any-return]


def written_out(heads: PrototypicalHeads, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """L_class, L_pair and L_aux of equations 2 and 3, one example and one trial at a time."""
    of_class, auxiliary = [], []
    targets, others = [], []
    for i, label in enumerate(labels.tolist()):
        logits = torch.stack([score(heads, embeddings[i], prototype) for prototype in heads.prototypes])
        of_class.append(-logits[label] + logits.exp().sum().log())
        dense = heads.dense(embeddings[i])
        auxiliary.append(-dense[label] + dense.exp().sum().log())
        for j, other in enumerate(labels.tolist()):
            if i == j:
                continue
            probability = torch.sigmoid(score(heads, embeddings[i], embeddings[j]))
            (targets if label == other else others).append(-(probability if label == other else 1 - probability).log())
    zero = embeddings.sum() * 0
    mean = lambda terms: torch.stack(terms).mean() if terms else zero  # noqa: E731
    return {"class": mean(of_class), "pair": mean(targets) + mean(others), "auxiliary": mean(auxiliary)}


@given(
    st.integers(1, 9), st.integers(1, 6), st.sampled_from(["any", "one class", "all distinct"]),
    st.sampled_from([(1.0, 1.0), (0.5, 2.0), (0.0, 1.0), (1.0, 0.0)]), devices(), seeds(),
)  # fmt: skip
def test_the_loss_and_its_gradients_are_the_equations(
    batch: int, classes: int, kind: str, weights: tuple[float, float], device: str, seed: int
) -> None:
    torch.manual_seed(seed)
    heads = PrototypicalHeads(max(classes, batch), 4, 8, dropout=0.0).to(device, torch.float64)
    labels = {
        "any": torch.randint(classes, (batch,)),
        "one class": torch.zeros(batch, dtype=torch.int64),
        "all distinct": torch.randperm(batch),
    }[kind].to(device)
    pair, auxiliary = weights
    loss = PrototypicalLoss(heads, pair_weight=pair, auxiliary_weight=auxiliary)
    embeddings = values((batch, 4), torch.float64, device, seed).requires_grad_()
    parameters = [embeddings, *heads.parameters()]
    actual = loss(embeddings, labels)
    terms = written_out(heads, embeddings, labels)
    expected = terms["class"] + pair * terms["pair"] + auxiliary * terms["auxiliary"]
    torch.testing.assert_close(actual, expected)
    found = torch.autograd.grad(actual, parameters, allow_unused=True, materialize_grads=True)
    wanted = torch.autograd.grad(expected, parameters, allow_unused=True, materialize_grads=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-6)
    shown = {"class": 1.0, "pair": pair, "auxiliary": auxiliary}
    assert set(loss.parts) == {f"loss/{name}" for name, weight in shown.items() if weight}
    for name, weight in shown.items():
        if weight:
            torch.testing.assert_close(loss.parts[f"loss/{name}"], (weight * terms[name]).detach())


def test_pair_loss_of_extreme_scores_is_finite_and_exact() -> None:
    scores = torch.tensor([[0.0, 500.0, -500.0], [500.0, 0.0, 500.0], [-500.0, 500.0, 0.0]], requires_grad=True)
    labels = torch.tensor([0, 0, 1])
    # T+: two trials of score 500, cost 0. T-: −500, −500, 500, 500.
    value = pair_loss(scores, labels)
    assert value.item() == pytest.approx(1000 / 4)
    (gradient,) = torch.autograd.grad(value, scores)
    assert gradient.isfinite().all() and gradient[0, 2] == 0 and gradient[1, 2] == 0.25
    assert torch.equal(gradient.diagonal(), torch.zeros(3))


def test_label_smoothing_is_of_both_cross_entropies() -> None:
    torch.manual_seed(0)
    heads = PrototypicalHeads(3, 4, 8, dropout=0.0).double()
    embeddings, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    smooth = PrototypicalLoss(heads, label_smoothing=0.2)
    smooth(embeddings, labels)
    for part, logits in (("class", heads.logits(embeddings)), ("auxiliary", heads.logits(embeddings, "dense"))):
        targets = torch.nn.functional.one_hot(labels, 3) * 0.8 + 0.2 / 3
        expected = -(targets * logits.log_softmax(1)).sum(1).mean()
        torch.testing.assert_close(smooth.parts[f"loss/{part}"], expected.detach())


def method(adversarial: str = "none", **options: object) -> Prototypes:
    torch.manual_seed(3)
    embedder = build_embedder("small", channels=1, embedding_dim=6, unit_length=False)
    loss = PrototypicalLoss(PrototypicalHeads(4, 6, 8))
    return Prototypes(embedder, loss, adversarial, PGD(0.2, 3, 0.1, random_start=0.1), **options)  # type: ignore[arg-type]


def batch(count: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(5)
    return Batch(torch.rand(count, 1, 8, 8, generator=generator), torch.arange(count) % 4)


def test_a_step_moves_prototypes_before_the_loss_and_without_gradient() -> None:
    made, images = method(), batch()
    before = made.loss.heads.prototypes.clone()
    twin = copy.deepcopy(made)
    output = made.train().training_step(images, torch.Generator().manual_seed(1), Context())
    embeddings = twin.train().embedder(images.images)
    expected = torch.stack([embeddings[images.labels == label].mean(0) for label in range(4)])
    torch.testing.assert_close(made.loss.heads.prototypes, 0.9 * before + 0.1 * expected.detach())
    # The loss of the very prototypes that were just moved.
    twin.loss.heads.prototypes.copy_(made.loss.heads.prototypes)
    again = twin.loss(embeddings, images.labels, torch.Generator().manual_seed(1))
    torch.testing.assert_close(output.loss, again)
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert set(output.log) == {"loss/class", "loss/pair", "loss/auxiliary"}


@pytest.mark.parametrize("attacked", ["similarity", "dense", "both"])
def test_attacked_images_climb_the_cross_entropy_of_their_heads(attacked: str) -> None:
    made, images = method(attacked).train(), batch()
    state = copy.deepcopy(made.state_dict())
    moved = made.perturb(images, torch.Generator().manual_seed(1), Context())
    assert (moved - images.images).abs().max() <= 0.2 + 1e-6 and moved.min() >= 0 and moved.max() <= 1
    assert made.training and all(torch.equal(value, state[name]) for name, value in made.state_dict().items())

    def costs(pixels: Tensor) -> dict[str, Tensor]:
        seen = made.classifier().eval()
        found = {
            head: torch.nn.functional.cross_entropy(seen.logits(pixels, head), images.labels)
            for head in ("similarity", "dense")
        }
        made.train()
        return found

    clean, after = costs(images.images), costs(moved)
    heads = ("similarity", "dense") if attacked == "both" else (attacked,)
    assert sum(after[head] for head in heads) > sum(clean[head] for head in heads) + 1e-4


def test_adversarial_batches_are_alone_or_with_the_clean_one() -> None:
    seen: list[tuple[int, int]] = []
    for name in ("alone", "joint"):
        made = method("dense", adversarial_batch=name).train()
        forward = made.loss.forward

        def noting(embeddings: Tensor, labels: Tensor, generator: torch.Generator, forward=forward) -> Tensor:  # type: ignore[no-untyped-def]
            seen.append((len(embeddings), len(labels)))
            return forward(embeddings, labels, generator)  # type: ignore[no-any-return]

        made.loss.forward = noting  # type: ignore[method-assign]
        made.training_step(batch(), torch.Generator().manual_seed(1), Context())
    assert seen == [(8, 8), (16, 16)]


def test_a_joint_batch_pairs_each_image_with_its_label_and_draws_two_dropouts() -> None:
    """Labels come in no order, so that repeating each, in place of all, would be seen."""
    made = method("dense", adversarial_batch="joint").train()
    images = Batch(batch().images, torch.tensor([3, 0, 0, 2, 1, 3, 2, 1]))
    seen: list[tuple[Tensor, ...]] = []
    masks: list[int] = []
    forward, score = made.loss.forward, made.loss.heads.similarity.forward

    def noting(embeddings: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
        seen.append((embeddings.detach(), labels))
        return forward(embeddings, labels, generator)

    def scoring(embeddings: Tensor, prototypes: Tensor, seed: Tensor | None = None) -> Tensor:
        masks.extend([] if seed is None else seed.tolist())
        return score(embeddings, prototypes, seed)

    made.loss.forward = noting  # type: ignore[method-assign]
    made.loss.heads.similarity.forward = scoring  # type: ignore[method-assign]
    made.training_step(images, torch.Generator().manual_seed(1), Context())
    ((embeddings, labels),) = seen
    assert torch.equal(labels, torch.cat([images.labels, images.labels]))
    assert embeddings.shape == (16, 6) and len(set(masks)) == 2


def test_a_seed_gives_one_step_and_another_seed_another() -> None:
    losses = [
        method("both").train().training_step(batch(), torch.Generator().manual_seed(seed), Context()).loss.item()
        for seed in (1, 1, 2)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_the_step_compiles_and_runs_under_autocast() -> None:
    made = method().train()
    with torch.autocast("cpu", torch.bfloat16):
        loss = made.training_step(batch(), torch.Generator().manual_seed(1), Context()).loss
    assert loss.dtype == torch.float32 and math.isfinite(loss.item())
    heads = PrototypicalHeads(4, 6, 8, dropout=0.0)
    embeddings, labels = torch.randn(8, 6), torch.arange(8) % 4
    loss = PrototypicalLoss(heads)
    compiled = torch.compile(lambda x: loss.heads.logits(x, "both"), fullgraph=True)
    torch.testing.assert_close(compiled(embeddings), loss.heads.logits(embeddings, "both"))
    assert math.isfinite(loss(embeddings, labels).item())


def test_errors_name_the_argument() -> None:
    embedder: Embedder = build_embedder("small", channels=1, embedding_dim=6)
    heads = PrototypicalHeads(4, 6, 8)
    loss = PrototypicalLoss(heads)
    with pytest.raises(TypeError, match="loss: expected a PrototypicalLoss, got TripletLoss"):
        Prototypes(embedder, TripletLoss())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="adversarial: expected one of none, similarity, dense, both, got 'cosine'"):
        Prototypes(embedder, loss, "cosine")
    with pytest.raises(ValueError, match="adversarial_batch"):
        Prototypes(embedder, loss, "dense", adversarial_batch="half")
    with pytest.raises(ValueError, match="auxiliary_weight"):
        Prototypes(embedder, PrototypicalLoss(heads, auxiliary_weight=0), "both")
    for name, number, error in (
        ("pair_weight", -1.0, ValueError), ("auxiliary_weight", math.nan, ValueError),
        ("label_smoothing", 1.0, ValueError), ("pair_weight", "much", TypeError),
    ):  # fmt: skip
        with pytest.raises(error, match=name):
            PrototypicalLoss(heads, **{name: number})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch: expected at least one image"):
        method().training_step(Batch(torch.empty(0, 1, 8, 8), torch.empty(0, dtype=torch.int64)),
                               torch.Generator(), Context())  # fmt: skip
