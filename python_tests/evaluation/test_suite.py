from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from robustdml_ext import data, evaluation
from robustdml_ext.evaluation.chance import ami
from robustdml_ext.evaluation.pairs import all_pairs_eer
from robustdml_ext.evaluation.retrieval import ranking_scores
from robustdml_ext.evaluation.spectrum import rho_spectrum
from robustdml_ext.evaluation.suite import embed


def blobs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(12)
    return torch.randn(8, 6, generator=generator)[labels] + torch.randn(96, 6, generator=generator) / 2, labels


def test_every_figure_under_its_name() -> None:
    embeddings, labels = blobs()
    figures = evaluation.evaluate(embeddings, labels, recall_at=(1, 5))
    assert list(figures) == ["recall@1", "recall@5", "nmi", "f1", "pi_intra", "pi_inter", "pi_ratio"]
    assert all(type(value) is float for value in figures.values())
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    clusters = evaluation.kmeans(unit, 8, 0)
    assert figures["nmi"] == evaluation.nmi(clusters, labels) and figures["f1"] == evaluation.f1(clusters, labels)
    assert figures["recall@5"] == evaluation.recall_at_k(unit, labels, 5)[5]
    assert figures["pi_ratio"] == pytest.approx(evaluation.density(embeddings, labels)["pi_ratio"])
    assert 0.5 < figures["nmi"] < 1 and 0.5 < figures["recall@1"] < 1


def test_repeats_and_is_free_of_scale_and_container() -> None:
    embeddings, labels = blobs()
    figures = evaluation.evaluate(embeddings, labels)
    assert evaluation.evaluate(embeddings, labels) == figures
    assert evaluation.evaluate(embeddings.numpy(), labels.numpy()) == figures
    assert evaluation.evaluate(embeddings * 1024, labels * 7 - 3) == figures
    lengths = 2.0 ** torch.randint(-20, 20, (96, 1), generator=torch.Generator().manual_seed(1))
    assert evaluation.evaluate(embeddings * lengths, labels) == figures
    assert evaluation.evaluate(embeddings * lengths, labels, distance="euclidean") != figures
    assert evaluation.evaluate(embeddings.requires_grad_(), labels, device="cpu") == figures


ALL = [
    "recall@1",
    "map@r",
    "r_precision",
    "nmi",
    "f1",
    "ami",
    "pi_intra",
    "pi_inter",
    "pi_ratio",
    "rho_spectrum",
    "eer",
]


def test_all_groups() -> None:
    embeddings, labels = blobs()
    figures = evaluation.evaluate(embeddings, labels, recall_at=(1,), metrics="all")
    assert list(figures) == ALL and all(type(value) is float for value in figures.values())
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    clusters = evaluation.kmeans(unit, 8, 0)
    assert figures["ami"] == ami(clusters, labels)
    assert figures["map@r"] == ranking_scores(embeddings, labels)["map@r"]
    assert figures["rho_spectrum"] == pytest.approx(rho_spectrum(embeddings), abs=1e-12)
    assert figures["eer"] == pytest.approx(all_pairs_eer(embeddings, labels), abs=1e-9)
    for name in ("recall", "ranking", "clustering", "ami", "density", "spectrum", "verification"):
        part = evaluation.evaluate(embeddings, labels, recall_at=(1,), metrics=name)
        assert part and part == {key: figures[key] for key in part}
    some = evaluation.evaluate(embeddings, labels, recall_at=(1,), metrics=("verification", "ami", "recall"))
    assert list(some) == ["recall@1", "ami", "eer"]
    assert list(evaluation.evaluate(embeddings, labels, metrics=["spectrum", "ami"], clustering=False)) == [
        "rho_spectrum"
    ]
    default = evaluation.evaluate(embeddings, labels, metrics="default")
    assert default == evaluation.evaluate(embeddings, labels)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_queries_against_a_gallery(distance: str) -> None:
    embeddings, labels = blobs()
    embeddings = embeddings.double() * torch.linspace(0.5, 2, 96)[:, None]
    query = torch.arange(96) % 3 == 0
    split = {"gallery": embeddings[~query], "gallery_labels": labels[~query]}
    options = {"recall_at": (1, 3), "distance": distance, "metrics": "all"}
    figures = evaluation.evaluate(embeddings[query], labels[query], **split, **options)
    scaled = embeddings / embeddings.norm(dim=1, keepdim=True) if distance == "cosine" else embeddings
    sides = [scaled[query], labels[query], scaled[~query], labels[~query]]
    recalls = evaluation.recall_at_k(sides[0], sides[1], (1, 3), sides[2], sides[3], distance)
    assert figures["recall@1"] == recalls[1] and figures["recall@3"] == recalls[3]
    assert figures["map@r"] == pytest.approx(ranking_scores(*sides, distance=distance)["map@r"], abs=1e-12)
    assert figures["eer"] == pytest.approx(all_pairs_eer(*sides, distance=distance), abs=1e-7)
    # One set, queries first.
    both, names = torch.cat([scaled[query], scaled[~query]]), torch.cat([labels[query], labels[~query]])
    together = evaluation.evaluate(both, names, **options)
    for name in ("nmi", "f1", "ami", "pi_intra", "pi_inter", "pi_ratio", "rho_spectrum"):
        assert figures[name] == pytest.approx(together[name], abs=1e-12), name
    for name in ("recall@1", "map@r", "eer"):
        assert figures[name] != together[name], name


