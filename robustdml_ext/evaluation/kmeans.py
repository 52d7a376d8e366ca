"""k-means as the field's protocol runs it, by exact Lloyd iterations over this project's nearest-centroid op."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import BACKENDS, Array, as_matrix, one_of, scale_to_one
from robustdml_ext.evaluation.kmeans_lloyd import iterate
from robustdml_ext.evaluation.kmeans_start import STARTS, start

# Float64 differences held at a time, so that they stay in cache.
DIFFERENCES_AT_ONCE = 2**16


@dataclass(frozen=True)
class KMeansFit:
    """What k-means found, on the device of the points.

    Attributes:
        assignment: each point's nearest of `centroids`, int64 [N]; equal distances go to the lower index.
        centroids: float64 [K, D], in the units of the points.
        objective: the sum over the points of the squared Euclidean distance to their centroid, in float64, in the
            units of the points, squared.
        iterations: how many times the centroids moved; fewer than asked for where nothing changed any more.
    """

    assignment: Tensor
    centroids: Tensor
    objective: float
    iterations: int


@torch.no_grad()
def fit_kmeans(
    points: Array,
    clusters: int,
    *,
    seed: int,
    iterations: int = 20,
    restarts: int = 1,
    init: str = "random",
    backend: str = "own",
) -> KMeansFit:
    """k-means of `points` [N, D] in Euclidean distance: Lloyd's algorithm.

    One iteration moves every centroid to the mean of the points nearest to it; the points are then assigned anew,
    so that the final assignment is to the final centroids. It ends after `iterations`, or when no centroid moves,
    after which none ever would. The defaults are Roth et al.'s protocol: 20 iterations, 1 run, random start. Every
    point takes part.

    Distances are those of `ops.nearest_centroid` in float32, on points shifted to the middle of their range and
    scaled by a power of two, so that neither their scale nor a large common offset costs digits; means are those of
    the points in float64, summed in their order. The result is that of plain passes over all points and centroids,
    which `kmeans_lloyd` gets with less work. It depends on `seed` alone, not on the number of threads; another
    device may round otherwise.

    A cluster left without points is placed on the point farthest from its centroid (the one it was assigned to,
    before that moved; the lowest index of several), several such clusters on as many different points, taken from
    clusters that have more than one point. Where every point lies on a centroid, as with fewer distinct points than
    clusters, an empty cluster stays empty where it is. After the last iteration nothing is refilled any more.

    Args:
        points: `[N, D]`, a tensor on any device, where all work then takes place, or a NumPy array.
        clusters: K, 1 .. N.
        seed: of the start. Random numbers are drawn on the CPU, so that they are the same for every device.
        iterations: the most iterations.
        restarts: runs from different starts; the one of lowest objective is kept, the first of several.
        init: "random", K different points; "k-means++", each of the K drawn with a probability proportional to its
            squared distance from those before it (Arthur and Vassilvitskii, 2007).
        backend: "own"; "faiss", which needs that package, runs on the CPU and knows the random start only.

    Raises:
        ImportError: backend "faiss" without faiss.
        TypeError: points that are no array of real numbers, or an argument of the wrong type.
        ValueError: points of the wrong shape or not finite, or an argument out of its range.
    """
    matrix = as_matrix(points, "points")
    _check_settings(len(matrix), clusters, seed, iterations, restarts, init, backend)
    # Squares of float32 overflow beyond 1e19 and vanish below 1e-23; a power of two changes nothing else.
    low, high = matrix.amin(0), matrix.amax(0)
    scale = scale_to_one(float(torch.maximum(low.abs(), high.abs()).max()))
    matrix = matrix * scale
    if backend == "faiss":
        centroids, assignment, done = _faiss(matrix, clusters, seed, iterations, restarts)
        objective = _objective(matrix, centroids, assignment)
        return KMeansFit(assignment, centroids / scale, objective / scale / scale, done)
    # The same whatever the order of summation, as a mean is not.
    middle = (low * scale + high * scale) / 2
    shrink = scale_to_one(float((high * scale - middle).max()))
    matrix.sub_(middle).mul_(shrink)
    rows = matrix.to(torch.float32)
    best: tuple[float, Tensor, Tensor, int] | None = None
    for restart in range(restarts):
        # faiss's seeds, and by good fortune its shuffle: the random starts are the same points.
        generator = torch.Generator("cpu").manual_seed(_seed_of_faiss(seed) + 1 + restart * 15486557)
        centroids, assignment, done = iterate(rows, matrix, start(rows, clusters, init, generator), iterations)
        objective = _objective(matrix, centroids, assignment)
        if best is None or objective < best[0]:
            best = objective, centroids, assignment, done
    assert best is not None
    objective, centroids, assignment, done = best
    return KMeansFit(
        assignment,
        (centroids.to(torch.float64) / shrink + middle) / scale,
        objective / shrink / shrink / scale / scale,
        done,
    )


def kmeans(
    embeddings: Array,
    clusters: int,
    seed: int,
    iterations: int = 20,
    restarts: int = 1,
    init: str = "random",
    backend: str = "own",
) -> npt.NDArray[np.int64]:
    """Assigns each of `embeddings` [N, D] to one of `clusters`: int64 [N]. Arguments and errors as in `fit_kmeans`."""
    fit = fit_kmeans(
        embeddings, clusters, seed=seed, iterations=iterations, restarts=restarts, init=init, backend=backend
    )
    return np.asarray(fit.assignment.cpu().numpy(), dtype=np.int64)


def _check_settings(
    count: int, clusters: int, seed: int, iterations: int, restarts: int, init: str, backend: str
) -> None:
    numbers = {"clusters": clusters, "seed": seed, "iterations": iterations, "restarts": restarts}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | np.integer):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
    if not 1 <= clusters <= count:
        raise ValueError(f"clusters must be in 1 .. {count}, the number of points; got {clusters}")
    for name in ("iterations", "restarts"):
        if numbers[name] < 1:
            raise ValueError(f"{name} must be positive, got {numbers[name]}")
    one_of("init", init, STARTS)
    one_of("backend", backend, BACKENDS)
    if backend == "faiss" and init != "random":
        raise ValueError(f"init must be random with backend='faiss', which knows no other; got {init!r}")


def _objective(matrix: Tensor, centroids: Tensor, assignment: Tensor) -> float:
    at_once = max(1, DIFFERENCES_AT_ONCE // matrix.shape[1])
    squares = [
        (rows - centroids[own].to(rows.dtype)).square().sum(1)
        for rows, own in zip(matrix.split(at_once), assignment.split(at_once), strict=True)
    ]
    # Rounded once: no order of summation, and so no number of threads, has a say.
    return math.fsum(torch.cat(squares).tolist())


def _seed_of_faiss(seed: int) -> int:
    return int(seed) % (2**31 - 1)  # it takes 31 bits


def _faiss(matrix: Tensor, clusters: int, seed: int, iterations: int, restarts: int) -> tuple[Tensor, Tensor, int]:
    """Centroids float64 [K, D], assignment [N] and the number of iterations of faiss's k-means."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError("backend='faiss' needs faiss, which is not installed: pip install faiss-cpu") from error
    points = np.ascontiguousarray(matrix.cpu().numpy(), dtype=np.float32)
    search = faiss.Kmeans(
        points.shape[1],
        clusters,
        niter=iterations,
        nredo=restarts,
        seed=_seed_of_faiss(seed),
        # All points take part: faiss's own subsampling of large sets is off.
        min_points_per_centroid=1,
        max_points_per_centroid=len(points),
    )
    search.train(points)
    nearest = search.index.search(points, 1)[1][:, 0]
    centroids = torch.from_numpy(np.asarray(search.centroids, dtype=np.float64)).to(matrix.device)
    return centroids, torch.from_numpy(nearest.astype(np.int64)).to(matrix.device), len(search.iteration_stats or [])
