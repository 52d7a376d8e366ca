"""Lloyd's iterations against the plain algorithm: objective, ties, empty clusters, the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from kmeans_cases import blobs, clustered
from strategies import DEVICES
from torch import Tensor

from robustdml_ext import _load
from robustdml_ext.evaluation.kmeans import fit_kmeans
from robustdml_ext.evaluation.kmeans_lloyd import Nearest, Start, _reassign, iterate
from robustdml_ext.ops.neighbors import nearest_centroid


def lloyd(points: np.ndarray, centroids: np.ndarray, iterations: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Lloyd's algorithm as it is defined, in float64, for data that leave no cluster empty."""

    def squares() -> np.ndarray:
        return np.square(points[:, None] - centroids[None]).sum(2)

    for _ in range(iterations):
        nearest = squares().argmin(1)
        centroids = np.stack([points[nearest == k].mean(0) for k in range(len(centroids))])
    return squares().argmin(1), centroids, float(squares().min(1).sum())


def first_points(points: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """What the random start draws."""
    return points[torch.randperm(len(points), generator=torch.Generator().manual_seed(seed + 1))[:clusters].numpy()]


@pytest.mark.parametrize("device", DEVICES)
def test_separated_data_end_as_plain_lloyd_in_float64(device: str) -> None:
    points, _ = blobs(np.float64)
    for seed in range(5):
        start = first_points(points, 6, seed)
        assignment, centroids, objective = lloyd(points, start, 20)
        fit = fit_kmeans(torch.from_numpy(points).to(device), 6, seed=seed)
        assert fit.assignment.device.type == fit.centroids.device.type == device
        assert fit.assignment.tolist() == assignment.tolist()
        assert fit.objective == pytest.approx(objective, rel=1e-6)
        np.testing.assert_allclose(fit.centroids.cpu().numpy(), centroids, atol=1e-5)


@pytest.mark.parametrize("width", [3, 40])
@pytest.mark.parametrize("iterations", [1, 4, 20])
def test_random_data_reach_the_objective_of_plain_lloyd_in_float64(iterations: int, width: int) -> None:
    for seed in range(3):
        points = np.random.default_rng(seed).normal(size=(600, width)) + 50  # an offset that float32 would feel
        _, _, objective = lloyd(points, first_points(points, 20, seed), iterations)
        fit = fit_kmeans(points, 20, seed=seed, iterations=iterations)
        assert fit.objective == pytest.approx(objective, rel=1e-6)
        assert fit.iterations <= iterations


def plain_passes(points: Tensor, centroids: Tensor, iterations: int) -> tuple[Tensor, Tensor, int]:
    """All points against all centroids, every time, with the op's own arithmetic; each mean and refill in turn."""
    for iteration in range(iterations):
        nearest, squares = nearest_centroid(points, centroids)
        counts = torch.bincount(nearest, minlength=len(centroids))
        means = centroids.clone()
        donors = [
            (-float(square), row) for row, square in enumerate(squares) if square > 0 and counts[nearest[row]] > 1
        ]
        donors.sort()
        for k in range(len(centroids)):
            total = torch.zeros(points.shape[1], dtype=torch.float64)
            for row in torch.nonzero(nearest == k)[:, 0]:
                total += points[row].double()
            if counts[k]:
                means[k] = (total / counts[k]).float()
            elif donors:
                means[k] = points[donors.pop(0)[1]]
        if torch.equal(means, centroids):
            return centroids, nearest, iteration
        centroids = means
    return centroids, nearest_centroid(points, centroids)[0], iterations


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, int]:
    """Points, centroids to begin with, and iterations: ties, duplicates and empty clusters among them."""
    count = draw(st.integers(1, 120))
    width = draw(st.sampled_from([1, 2, 5, 16, 33]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    kind = draw(st.sampled_from(["normal", "whole numbers", "duplicates", "groups"]))
    points = torch.randn(count, width, generator=generator)
    if kind == "whole numbers":
        points = torch.randint(-2, 3, (count, width), generator=generator).float()
    elif kind == "duplicates":
        points = points[torch.randint(max(1, count // 4), (count,), generator=generator)]
    elif kind == "groups":
        points = points * 0.1 + points[torch.randint(max(1, count // 5), (count,), generator=generator)]
    clusters = draw(st.integers(1, count))
    chosen = torch.randint(count, (clusters,), generator=generator)  # with repetition: some begin empty
    return points, points[chosen], draw(st.integers(1, 12))


@pytest.mark.skipif(not _load.status()["cpu"]["live"], reason="the plain reference rounds by the size of a product")
@given(problems())
def test_every_bit_is_that_of_plain_passes(problem: tuple[Tensor, Tensor, int]) -> None:
    points, centroids, iterations = problem
    expected = plain_passes(points, centroids, iterations)
    got = iterate(points, points.double(), Start(centroids, Nearest(*nearest_centroid(points, centroids))), iterations)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[2] == expected[2]


@given(st.integers(1, 60), st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**31))
def test_equally_near_centroids_go_by_index_whichever_moved(count: int, clusters: int, share: float, seed: int) -> None:
    # Whole numbers, so that no product is rounded and many distances are equal.
    generator = torch.Generator().manual_seed(seed)
    points, centroids, moves = (
        torch.randint(-2, 3, (rows, 2), generator=generator).float() for rows in (count, clusters, clusters)
    )
    before = Nearest(*nearest_centroid(points, centroids))
    moved = (torch.rand(clusters, generator=generator) <= share) & (moves != 0).any(1)
    if not moved.any():
        return
    centroids = torch.where(moved[:, None], centroids + moves, centroids)
    expected, squares = nearest_centroid(points, centroids)
    got = _reassign(points, centroids, moved, before)
    assert torch.equal(got.which, expected) and torch.equal(got.square, squares)


def test_the_final_assignment_is_to_the_final_centroids() -> None:
    points = clustered(0)
    for iterations in (1, 2, 20):
        fit = fit_kmeans(points, 300, seed=0, iterations=iterations)
        squares = torch.cdist(points.double(), fit.centroids).square()
        assert fit.assignment.tolist() == squares.argmin(1).tolist()
        assert fit.objective == pytest.approx(float(squares.amin(1).sum()), rel=1e-6)


def test_it_stops_when_nothing_moves_and_more_iterations_change_nothing() -> None:
    points = clustered(1)
    fit = fit_kmeans(points, 300, seed=0, iterations=1000)
    assert 1 < fit.iterations < 100
    again = fit_kmeans(points, 300, seed=0, iterations=fit.iterations)
    assert again.objective == fit.objective and torch.equal(again.assignment, fit.assignment)
    assert fit_kmeans(points, 300, seed=0, iterations=2).objective > fit.objective


def test_an_empty_cluster_takes_the_farthest_point() -> None:
    # Two centroids at the same place: the second is left without points.
    points = torch.tensor([[0.0], [1.0], [2.0], [10.0], [14.0], [14.0]])
    start = points[[0, 0, 3]]
    begin = Start(start, Nearest(*nearest_centroid(points, start)))
    assert iterate(points, points.double(), begin, 1)[0][:, 0].tolist() == [1.0, 14.0, pytest.approx(38 / 3)]
    centroids, assignment, _ = iterate(points, points.double(), begin, 20)
    assert centroids[:, 0].tolist() == [1, 14, 10] and assignment.tolist() == [0, 0, 0, 2, 1, 1]
    # Two are empty: two different donors.
    start = points[[0, 0, 0]]
    begin = Start(start, Nearest(*nearest_centroid(points, start)))
    assert iterate(points, points.double(), begin, 1)[0][:, 0].tolist() == [pytest.approx(41 / 6), 14, 14]