def test_gallery_of_another_container_and_more_classes() -> None:
    embeddings, labels = blobs()
    figures = evaluation.evaluate(
        embeddings[:24].numpy(),
        labels[:24].tolist(),
        gallery=embeddings[12:].double(),
        gallery_labels=labels[12:].int(),
    )
    assert figures["nmi"] > 0.5 and 0 <= figures["recall@1"] < 1  # class 0 is not in the gallery
    with pytest.raises(ValueError, match="together"):
        evaluation.evaluate(embeddings, labels, gallery=embeddings)
    with pytest.raises(ValueError, match="gallery must have the queries' 6 dimensions, got 2"):
        evaluation.evaluate(embeddings, labels, gallery=np.eye(2), gallery_labels=[0, 1])
    with pytest.raises(ValueError, match=r"gallery_labels must have shape \[2\]"):
        evaluation.evaluate(embeddings, labels, gallery=np.eye(2), gallery_labels=[0])
    with pytest.raises(ValueError, match=r"gallery must be finite; 1 of 96 rows.*the first is row 5"):
        broken = embeddings.clone()
        broken[5, 0] = torch.nan
        evaluation.evaluate(embeddings, labels, gallery=broken, gallery_labels=labels)


def test_faiss_backend_agrees_where_nothing_ties() -> None:
    embeddings, labels = blobs()
    own = evaluation.evaluate(embeddings, labels, metrics=("recall", "ranking"))
    assert evaluation.evaluate(embeddings, labels, metrics=("recall", "ranking"), backend="faiss") == own
    figures = evaluation.evaluate(embeddings, labels, backend="faiss")
    clusters = evaluation.kmeans(embeddings / embeddings.norm(dim=1, keepdim=True), 8, 0, backend="faiss")
    assert figures["nmi"] == evaluation.nmi(clusters, labels)


def test_undefined_figures_are_nan() -> None:
    embeddings = blobs()[0][:5]
    for labels in ([1] * 5, list(range(5))):
        figures = evaluation.evaluate(embeddings, labels, metrics="all")
        assert math.isnan(figures["eer"]) and math.isnan(figures["pi_ratio"])
    assert math.isnan(figures["map@r"]) and figures["recall@1"] == 0
    assert figures["nmi"] == figures["ami"] == figures["f1"] == 1  # every point its own cluster


def test_wrong_groups() -> None:
    embeddings, labels = blobs()
    for metrics, message in (("everything", "got 'everything'"), (["recall", "ppr"], "got 'ppr'"), ((), "got none")):
        with pytest.raises(ValueError, match=f"metrics must be 'default', 'all' or groups out of recall,.*{message}"):
            evaluation.evaluate(embeddings, labels, metrics=metrics)
    with pytest.raises(ValueError, match="backend must be one of own, faiss, got 'cuml'"):
        evaluation.evaluate(embeddings, labels, backend="cuml")


def test_without_clustering() -> None:
    assert set(evaluation.evaluate(*blobs(), clustering=False)) == {
        *(f"recall@{k}" for k in (1, 2, 4, 8)),
        "pi_intra",
        "pi_inter",
        "pi_ratio",
    }


