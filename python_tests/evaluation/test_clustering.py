from __future__ import annotations

from itertools import combinations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import normalized_mutual_info_score
from sklearn.metrics.cluster import pair_confusion_matrix

from robustdml_ext.evaluation import f1, kmeans, nmi


@st.composite
def labelings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(1, 60))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    kinds = [
        np.zeros(count, dtype=np.int32),
        np.arange(count),
        random.integers(-4, 4, count),
        random.integers(0, max(1, count // 2), count) * 10**15,
    ]
    first, second = draw(st.sampled_from(kinds)), draw(st.sampled_from(kinds))
    return random.permutation(first), second


@given(labelings())
def test_nmi_equals_scikit_learns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = normalized_mutual_info_score(pair[1], pair[0], average_method="arithmetic")
    assert nmi(*pair) == pytest.approx(expected, abs=1e-12)
    assert nmi(torch.from_numpy(pair[0]), torch.from_numpy(pair[1])) == nmi(*pair)


@given(labelings())
def test_f1_counts_pairs(pair: tuple[np.ndarray, np.ndarray]) -> None:
    guesses = {p for p in combinations(range(len(pair[0])), 2) if pair[0][p[0]] == pair[0][p[1]]}
    truths = {p for p in combinations(range(len(pair[0])), 2) if pair[1][p[0]] == pair[1][p[1]]}
    if not guesses and not truths:
        assert f1(*pair) == 1.0
        return
    precision = len(guesses & truths) / len(guesses) if guesses else 0.0
    recall = len(guesses & truths) / len(truths) if truths else 0.0
    harmonic = 2 * precision * recall / (precision + recall) if guesses & truths else 0.0
    assert f1(*pair) == pytest.approx(harmonic, rel=1e-12)


def test_f1_past_int32() -> None:
    count = 200_000  # 2e10 pairs
    half = np.arange(count, dtype=np.int32) % 2
    assert f1(np.zeros(count, dtype=np.int32), half) == pytest.approx(2 / 3, rel=1e-4)
    (_, false_positive), (false_negative, positive) = pair_confusion_matrix(half, half[::-1].copy())
    expected = 2 * positive / (2 * positive + false_positive + false_negative)
    assert f1(half[::-1].copy(), half) == expected == 1.0


def test_figures_of_the_same_partition_under_other_names() -> None:
    labels = np.array([3, 3, 1, 1, 2])
    assert nmi(labels * -5, labels) == pytest.approx(1) and f1(labels * -5, labels) == 1


@pytest.mark.parametrize("figure", [nmi, f1])
def test_wrong_labelings(figure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="empty"):
        figure(np.array([], dtype=int), np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"\[2\]"):
        figure(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="integers"):
        figure(np.array([0.0, 1.0]), np.array([0, 1]))


def blobs(dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    return (random.normal(size=(6, 8))[labels] * 10 + random.normal(size=(300, 8))).astype(dtype), labels


def test_kmeans_is_faiss() -> None:
    points, _ = blobs()
    search = faiss.Kmeans(8, 9, niter=20, seed=5, max_points_per_centroid=300, min_points_per_centroid=1)
    search.train(points)
    assert kmeans(points, 9, seed=5).tolist() == search.index.search(points, 1)[1][:, 0].tolist()


def test_kmeans_finds_separated_classes_whatever_the_type_and_scale() -> None:
    points, labels = blobs(np.float64)
    clusters = kmeans(points, 6, seed=0, restarts=5)
    assert clusters.dtype == np.int64 and nmi(clusters, labels) == pytest.approx(1)
    for scale in (2.0**-300, 2.0**300):
        assert kmeans(points * scale, 6, seed=0, restarts=5).tolist() == clusters.tolist()
    assert kmeans(torch.from_numpy(points), 6, seed=0, restarts=5).tolist() == clusters.tolist()


def test_kmeans_repeats_by_seed_and_uses_every_point() -> None:
    points, _ = blobs()
    runs = {seed: kmeans(points, 12, seed).tolist() for seed in range(5)}
    assert runs[3] == kmeans(points, 12, 3).tolist() and len(set(map(tuple, runs.values()))) > 1
    random = np.random.default_rng(0)
    many = random.normal(size=(2000, 2)).astype(np.float32)  # faiss alone would sample 256 a cluster
    mine = kmeans(many, 2, 0)
    centers = np.stack([many[mine == c].mean(0) for c in range(2)])
    moved = ((many[:, None] - centers) ** 2).sum(2).argmin(1)
    assert (moved == mine).mean() > 0.99
    kmeans(points, 6, seed=2**63)


def test_kmeans_on_few_or_equal_points() -> None:
    assert kmeans(np.ones((1, 3)), 1, 0).tolist() == [0]
    assert sorted(kmeans(np.eye(4), 4, 0).tolist()) == [0, 1, 2, 3]
    assert len(kmeans(np.ones((10, 3)), 4, 0)) == 10
    assert len(kmeans(np.zeros((10, 3)), 4, 0)) == 10


@pytest.mark.parametrize("settings", [{"clusters": 0}, {"clusters": 5}, {"clusters": 2, "iterations": 0}])
def test_wrong_arguments(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        kmeans(np.eye(4), seed=0, **settings)


def test_nan_is_named() -> None:
    with pytest.raises(ValueError, match="NaN"):
        kmeans(np.full((4, 2), np.nan), 2, 0)
