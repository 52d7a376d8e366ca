"""Lloyd's iterations, each the same as a plain pass over all points and centroids, for less work.

Most centroids soon stand still, and only the ones that moved can change a point's mind:

- Every point is compared with the moved centroids, as a small set of their own.
- A point whose centroid stands still keeps it, or goes to the nearest moved one if that is nearer.
- A point whose centroid moved goes to the nearest moved one if that is nearer than its centroid was before it moved:
  the centroids that stand still were all at least that far, and are yet.
- Only the points that remain are compared with the centroids that stand still.

No bound enters, so no rounding does either: only distances that a plain pass computes too are compared, in the order
(distance, lower index). `ops.nearest_centroid` rounds the distance of a point and a centroid the same whatever else it
is given (its kernels do; the plain reference, used where no kernel is built, leaves that to the matrix product, and may
then decide between centroids equally near to rounding otherwise).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from robustdml_ext.ops.neighbors import nearest_centroid


class Nearest(NamedTuple):
    """Each point's nearest centroid, int64 [N], and its squared distance, float32 [N]."""

    which: Tensor
    square: Tensor

    def or_nearer(self, other: Nearest) -> Nearest:
        """The nearer of both for every point, of equals the one of lower index."""
        better = (other.square < self.square) | ((other.square == self.square) & (other.which < self.which))
        return Nearest(torch.where(better, other.which, self.which), torch.where(better, other.square, self.square))


class Start(NamedTuple):
    """Centroids to begin with, float32 [K, D], and each point's nearest of them."""

    centroids: Tensor
    nearest: Nearest


def nearest_among(points: Tensor, centroids: Tensor, which: Tensor) -> Nearest:
    """The nearest of the centroids numbered `which` [M], ascending, by their numbers among all."""
    index, square = nearest_centroid(points, centroids[which])
    return Nearest(which[index], square)


def iterate(points: Tensor, wide: Tensor, start: Start, iterations: int) -> tuple[Tensor, Tensor, int]:
    """Centroids float32 [K, D], assignment [N] and how many times centroids moved, of `points` float32 [N, D].

    `wide`: the points in float64, of which the means are taken.
    """
    centroids, nearest = start
    touched = torch.ones(len(centroids), dtype=torch.bool, device=points.device)
    for iteration in range(iterations):
        means = _means(points, wide, centroids, nearest, touched)
        moved = (means != centroids).any(1)
        if not moved.any():
            return centroids, nearest.which, iteration
        centroids = means
        before = nearest.which
        nearest = _reassign(points, centroids, moved, nearest)
        changed = torch.nonzero(nearest.which != before)[:, 0]
        touched = torch.zeros_like(touched)
        touched[before[changed]] = True
        touched[nearest.which[changed]] = True
    return centroids, nearest.which, iterations


def _reassign(points: Tensor, centroids: Tensor, moved: Tensor, before: Nearest) -> Nearest:
    movers, others = torch.nonzero(moved)[:, 0], torch.nonzero(~moved)[:, 0]
    found = nearest_among(points, centroids, movers)
    own_moved = moved[before.which]
    nearer = found.square < before.square
    taken = nearer | own_moved | ((found.square == before.square) & (found.which < before.which))
    nearest = Nearest(torch.where(taken, found.which, before.which), torch.where(taken, found.square, before.square))
    astray = torch.nonzero(own_moved & ~nearer)[:, 0]
    if len(astray) and len(others):
        still = nearest_among(points[astray], centroids, others)
        better = Nearest(found.which[astray], found.square[astray]).or_nearer(still)
        nearest.which[astray] = better.which
        nearest.square[astray] = better.square
    return nearest


def _means(points: Tensor, wide: Tensor, centroids: Tensor, nearest: Nearest, touched: Tensor) -> Tensor:
    """`centroids`, those of the clusters that gained or lost points (`touched`) and of empty ones replaced."""
    counts = torch.bincount(nearest.which, minlength=len(centroids))
    clusters = torch.nonzero(touched & (counts > 0))[:, 0]
    rows = torch.nonzero(touched[nearest.which])[:, 0]
    members = rows[torch.argsort(nearest.which[rows], stable=True)]
    sizes = counts[clusters]
    # A cluster's points are added one after the other in float64: the same sum on every run and thread count.
    sums = torch.nn.functional.embedding_bag(members, wide, torch.cumsum(sizes, 0) - sizes, mode="sum")
    means = centroids.clone()
    means[clusters] = (sums / sizes[:, None]).to(centroids.dtype)
    empty = torch.nonzero(counts == 0)[:, 0]
    if len(empty):
        spare = torch.where(counts[nearest.which] > 1, nearest.square, 0.0)
        donors = torch.argsort(spare, descending=True, stable=True)[: len(empty)]
        means[empty] = torch.where(spare[donors, None] > 0, points[donors], means[empty])
    return means
