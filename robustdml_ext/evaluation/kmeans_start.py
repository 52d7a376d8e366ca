"""Where k-means begins: K points at random, or far apart by k-means++."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdml_ext.evaluation.kmeans_lloyd import Nearest, Start
from robustdml_ext.ops.neighbors import nearest_centroid

STARTS = ("random", "k-means++")
# Candidates drawn at a time: their mutual distances are held, 32 MB of float64.
MOST_CANDIDATES = 2048


def start(points: Tensor, clusters: int, init: str, generator: torch.Generator) -> Start:
    """`clusters` different points of `points` float32 [N, D]; random numbers are drawn on the CPU."""
    if init == "k-means++":
        return plus_plus(points, clusters, generator)
    chosen = torch.randperm(len(points), generator=generator, device="cpu")[:clusters].to(points.device)
    centroids = points[chosen]
    return Start(centroids, Nearest(*nearest_centroid(points, centroids)))


def plus_plus(points: Tensor, clusters: int, generator: torch.Generator) -> Start:
    """k-means++: each point drawn with a probability proportional to D², its squared distance to those chosen.

    Many candidates are drawn at a time with D² as it was before any of them, and then looked at in turn: one is
    accepted with the probability D² now / D² then, where "now" includes the ones accepted before it. That is rejection
    sampling, so every accepted point is distributed as if D² had been computed anew for it, while all points are
    compared with all accepted ones at once. How many candidates to draw is settled before they are drawn, by how
    the draw before went. The distribution is exact but for rounding: D² is float32, and drawn as whole numbers of at
    most 2^52 / N, whose sums are the same in any order; a point's probability is off by 2^-53 at most beyond that.

    Where all points lie on chosen ones, the rest are drawn evenly from the points not yet chosen.
    """
    device, count = points.device, len(points)
    chosen = torch.randint(count, (1,), generator=generator, device="cpu").to(device)
    nearest = Nearest(*nearest_centroid(points, points[chosen]))
    block = 1
    while len(chosen) < clusters:
        weights = nearest.square.to(torch.float64)
        weights[chosen] = 0
        # NaN, for 0 / 0, where every point lies on a chosen one.
        steps = (weights / weights.max()).nan_to_num(0.0) * (2**52 // count)
        cumulative = torch.cumsum(steps.to(torch.int64), 0)
        total = int(cumulative[-1])
        if total == 0:
            order = torch.randperm(count, generator=generator, device="cpu").to(device)
            free = torch.ones(count, dtype=torch.bool, device=device)
            free[chosen] = False
            chosen = torch.cat([chosen, order[free[order]][: clusters - len(chosen)]])
            break
        block = min(block, clusters - len(chosen))
        draws = torch.rand(2, block, generator=generator, dtype=torch.float64, device="cpu").to(device)
        tickets = (draws[0] * total).to(torch.int64).clamp_max(total - 1)
        candidates = torch.searchsorted(cumulative, tickets, right=True)
        accepted = candidates[_accepted(points[candidates], draws[1] * weights[candidates])]
        index, square = nearest_centroid(points, points[accepted])
        nearest = nearest.or_nearer(Nearest(index + len(chosen), square))
        chosen = torch.cat([chosen, accepted])
        block = min(2 * block, MOST_CANDIDATES) if 4 * len(accepted) > 3 * block else max(1, block // 2)
    return Start(points[chosen], nearest)


def _accepted(candidates: Tensor, levels: Tensor) -> Tensor:
    """Which of `candidates` [B, D] in turn lie farther than `levels` [B], squared, from all accepted before: bool [B].

    Whether one is accepted depends on those before it that are. All are decided at once, from the assumption that all
    are accepted, and again from the outcome: after the nth time whatever hangs on a chain of fewer than n others is
    right, and once nothing changes all is.
    """
    wide = candidates.to(torch.float64)
    lengths = wide.square().sum(1)
    squares = lengths[:, None] + lengths - 2 * (wide @ wide.T)
    rejects = torch.triu(squares <= levels, diagonal=1)  # [earlier, later]
    accepted = torch.ones(len(wide), dtype=torch.bool, device=wide.device)
    while True:
        again = ~(rejects & accepted[:, None]).any(0)
        if torch.equal(again, accepted):
            return accepted
        accepted = again
