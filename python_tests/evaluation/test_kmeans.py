from __future__ import annotations

import math
from itertools import permutations

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES
from torch import Tensor

from robustdml_ext import _load
from robustdml_ext.evaluation import kmeans, kmeans_start, nmi
from robustdml_ext.evaluation.kmeans import fit_kmeans
from robustdml_ext.evaluation.kmeans_lloyd import Nearest, Start, _reassign, iterate
from robustdml_ext.ops.neighbors import nearest_centroid


def blobs(dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    return (random.normal(size=(6, 8))[labels] * 10 + random.normal(size=(300, 8))).astype(dtype), labels


def clustered(seed: int, count: int = 1500, classes: int = 300, width: int = 32, spread: float = 0.15) -> Tensor:
    """Unit vectors around random unit vectors, about five to each."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator))
    labels = torch.randint(classes, (count,), generator=generator)
    noise = torch.randn(count, width, generator=generator)
    return torch.nn.functional.normalize(centers[labels] + spread * noise)


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


@pytest.mark.parametrize("width", [8, 128])
def test_objective_is_faiss(width: int) -> None:
    ratios = []
    for seed in range(6):
        points = clustered(seed, width=width, spread=1.5 / width**0.5)
        own, oracle = (fit_kmeans(points, 300, seed=seed, backend=backend) for backend in ("own", "faiss"))
        ratios.append(own.objective / oracle.objective)
        assert own.centroids.shape == oracle.centroids.shape == (300, width)
    assert np.mean(ratios) == pytest.approx(1, abs=0.005)


def test_backend_faiss_is_faiss() -> None:
    points, _ = blobs()
    search = faiss.Kmeans(8, 9, niter=20, seed=5, max_points_per_centroid=300, min_points_per_centroid=1)
    search.train(points)
    nearest = search.index.search(points, 1)[1][:, 0]
    assert kmeans(points, 9, seed=5, backend="faiss").tolist() == nearest.tolist()
    fit = fit_kmeans(points, 9, seed=5, backend="faiss")
    assert fit.objective == pytest.approx(float(np.square(points - search.centroids[nearest]).sum()), rel=1e-5)
    np.testing.assert_allclose(fit.centroids.numpy(), search.centroids, rtol=1e-5)


def test_kmeans_finds_separated_classes_whatever_the_type_and_scale() -> None:
    points, labels = blobs(np.float64)
    clusters = kmeans(points, 6, seed=0, restarts=5)
    assert clusters.dtype == np.int64 and nmi(clusters, labels) == pytest.approx(1)
    for scale in (2.0**-300, 2.0**300, -1):
        assert kmeans(points * scale, 6, seed=0, restarts=5).tolist() == clusters.tolist()
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        assert kmeans(torch.from_numpy(points).to(dtype), 6, seed=0, restarts=5).tolist() == clusters.tolist()


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_figures_are_in_the_units_of_the_points(scale: float) -> None:
    points = clustered(0, 300, 60).numpy()
    plain = fit_kmeans(points, 60, seed=0)
    scaled = fit_kmeans(points.astype(np.float64) * scale, 60, seed=0)
    assert scaled.assignment.tolist() == plain.assignment.tolist()
    assert scaled.objective == pytest.approx(plain.objective * scale**2, rel=1e-6)
    np.testing.assert_allclose(scaled.centroids.numpy(), plain.centroids.numpy() * scale, rtol=1e-4, atol=1e-6 * scale)


def test_crowded_points_keep_their_digits() -> None:
    points, labels = blobs(np.float64)
    assert nmi(kmeans(points * 1e-6 + 1000, 6, seed=0, restarts=5), labels) == pytest.approx(1)


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_seed_decides_and_the_number_of_threads_does_not(init: str) -> None:
    points = clustered(2, 3000, 600)
    state = torch.get_rng_state()
    runs = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            runs[threads] = fit_kmeans(points, 600, seed=3, init=init, iterations=4)
        finally:
            torch.set_num_threads(1)
    assert torch.equal(runs[1].assignment, runs[2].assignment)
    assert torch.equal(runs[1].centroids, runs[2].centroids)
    assert runs[1].objective == runs[2].objective
    assert fit_kmeans(points, 600, seed=4, init=init, iterations=4).objective != runs[1].objective
    assert torch.equal(torch.get_rng_state(), state)
    fit_kmeans(points, 6, seed=2**63, iterations=1, init=init)
    fit_kmeans(points, 6, seed=-1, iterations=1, init=init)


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_no_setting_of_the_caller_has_a_say(init: str) -> None:
    points = clustered(4, 300, 60)
    expected = fit_kmeans(points, 60, seed=0, init=init)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.float64)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            got = fit_kmeans(points.clone().requires_grad_(), 60, seed=0, init=init)
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.set_default_dtype(torch.float32)
    assert torch.equal(got.assignment, expected.assignment) and torch.equal(got.centroids, expected.centroids)
    assert got.objective == expected.objective and not got.centroids.requires_grad


def test_the_best_of_several_restarts_is_kept() -> None:
    points = clustered(3, 300, 60)
    objectives = [fit_kmeans(points, 60, seed=0, restarts=restarts).objective for restarts in (1, 2, 4, 8)]
    assert objectives == sorted(objectives, reverse=True) and objectives[0] > objectives[-1]


def test_all_points_take_part() -> None:
    many = np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32)  # faiss alone would sample 256 a cluster
    for backend in ("own", "faiss"):
        mine = kmeans(many, 2, 0, iterations=50, backend=backend)
        centers = np.stack([many[mine == c].mean(0) for c in range(2)])
        moved = ((many[:, None] - centers) ** 2).sum(2).argmin(1)
        assert (moved == mine).mean() > 0.999


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


@pytest.mark.parametrize("init", ["random", "k-means++"])
def test_few_or_equal_points(init: str) -> None:
    assert kmeans(np.ones((1, 3)), 1, 0, init=init).tolist() == [0]
    assert sorted(kmeans(np.eye(4), 4, 0, init=init).tolist()) == [0, 1, 2, 3]
    whole = fit_kmeans(clustered(0, 64), 64, seed=0, init=init)
    assert sorted(whole.assignment.tolist()) == list(range(64)) and whole.objective == pytest.approx(0, abs=1e-9)
    one = fit_kmeans(clustered(0, 64), 1, seed=0, init=init)
    assert one.assignment.tolist() == [0] * 64
    assert torch.allclose(one.centroids[0], clustered(0, 64).double().mean(0), atol=1e-6)
    for equal in (np.zeros((10, 3)), np.full((10, 3), 7.0)):
        fit = fit_kmeans(equal, 4, seed=0, init=init)
        assert (
            fit.assignment.tolist() == [0] * 10 and fit.objective == 0 and fit.centroids.tolist() == equal[:4].tolist()
        )
    distinct = np.random.default_rng(0).normal(size=(5, 3))
    fit = fit_kmeans(np.repeat(distinct, 4, 0), 12, seed=1, init=init)
    assert fit.objective == pytest.approx(0, abs=1e-9)
    groups = fit.assignment.reshape(5, 4)
    assert torch.equal(groups, groups[:, :1].expand(5, 4)) and len(set(groups[:, 0].tolist())) == 5


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"clusters": 0}, ValueError, "clusters must be in 1 .. 4"),
        ({"clusters": 5}, ValueError, "clusters must be in 1 .. 4"),
        ({"clusters": 2.0}, TypeError, "clusters must be a whole number"),
        ({"clusters": True}, TypeError, "clusters must be a whole number"),
        ({"seed": "a"}, TypeError, "seed must be a whole number"),
        ({"iterations": 0}, ValueError, "iterations must be positive"),
        ({"restarts": 0}, ValueError, "restarts must be positive"),
        ({"init": "far"}, ValueError, "init must be one of random, k-means"),
        ({"backend": "sklearn"}, ValueError, "backend must be one of own, faiss"),
        ({"backend": "faiss", "init": "k-means++"}, ValueError, "init must be random with backend='faiss'"),
    ],
)
def test_wrong_arguments(settings: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        kmeans(np.eye(4), **({"clusters": 2, "seed": 0} | settings))  # type: ignore[arg-type]


def test_wrong_points() -> None:
    with pytest.raises(ValueError, match="points must be finite"):
        kmeans(np.full((4, 2), np.nan), 2, 0)
    with pytest.raises(ValueError, match=r"points must be a non-empty matrix"):
        fit_kmeans(np.zeros(4), 2, seed=0)
    with pytest.raises(TypeError, match="points must be"):
        fit_kmeans([[1.0]], 1, seed=0)  # type: ignore[arg-type]


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
