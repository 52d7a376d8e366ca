from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from retrieval_cases import in_order, integer_embeddings, labels_for

from robustdml_ext.evaluation import rankings
from robustdml_ext.evaluation.retrieval import ranking_scores

FIGURES = ("map@r", "r_precision")


def brute_force(
    queries: np.ndarray,
    query_labels: np.ndarray,
    items: np.ndarray,
    item_labels: np.ndarray,
    distance: str,
    exclude_self: bool,
) -> dict[str, float]:
    """Musgrave et al.'s definitions, place by place."""
    average, precision = [], []
    for label, order in zip(query_labels, in_order(queries, items, distance, exclude_self), strict=True):
        relevant = [bool(item_labels[j] == label) for j in order]
        r = sum(relevant)
        if r == 0:
            continue
        precision.append(sum(relevant[:r]) / r)
        average.append(sum(sum(relevant[:i]) / i for i in range(1, r + 1) if relevant[i - 1]) / r)
    means = (np.mean(average), np.mean(precision)) if average else (math.nan, math.nan)
    return dict(zip(FIGURES, map(float, means), strict=True))


def close(expected: dict[str, float]) -> object:
    return pytest.approx(expected, abs=1e-9, nan_ok=True)


@given(integer_embeddings(), st.sampled_from([2.0**-60, 1.0, 3.0, 2.0**60]))
def test_ties_and_duplicates_by_lowest_index(data: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    embeddings, labels = data
    expected = brute_force(embeddings, labels, embeddings, labels, "euclidean", True)
    scaled = embeddings * embeddings.dtype.type(scale)
    got = ranking_scores(scaled, labels, distance="euclidean")
    assert got == close(expected) and list(got) == list(FIGURES)
    assert ranking_scores(torch.from_numpy(scaled), labels.tolist(), distance="euclidean") == close(expected)


@given(integer_embeddings(), st.data(), st.sampled_from([1, 4, 2**24]), st.sampled_from([2, 3, 8, 1024]))
def test_lists_of_any_length_from_blocks_and_parts(
    data: tuple[np.ndarray, np.ndarray], more: st.DataObject, entries: int, longest: int
) -> None:
    """The real limits are 1,024 places and 16 million; small ones send every case down every path."""
    items, item_labels = data
    count = more.draw(st.sampled_from([1, len(items), 13]))
    random = np.random.default_rng(len(items))
    queries = random.integers(-2, 3, (count, items.shape[1])).astype(np.float32)
    labels = random.choice(np.append(item_labels, 5), count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rankings, "LIST_ENTRIES", entries)
        patch.setattr(rankings, "BLOCK_ENTRIES", min(entries, 40))
        patch.setattr(rankings, "MOST_NEIGHBORS", longest)
        patch.setattr(rankings, "LENGTHS", (longest,) if longest < 8 else (2, 4, longest))
        got = ranking_scores(items, item_labels, distance="euclidean")
        assert got == close(brute_force(items, item_labels, items, item_labels, "euclidean", True))
        got = ranking_scores(queries, labels, items, item_labels, distance="euclidean")
        assert got == close(brute_force(queries, labels, items, item_labels, "euclidean", False))
        if count == len(items):
            got = ranking_scores(queries, labels, items, item_labels, distance="euclidean", exclude_self=True)
            assert got == close(brute_force(queries, labels, items, item_labels, "euclidean", True))
        got = ranking_scores(items, item_labels, distance="euclidean", exclude_self=False)
        assert got == close(brute_force(items, item_labels, items, item_labels, "euclidean", False))


@given(
    st.integers(2, 60),
    st.integers(2, 20),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["cosine", "euclidean"]),
    st.integers(0, 2**32),
    st.data(),
)
def test_random_embeddings_of_any_length(
    count: int, dims: int, dtype: type, distance: str, seed: int, more: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(count, dims)).astype(dtype)
    if distance == "cosine":
        embeddings *= 10.0 ** random.integers(-12, 13, (count, 1)).astype(dtype)
    labels = labels_for(more.draw, count)
    expected = brute_force(embeddings, labels, embeddings, labels, distance, True)
    assert ranking_scores(embeddings, labels, distance=distance) == close(expected)
    if distance == "euclidean":
        assert ranking_scores(embeddings, labels, distance=distance, backend="faiss") == close(expected)


