"""Where k-means begins: k-means++ against its definition, and the random start."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kmeans_cases import clustered

from robustdml_ext.evaluation import kmeans_start
from robustdml_ext.evaluation.kmeans import fit_kmeans
from robustdml_ext.ops.neighbors import nearest_centroid


def probability(points: list[float], drawn: tuple[int, ...]) -> float:
    """Of k-means++ drawing these points in this order, from its definition."""
    result = 1 / len(points)
    for i in range(1, len(drawn)):
        squares = [min((x - points[j]) ** 2 for j in drawn[:i]) for x in points]
        result *= squares[drawn[i]] / sum(squares)
    return result


def test_start_of_kmeans_plus_plus_has_its_distribution() -> None:
    points = [0.0, 1.0, 1.5, 4.0, 4.5, 9.0]
    expected: dict[frozenset[int], float] = {}
    for drawn in permutations(range(6), 4):
        expected[frozenset(drawn)] = expected.get(frozenset(drawn), 0.0) + probability(points, drawn)
    generator = torch.Generator().manual_seed(0)
    rounds = 4000
    counts = dict.fromkeys(expected, 0)
    for _ in range(rounds):
        start = kmeans_start.plus_plus(torch.tensor(points)[:, None], 4, generator)
        counts[frozenset(points.index(float(x)) for x in start.centroids[:, 0])] += 1
    chi_square = sum((counts[key] - rounds * p) ** 2 / (rounds * p) for key, p in expected.items())
    # 14 degrees of freedom: a right distribution goes beyond this once in 1000 seeds.
    assert chi_square < 36.1


@given(st.integers(1, 40), st.integers(0, 2**31), st.floats(0.01, 4))
def test_candidates_are_looked_at_in_turn(count: int, seed: int, level: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.randn(count, 2, generator=generator)
    levels = level * torch.rand(count, generator=generator, dtype=torch.float64)
    accepted: list[int] = []
    for i in range(count):
        if all(float((candidates[i] - candidates[j]).double().square().sum()) > levels[i] for j in accepted):
            accepted.append(i)
    assert torch.nonzero(kmeans_start._accepted(candidates, levels))[:, 0].tolist() == accepted


def test_kmeans_plus_plus_knows_the_nearest_of_its_points() -> None:
    whole = (8 * clustered(0)).round()  # no product of these is rounded
    for points, clusters in ((whole, 300), (whole[torch.arange(1500) // 10], 200)):
        start = kmeans_start.plus_plus(points, clusters, torch.Generator().manual_seed(0))
        index, square = nearest_centroid(points, start.centroids)
        assert torch.equal(start.nearest.which, index)
        assert torch.equal(start.nearest.square, square)
        assert len(start.centroids) == clusters


@pytest.mark.parametrize("init", kmeans_start.STARTS)
def test_no_point_is_drawn_twice(init: str) -> None:
    points = torch.tensor([0.0, 0, 0, 0, 0, 2, 2, 2, 7, 7])[:, None]
    for seed in range(5):
        start = kmeans_start.start(points, 10, init, torch.Generator().manual_seed(seed))
        assert sorted(start.centroids[:, 0].tolist()) == points[:, 0].tolist()


def test_kmeans_plus_plus_beats_the_random_start() -> None:
    points = clustered(0, width=8, spread=0.05)
    objectives = {
        init: np.mean([fit_kmeans(points, 300, seed=seed, init=init).objective for seed in range(4)])
        for init in kmeans_start.STARTS
    }
    assert objectives["k-means++"] < 0.8 * objectives["random"]
    assert math.isfinite(objectives["random"])
