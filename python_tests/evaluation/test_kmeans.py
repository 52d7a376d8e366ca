"""`fit_kmeans` and `kmeans` as they are called: seeds, scales, backends, few points, wrong arguments."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from kmeans_cases import blobs, clustered

from robustdml_ext.evaluation import kmeans, nmi
from robustdml_ext.evaluation.kmeans import fit_kmeans


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
