"""Detection error tradeoff of a scorer over all pairs that there are, whose scores are never held where many."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.scorers import TILE, Scorer, all_scores
from robustdml_ext.evaluation.verification import DetPoints, det_points

# Trials whose scores are held; more are counted between thresholds.
HELD = 2**22
# Thresholds that they are counted between, half of them for either kind.
THRESHOLDS = 2**16
# What the thresholds are chosen from: trials of two classes among this many random rows, this often,
ROWS, SAMPLES = 512, 8
# and trials of one class among this many rows of neighboring classes, this often.
RUN, RUNS = 256, 64
# The closest thresholds pass this part of the trials of two classes.
RAREST = 1e-6


def points_of_all_pairs(
    scorer: Scorer, vectors: Tensor, labels: npt.NDArray[np.int64], symmetric: bool
) -> tuple[DetPoints, int, int]:
    """Points of all pairs of two different rows of `vectors` [N, D], and how many are of one class and of two.

    Every pair in both orders, or once by the mean of both where `symmetric`. Points are exact; all there are, up to
    HELD trials, or those of THRESHOLDS thresholds beside the two ends.

    Raises: ValueError where there are no pairs of both kinds; what `all_scores` raises.
    """
    sizes = np.unique(labels, return_counts=True)[1].astype(np.int64)
    share = 2 if symmetric else 1
    every = len(labels) * (len(labels) - 1) // share
    targets = int((sizes * (sizes - 1)).sum()) // share
    if not targets or targets == every:
        raise ValueError(
            f"labels must make pairs of both kinds, got {targets} of one class and {every - targets} of two"
        )
    classes = torch.from_numpy(labels).to(vectors.device)
    if every <= HELD:
        held = [(scores.cpu(), same.cpu()) for scores, same in _tiles(scorer, vectors, classes, symmetric)]
        scores, same = (torch.cat(part) for part in zip(*held, strict=True))
        return det_points(scores, same), targets, every - targets
    thresholds = _thresholds(scorer, vectors, classes, symmetric)
    bins = len(thresholds) + 1
    counts = torch.zeros(2 * bins, dtype=torch.int64, device=vectors.device)
    least = math.inf
    for scores, same in _tiles(scorer, vectors, classes, symmetric):
        scores = scores.double()
        counts += torch.bincount(torch.bucketize(scores, thresholds, right=True) + bins * same, minlength=2 * bins)
        least = min(least, float(scores.min()))
    # How many reach each threshold, from the highest down; at last all.
    reached = counts.view(2, bins).flip(1).cumsum(1).cpu().numpy()
    points = DetPoints(
        np.concatenate([[math.inf], thresholds.flip(0).cpu().numpy(), [least]]),
        np.append(0.0, reached[0] / (every - targets)),
        np.append(1.0, 1 - reached[1] / targets),
    )
    # A threshold below all scores would come after the least score, which accepts everything as well.
    keep = np.append(points.thresholds[:-1] > least, True)
    points = DetPoints(points.thresholds[keep], points.false_accepts[keep], points.false_rejects[keep])
    return points, targets, every - targets


def _tiles(scorer: Scorer, vectors: Tensor, labels: Tensor, symmetric: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores of all pairs, a tile at a time, and which of them are of one class; both flat."""
    numbers = torch.arange(len(vectors), device=vectors.device)
    for rows in numbers.split(TILE):
        for columns in numbers[int(rows[0]) if symmetric else 0 :].split(TILE):
            scores = _between(scorer, vectors[rows], vectors[columns], symmetric)
            same = labels[rows, None] == labels[columns]
            wanted = rows[:, None] < columns if symmetric else rows[:, None] != columns
            if not wanted.all():
                scores, same = scores[wanted], same[wanted]
            if scores.numel():
                yield scores.flatten(), same.flatten()


def _between(scorer: Scorer, x: Tensor, y: Tensor, symmetric: bool) -> Tensor:
    scores = all_scores(scorer, x, y)
    return (scores.double() + all_scores(scorer, y, x).T.double()) / 2 if symmetric else scores


def _thresholds(scorer: Scorer, vectors: Tensor, labels: Tensor, symmetric: bool) -> Tensor:
    """Different thresholds, float64, rising: quantiles of the scores of a sample of either kind, by a seed of its own.

    Tiles of rows with themselves give the most scores for a network's work. Pairs of one class are too rare among
    random rows: for these, rows are taken that are neighbors in the order of classes.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.argsort(labels, stable=True)

    def sample(rows: Tensor, kind: bool) -> Tensor:
        scores = _between(scorer, vectors[rows], vectors[rows], symmetric).double()
        wanted = (labels[rows, None] == labels[rows]) == kind
        return scores[wanted & (rows[:, None] != rows)]

    different = [
        sample(torch.randperm(len(labels), generator=generator)[:ROWS].to(labels.device), False) for _ in range(SAMPLES)
    ]
    starts = torch.randint(max(1, len(labels) - RUN + 1), (RUNS,), generator=generator).tolist()
    alike = [sample(order[start : start + RUN], True) for start in starts]
    # Even steps through those of one class; steps of a constant factor through those of two, up to the rarest.
    half = THRESHOLDS // 2
    even = torch.linspace(0, 1, half, dtype=torch.float64)
    rare = 1 - torch.logspace(math.log10(RAREST), 0, half, dtype=torch.float64)
    kinds = []
    for parts, steps in ((alike, even), (different, rare)):
        scores = torch.cat(parts).sort().values
        kinds.append(scores[(steps * (len(scores) - 1)).long().to(scores.device)] if len(scores) else scores)
    thresholds: Tensor = torch.cat(kinds).unique()
    return thresholds
