"""Clusters by voting: names that agree, votes, ties, and figures that names do not change."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from robustdml_ext.evaluation import ami, evaluate, f1, kmeans, nmi, voted_clusters
from robustdml_ext.evaluation.voting_clusters import aligned, assignment, voted


def labelings(members: int, images: int, names: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, names, (members, images))


def table_of(first: np.ndarray, second: np.ndarray, count: int) -> np.ndarray:
    table = np.zeros((count, count), dtype=np.int64)
    np.add.at(table, (first, second), 1)
    return table


def most_alike(first: np.ndarray, second: np.ndarray, count: int) -> int:
    """By every permutation of the names."""
    table = table_of(first, second, count)
    return max(sum(table[i, j] for i, j in enumerate(order)) for order in itertools.permutations(range(count)))


SEEDS = st.integers(0, 2**32)


@given(st.integers(1, 12), st.integers(1, 5), SEEDS)
def test_the_assignment_is_the_best_of_all(images: int, names: int, seed: int) -> None:
    first, second = labelings(2, images, names, seed)
    partner, alike = assignment(first, second, names)
    assert sorted(partner) == list(range(names))
    assert (partner[first] == second).sum() == alike == most_alike(first, second, names)


@given(st.integers(1, 400), st.integers(1, 90), SEEDS)
def test_the_sparse_assignment_is_as_good_as_the_dense_one(images: int, names: int, seed: int) -> None:
    first, second = labelings(2, images, names, seed)
    table = table_of(first, second, names)
    expected = table[linear_sum_assignment(table, maximize=True)].sum()
    assert assignment(first, second, names)[1] == expected


@given(st.integers(1, 4), st.integers(1, 10), st.integers(1, 4), SEEDS)
def test_members_are_aligned_with_the_one_that_overlaps_most(members: int, images: int, names: int, seed: int) -> None:
    given_names = labelings(members, images, names, seed)
    found = aligned(given_names)
    for before, after in zip(given_names, found, strict=True):
        # One name for another.
        assert len(set(zip(before, after, strict=True))) == len(set(before)) == len(set(after))
    alike = [[most_alike(a, b, names) for b in given_names] for a in given_names]
    sums = [sum(row) - row[i] for i, row in enumerate(alike)]
    reference = sums.index(max(sums))
    for i in range(members):
        assert (found[i] == found[reference]).sum() == alike[i][reference]


def test_the_reference_is_the_member_in_the_middle() -> None:
    # Member 3 shares five images of six with 1 and with 2, which share four; member 0 takes all images apart.
    third = np.array([0, 0, 0, 1, 1, 1])
    first, second = np.array([0, 0, 1, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 1])
    zeroth = np.array([0, 1, 2, 3, 4, 5])
    found = aligned(np.stack([zeroth, first, second, third]))
    assert [(row == found[3]).sum() for row in found] == [2, 5, 5, 6]
    assert (found[1] == found[2]).sum() == 4


@given(st.integers(1, 4), st.integers(1, 30), st.integers(1, 6), SEEDS, st.data())
def test_the_names_that_members_give_change_nothing(
    members: int, images: int, names: int, seed: int, more: st.DataObject
) -> None:
    before = labelings(members, images, names, seed)
    random = np.random.default_rng(more.draw(SEEDS))
    after = np.stack([random.permutation(names)[row] for row in before])
    distances = random.random((members, images))
    assert np.array_equal(aligned(before), aligned(after))
    assert np.array_equal(voted(aligned(before), distances), voted(aligned(after), distances))


@given(st.integers(1, 5), st.integers(0, 20), st.integers(1, 4), SEEDS)
def test_votes_against_counting(members: int, images: int, names: int, seed: int) -> None:
    given_names = labelings(members, images, names, seed)
    distances = np.random.default_rng(seed).integers(0, 3, (members, images)).astype(float)
    expected = []
    for image in range(images):
        counts = Counter(given_names[:, image])
        tied = [name for name, count in counts.items() if count == max(counts.values())]
        sure = min((distances[m, image], m) for m in range(members) if given_names[m, image] in tied)[1]
        expected.append(given_names[sure, image])
    assert voted(given_names, distances).tolist() == expected


def test_a_tie_goes_to_the_nearest_centroid_of_those_tied() -> None:
    names = np.array([[0], [0], [1], [1], [2]])
    assert voted(names, np.array([[0.4], [0.3], [0.2], [0.5], [0.1]])).tolist() == [1]
    assert voted(names, np.array([[0.4], [0.2], [0.2], [0.5], [0.1]])).tolist() == [0]


def points(count: int, classes: int, noise: float, seed: int, dims: int = 6) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    return random.normal(size=(classes, dims))[labels] + noise * random.normal(size=(count, dims)), labels


@pytest.mark.parametrize("count", [1, 2, 3, 4, 60])
@pytest.mark.parametrize("kind", ["classes", "one class", "all distinct"])
def test_one_member_and_members_all_alike(count: int, kind: str) -> None:
    embeddings, labels = points(count, 7, 0.6, seed=count)
    labels = {"classes": labels, "one class": labels * 0, "all distinct": np.arange(count)}[kind]
    alone = evaluate(embeddings, labels, metrics=("recall", "clustering", "ami"))
    three = np.concatenate([embeddings] * 3, 1)
    for matrix, voters in ((embeddings, [6]), (three, [6, 6, 6])):
        found = evaluate(matrix, labels, metrics=("recall", "clustering", "ami"), voters=voters)
        # But for the order in which the names of clusters are summed up over.
        assert found == pytest.approx(alone, abs=1e-12)
    clusters = voted_clusters(three, (6, 6, 6), 1, seed=0)
    assert clusters.dtype == np.int64 and clusters.tolist() == [0] * count


def test_voted_clusters_are_better_than_each_member_and_than_votes_on_names_as_they_come() -> None:
    random = np.random.default_rng(0)
    labels = np.arange(240) % 8
    members = []
    for seed in range(3):
        member = np.random.default_rng(seed).normal(size=(8, 16))[labels] + 0.3 * random.normal(size=(240, 16))
        lost = np.arange(240) // 40 % 3 == seed
        member[lost] = random.normal(size=(lost.sum(), 16))  # a third of the images says nothing to it
        members.append(member)
    together = np.concatenate([m / np.linalg.norm(m, axis=1, keepdims=True) for m in members], 1)
    found = evaluate(together, labels, metrics=("clustering", "ami"), voters=(16, 16, 16), seed=3)
    alone = [evaluate(m, labels, metrics=("clustering", "ami"), seed=3) for m in members]
    assert all(found[name] > max(one[name] for one in alone) + 0.1 for name in ("nmi", "f1", "ami"))
    clusters = voted_clusters(together, (16, 16, 16), 8, seed=3)
    assert found == {"nmi": nmi(clusters, labels), "f1": f1(clusters, labels), "ami": ami(clusters, labels)}
    names = np.stack([kmeans(m / np.linalg.norm(m, axis=1, keepdims=True), 8, seed=3) for m in members])
    assert nmi(voted(names, np.zeros(names.shape)), labels) < found["nmi"] - 0.1


def test_the_members_distances_decide_between_two() -> None:
    # Two clusters, around 0 and 90 degrees; member 1 is sure where member 0 is not.
    angles = np.array([0, 2, -2, 88, 90, 92, 44.0]), np.array([0, 2, -2, 88, 90, 92, 89.0])
    together = np.concatenate([np.stack([np.cos(a), np.sin(a)], 1) for a in map(np.deg2rad, angles)], 1)
    for order in ([0, 1, 2, 3], [2, 3, 0, 1]):
        clusters = voted_clusters(together[:, order], (2, 2), 2, seed=1)
        assert clusters[0] == clusters[2] != clusters[3] == clusters[5] == clusters[6]
    assert len(set(kmeans(together[:, :2], 2, seed=1)[[0, 6]])) == 1  # by member 0 alone


def test_queries_and_gallery_are_clustered_together() -> None:
    embeddings, labels = points(40, 5, 0.5, seed=1)
    both = {"voters": (2, 4), "metrics": "clustering"}
    apart = evaluate(embeddings[:15], labels[:15], gallery=embeddings[15:], gallery_labels=labels[15:], **both)
    assert apart == evaluate(embeddings, labels, **both)


def test_other_figures_are_of_the_members_side_by_side() -> None:
    embeddings, labels = points(40, 5, 0.5, seed=1)
    groups = ("ranking", "density", "spectrum", "verification")
    voted_ones = evaluate(torch.from_numpy(embeddings), labels, metrics=groups, voters=(2, 4))
    assert voted_ones == pytest.approx(evaluate(embeddings, labels, metrics=groups), abs=1e-12)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"voters": (2, 3)}, ValueError, r"add up to 6 columns, got \[2, 3\]"),
        ({"voters": ()}, ValueError, "add up to 6 columns"),
        ({"voters": (6, 0)}, ValueError, "at least 1"),
        ({"voters": 6}, TypeError, "voters: expected a sequence"),
        ({"voters": "6"}, TypeError, "voters: expected a sequence"),
        ({"voters": (2.0, 4.0)}, TypeError, "whole numbers"),
        ({"voters": (6,), "distance": "euclidean"}, ValueError, "voters: need distance 'cosine'"),
        ({"voters": (6,), "backend": "faiss"}, ValueError, "got 'cosine' and 'faiss'"),
    ],
)
def test_errors_name_the_argument(arguments: dict, error: type[Exception], message: str) -> None:
    embeddings, labels = points(10, 3, 0.5, seed=1)
    with pytest.raises(error, match=message):
        evaluate(embeddings, labels, metrics="density", **arguments)