def classes_of(sizes: list[int], spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    means = random.normal(size=(len(sizes), 8))
    return means[labels] + spread * random.normal(size=(len(labels), 8)), labels


def from_whole_matrix(embeddings: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    squares = ((embeddings[:, None] - embeddings[None]) ** 2).sum(2)
    np.fill_diagonal(squares, np.inf)
    relevant = labels[np.argsort(squares, axis=1, kind="stable")[:, :-1]] == labels[:, None]
    r = relevant.sum(1)
    place = np.arange(1, len(labels))
    relevant &= place <= r[:, None]
    scores = (relevant.cumsum(1) * relevant / place).sum(1) / r, relevant.sum(1) / r
    return {name: float(score.mean()) for name, score in zip(FIGURES, scores, strict=True)}


@pytest.mark.parametrize("sizes", [[1025, 1026, 2], [1600, 40], [3, 300, 17, 900, 64]])
def test_large_classes(sizes: list[int]) -> None:
    embeddings, labels = classes_of(sizes, 1.5)
    got = ranking_scores(embeddings, labels, distance="euclidean")
    assert got == close(from_whole_matrix(embeddings, labels)) and 0.1 < got["map@r"] < got["r_precision"] < 0.98
    # Many ties, every vector several times.
    embeddings = np.round(embeddings)
    got = ranking_scores(embeddings, labels, distance="euclidean")
    assert got == close(from_whole_matrix(embeddings, labels))


def test_pytorch_metric_learning() -> None:
    embeddings, labels = classes_of([7, 1, 30, 2, 12, 1, 25], 1.2)
    embeddings = embeddings.astype(np.float32)
    calculator = AccuracyCalculator(
        include=("mean_average_precision_at_r", "r_precision"), k="max_bin_count", device=torch.device("cpu")
    )
    theirs = calculator.get_accuracy(embeddings, labels)
    expected = {"map@r": theirs["mean_average_precision_at_r"], "r_precision": theirs["r_precision"]}
    got = ranking_scores(embeddings, labels, distance="euclidean")
    assert got == close(expected) and 0.2 < got["map@r"] < got["r_precision"] < 0.9
    # The two queries that are alone in their class are left out by both.
    halves = [embeddings[::2].copy(), labels[::2], embeddings[1::2].copy(), labels[1::2]]
    theirs = calculator.get_accuracy(*halves)
    got = ranking_scores(*halves, distance="euclidean")
    assert got == close({"map@r": theirs["mean_average_precision_at_r"], "r_precision": theirs["r_precision"]})


@given(integer_embeddings())
def test_pytorch_metric_learning_given_the_same_order(data: tuple[np.ndarray, np.ndarray]) -> None:
    """With ties, its figures of our order: faiss puts equal distances in an order of its own."""
    embeddings, labels = data
    labels = np.unique(labels, return_inverse=True)[1]  # it compares labels in float32
    order = torch.tensor(in_order(embeddings, embeddings, "euclidean", True), dtype=torch.int64)
    if len(labels) == 1:
        return
    calculator = AccuracyCalculator(
        include=("mean_average_precision_at_r", "r_precision"),
        knn_func=lambda query, k, *_: (None, order[:, :k]),
        device=torch.device("cpu"),
    )
    theirs = calculator.get_accuracy(embeddings, labels)
    expected = {"map@r": theirs["mean_average_precision_at_r"], "r_precision": theirs["r_precision"]}
    assert ranking_scores(embeddings, labels, distance="euclidean") == close(expected)


def test_by_hand() -> None:
    line = np.array([[0.0], [1.0], [2.0], [4.0], [8.0]])
    # From 0: 1, 0; from 2: 0 (the nearer 1 is of class 1), 1; and so on: precisions (1/2, 0, 1/2, 0, 0) of R = 2, 1, 2.
    got = ranking_scores(line, [0, 1, 0, 0, 1], distance="euclidean")
    assert got["r_precision"] == pytest.approx((1 / 2 + 0 + 1 / 2 + 1 / 2 + 0) / 5)
    assert got["map@r"] == pytest.approx((1 / 4 + 0 + 1 / 4 + 1 / 2 + 0) / 5)
    assert ranking_scores(line, [3] * 5) == dict.fromkeys(FIGURES, 1.0)
    assert ranking_scores(np.ones((1, 2)), [3]) == pytest.approx(dict.fromkeys(FIGURES, math.nan), nan_ok=True)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="row 0"):
        ranking_scores(np.full((1, 1), np.nan), [0])
    with pytest.raises(ValueError, match="together"):
        ranking_scores(np.eye(2), [0, 1], np.eye(2))
    with pytest.raises(ValueError, match="backend"):
        ranking_scores(np.eye(2), [0, 1], backend="")
