from __future__ import annotations

import time
from itertools import combinations, permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from scipy import sparse
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information, pair_confusion_matrix

from robustdml_ext.evaluation import chance
from robustdml_ext.evaluation.chance import adjusted_rand_index, ami
from robustdml_ext.evaluation.clustering import f1, nmi, purity
from robustdml_ext.evaluation.contingency import Contingency

AVERAGES = ("arithmetic", "geometric", "min", "max")


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
    assert nmi(pair[0].tolist(), tuple(pair[1].tolist())) == nmi(*pair)
    for average in AVERAGES:
        expected = normalized_mutual_info_score(pair[1], pair[0], average_method=average)
        assert nmi(*pair, average) == pytest.approx(expected, abs=1e-12)


@given(labelings(), st.sampled_from(AVERAGES))
def test_ami_equals_scikit_learns(pair: tuple[np.ndarray, np.ndarray], average: str) -> None:
    expected = adjusted_mutual_info_score(pair[1], pair[0], average_method=average)
    sizes = {len(np.unique(p)) for p in pair}
    if len(pair[0]) in sizes and average in ("min", "geometric") and nmi(*pair) < 1 - 1e-12:
        expected = 0.0  # scikit-learn divides two rounding errors here
    assert ami(*pair, average) == pytest.approx(expected, abs=1e-9)


def every_permutation(clusters: np.ndarray, labels: np.ndarray) -> float:
    """The mean information over all ways to deal the clusters out."""
    found = [Contingency.of(np.array(p), labels).information() for p in permutations(clusters.tolist())]
    return float(np.mean(found))


@pytest.mark.parametrize("clusters", [[0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 0, 0, 0, 1], [0, 1, 2, 3, 4, 5, 5]])
def test_expected_information_is_the_mean_over_permutations(clusters: list[int]) -> None:
    labels = np.array([0, 0, 0, 1, 1, 2, 2])
    table = Contingency.of(np.array(clusters), labels)
    assert chance._expected_information(table) == pytest.approx(every_permutation(np.array(clusters), labels))


def test_expected_information_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    clusters, labels = (np.repeat(np.arange(60), random.integers(1, 50, 60)) for _ in range(2))
    count = min(len(clusters), len(labels))
    clusters, labels = random.permutation(clusters[:count]), labels[:count]
    table = np.zeros((60, 60), dtype=np.int64)
    np.add.at(table, (clusters, labels), 1)
    table = table[table.sum(1) > 0][:, table.sum(0) > 0]
    expected = expected_mutual_information(sparse.csr_matrix(table), count)
    for terms in (1, 97, 2**20):
        monkeypatch.setattr(chance, "TERMS", terms)
        assert chance._expected_information(Contingency.of(clusters, labels)) == pytest.approx(expected, abs=1e-10)


def test_ami_of_ten_thousand_clusters_takes_no_time() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 11_316, 60_502)
    clusters = np.where(random.random(60_502) < 0.5, labels, random.permutation(labels))
    start = time.perf_counter()
    figure = ami(clusters, labels)
    assert time.perf_counter() - start < 2  # scikit-learn: twenty seconds
    assert 0.1 < figure < nmi(clusters, labels) - 0.1
    assert ami(random.permutation(labels), labels) == pytest.approx(0, abs=0.005)
    assert nmi(random.permutation(labels), labels) > 0.8


@given(labelings())
def test_adjusted_rand_index_equals_scikit_learns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert adjusted_rand_index(*pair) == pytest.approx(adjusted_rand_score(pair[1], pair[0]), abs=1e-12)


@given(labelings())
def test_purity_counts_majorities(pair: tuple[np.ndarray, np.ndarray]) -> None:
    most = [np.unique(pair[1][pair[0] == c], return_counts=True)[1].max() for c in np.unique(pair[0])]
    assert purity(*pair) == pytest.approx(sum(most) / len(pair[0]), abs=1e-15)


@given(labelings())
def test_f1_is_scikit_learns_pair_confusion(pair: tuple[np.ndarray, np.ndarray]) -> None:
    (_, false_positive), (false_negative, positive) = pair_confusion_matrix(*pair)
    pairs = 2 * positive + false_positive + false_negative
    assert f1(*pair) == pytest.approx(2 * positive / pairs if pairs else 1.0, rel=1e-12)


def test_pytorch_metric_learnings_nmi_and_ami() -> None:
    random = np.random.default_rng(3)
    labels = random.integers(0, 9, 200)
    clusters = np.where(random.random(200) < 0.6, labels, random.integers(0, 9, 200))
    calculator = AccuracyCalculator(
        include=("NMI", "AMI"), kmeans_func=lambda *_: torch.from_numpy(clusters), device=torch.device("cpu")
    )
    theirs = calculator.get_accuracy(np.eye(9, dtype=np.float32)[labels], labels)
    assert nmi(clusters, labels) == pytest.approx(theirs["NMI"], abs=1e-9)
    assert ami(clusters, labels) == pytest.approx(theirs["AMI"], abs=1e-9)
    assert 0 < ami(clusters, labels) < nmi(clusters, labels) < 1


def published_f1(clusters: np.ndarray, labels: np.ndarray) -> float:
    """As HDML's and Roth et al.'s code names things: precision over the pairs of classes, recall over clusters'."""
    count = [(sizes * (sizes - 1) // 2).sum() for sizes in (np.bincount(labels), np.bincount(clusters))]
    cells = np.unique(clusters * 1000 + labels, return_counts=True)[1]
    both = (cells * (cells - 1) // 2).sum()
    precision, recall = both / count[0], both / count[1]
    return float(2 * precision * recall / (precision + recall))


def test_published_f1_is_the_same() -> None:
    random = np.random.default_rng(1)
    for _ in range(10):
        labels, clusters = random.integers(0, 5, 50), random.integers(0, 7, 50)
        assert f1(clusters, labels) == pytest.approx(published_f1(clusters, labels), rel=1e-12)


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


def test_undefined_and_extreme_agreements() -> None:
    one, apart, half = np.zeros(6, dtype=int), np.arange(6), np.arange(6) // 2
    for average in AVERAGES:
        assert nmi(one, one, average) == ami(one, one, average) == ami(apart, apart, average) == 1
        assert ami(one, half, average) == ami(half, one, average) == 0
        assert ami(apart, half, average) == ami(half, apart, average) == 0
    assert adjusted_rand_index(one, apart) == 0 and adjusted_rand_index(apart, apart) == 1
    assert purity(apart, half) == 1 and purity(one, half) == pytest.approx(1 / 3)
    for figure in (nmi, ami):
        with pytest.raises(ValueError, match="average must be one of arithmetic, geometric, min, max, got 'mean'"):
            figure(one, one, "mean")


@pytest.mark.parametrize("figure", [nmi, f1, ami, adjusted_rand_index, purity])
def test_wrong_labelings(figure) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="empty"):
        figure(np.array([], dtype=int), np.array([], dtype=int))
    with pytest.raises(ValueError, match=r"\[2\]"):
        figure(np.array([0, 1]), np.array([0, 1, 2]))
    with pytest.raises(TypeError, match="integers"):
        figure(np.array([0.0, 1.0]), np.array([0, 1]))