def test_perfect_and_worst() -> None:
    labels = np.repeat(np.arange(4), 3)
    figures = evaluation.evaluate(np.eye(4)[labels], labels, seed=1)
    assert figures["recall@1"] == 1 and figures["pi_ratio"] == pytest.approx(0, abs=1e-12)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.evaluate(np.full((12, 3), np.nan), labels)


class Flatten(nn.Module):
    """Flattens; its batch norms tell whether eval mode was on, and whether a frozen one stays frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.frozen = nn.BatchNorm2d(1).eval()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor) -> Tensor:
        return self.frozen(self.norm(images)).flatten(1) * self.weight


def test_embed_takes_splits_loaders_data_sets_and_lists() -> None:
    test = data.load("digits").test
    model = Flatten()
    images, labels = test.batch(range(len(test)))
    with torch.no_grad():
        expected = Flatten().eval()(images)
    sources = [
        test,
        data.evaluation_batches(test, 100),
        TensorDataset(images, labels),
        list(zip(images.split(50), labels.split(50), strict=True)),
    ]
    for source in sources:
        embeddings, got = evaluation.embed(model, source, batch_size=64)  # type: ignore[arg-type]
        assert torch.equal(embeddings, expected) and torch.equal(got, labels)
        assert embeddings.dtype == torch.float32 and not embeddings.requires_grad
        assert not embeddings.is_inference()
        assert model.training and model.norm.training and not model.frozen.training
    assert model.norm.num_batches_tracked == 0


def test_embed_puts_modes_back_after_an_error() -> None:
    model = Flatten()
    with pytest.raises(TypeError, match=r"\[3, D\], got \[3, 1, 8, 8\]"):
        unflattened = nn.Sequential(model, nn.Unflatten(1, (1, 8, 8)))
        evaluation.embed(unflattened, [(torch.rand(3, 1, 8, 8), torch.arange(3))])
    assert model.training
    with pytest.raises(ValueError, match="images: expected at least one, got none"):
        evaluation.embed(model, [])
    assert model.training


def test_embed_without_any_image_and_with_batches_of_none() -> None:
    class Reshaped(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.reshape(len(images), -1)  # raises an obscure error of its own where there are none

    images, labels = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(5)
    none = images[:0], labels[:0]
    for source in (none, [none, none], []):
        with pytest.raises(ValueError, match="images: expected at least one, got none"):
            embed(Reshaped(), source)
    embeddings, found = embed(Reshaped(), [none, (images, labels), none])
    assert torch.equal(embeddings, images.flatten(1)) and torch.equal(found, labels)


def test_embed_half_precision_and_models_without_parameters() -> None:
    batches = [(torch.rand(3, 1, 2, 2), torch.arange(3, dtype=torch.int32))]
    embeddings, labels = evaluation.embed(nn.Flatten(), batches)
    assert torch.equal(embeddings, batches[0][0].flatten(1)) and labels.dtype == torch.int64

    class Half(nn.Flatten):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).bfloat16()

    assert evaluation.embed(Half(), batches)[0].dtype == torch.float32


def test_figures_of_untrained_digits() -> None:
    test = data.load("digits").test
    figures = evaluation.evaluate(*evaluation.embed(nn.Flatten(), test))
    assert figures["recall@1"] > 0.97 and 0.6 < figures["nmi"] < 1 and 0.5 < figures["pi_ratio"] < 1.5


@pytest.mark.parametrize("convert", [lambda x: x, lambda x: x.numpy()], ids=["torch", "numpy"])
def test_a_pair_of_arrays_is_read_in_batches(convert: Callable[[Tensor], Any]) -> None:
    images, labels = torch.rand(10, 1, 4, 4), torch.arange(10) % 3
    sizes: list[int] = []

    class Seen(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            sizes.append(len(pixels))
            return pixels.flatten(1)

    embeddings, found = embed(Seen(), (convert(images), convert(labels)), batch_size=4)
    assert torch.equal(embeddings, images.flatten(1)) and torch.equal(found, labels) and sizes == [4, 4, 2]
    with pytest.raises(ValueError, match="as many labels as images, got 10 and 9"):
        embed(Seen(), (images, labels[:9]))
