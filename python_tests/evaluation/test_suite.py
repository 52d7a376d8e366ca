from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from robustdml_ext import data, evaluation


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
    with pytest.raises(ValueError, match="empty"):
        evaluation.embed(model, [])


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
