"""Verification by trials: are these two of one class? EER, detection cost and DET points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from robustdml_ext.evaluation.inputs import Array, as_matrix, as_numbers, check_distance, unit

# Components of pairs gathered at a time.
GATHERED = 2**22


@dataclass(frozen=True)
class DetPoints:
    """Points of the detection error tradeoff, the strictest threshold first.

    Attributes:
        thresholds: float64 [P], falling; a trial is accepted where its score is at least the threshold. The first
            is infinity: nothing is accepted.
        false_accepts: float64 [P], the fraction of trials of different classes that is accepted, rising from 0.
        false_rejects: float64 [P], the fraction of trials of the same class that is not accepted, falling from 1.
    """

    thresholds: npt.NDArray[np.float64]
    false_accepts: npt.NDArray[np.float64]
    false_rejects: npt.NDArray[np.float64]


def det_points(scores: Array | Sequence[float], same: Array | Sequence[bool]) -> DetPoints:
    """Every operating point of the trials: one for each different score, and one that accepts nothing.

    `scores` [P]: larger where a trial looks more like the same class; give distances negated. `same` [P]: bool, or 0
    and 1. Trials of equal scores are accepted together. With scikit-learn's roc_curve(drop_intermediate=False) these
    are fpr and 1 - tpr (its det_curve leaves out end points).

    Raises: TypeError, ValueError for arguments of the wrong type or shape, scores that are not finite, or trials of
    only one kind, for which one of the rates has no value.
    """
    row, of_one_class = _trials(scores, same)
    if of_one_class.all() or not of_one_class.any():
        raise ValueError("same must hold trials of both kinds, of the same class and of different classes")
    order = np.argsort(-row, kind="stable")
    row, of_one_class = row[order], of_one_class[order]
    last = np.append(np.flatnonzero(row[1:] != row[:-1]), len(row) - 1)
    accepted = np.cumsum(of_one_class)[last]
    others = last + 1 - accepted
    return DetPoints(
        np.append(math.inf, row[last]),
        np.append(0.0, others / others[-1]),
        np.append(1.0, 1 - accepted / accepted[-1]),
    )


def eer(scores: Array | Sequence[float], same: Array | Sequence[bool]) -> float:
    """Equal error rate of trials, in [0, 1]: where as many are falsely accepted as are falsely rejected.

    The points of `det_points`, in order, are joined by straight lines, and the EER is the false acceptance rate where
    this line crosses false acceptance = false rejection. The steps of the staircase are all that is joined: no
    convex hull is taken. Trials of equal score make one step, along which the line stands for accepting a random
    part of them. 0.5 is chance, and what embeddings that are all the same have; above it, scores are the wrong way
    round. NaN without trials of both kinds.

    `scores` [P] and `same` [P] as in `det_points`. For trials that are pairs of embeddings see `pair_scores`, for
    all pairs that there are `all_pairs_eer`.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, or scores that are not finite.
    """
    of_one_class = _trials(scores, same)[1]
    if of_one_class.all() or not of_one_class.any():
        return math.nan
    return eer_of(det_points(scores, same))


def eer_of(points: DetPoints) -> float:
    """Equal error rate, as `eer` defines it, of points from nothing accepted to everything accepted."""
    after = int(np.argmax(points.false_accepts >= points.false_rejects))
    before = after - 1
    return crossing(
        (float(points.false_accepts[before]), float(points.false_rejects[before])),
        (float(points.false_accepts[after]), float(points.false_rejects[after])),
    )


def crossing(strict: tuple[float, float], lax: tuple[float, float]) -> float:
    """Where the line between two points (false accepts, false rejects) has both alike: below at first, then not."""
    gap, next_gap = strict[1] - strict[0], lax[0] - lax[1]
    return strict[0] + (lax[0] - strict[0]) * gap / (gap + next_gap)


def min_dcf(
    scores: Array | Sequence[float],
    same: Array | Sequence[bool],
    target_prior: float = 0.01,
    miss_cost: float = 1.0,
    false_accept_cost: float = 1.0,
) -> float:
    """Least normalized detection cost of trials over all thresholds, in [0, 1].

    The NIST Year 2010 Speaker Recognition Evaluation Plan's C_Det over its C_Default: with the rates P_miss and P_fa at
    a threshold, C_Det = C_miss · P_target · P_miss + C_fa · (1 − P_target) · P_fa, and C_Default = min(C_miss ·
    P_target, C_fa · (1 − P_target)), which is what the better of accepting nothing and accepting everything costs. The
    least value is taken over the points of `det_points`, among which those two are, so that 1 means scores of no use.
    NaN without trials of both kinds.

    `scores` [P] and `same` [P] as in `det_points`. `target_prior` is P_target, how probable a trial of one class is
    where the scores will be used, whatever its share among these trials: VoxCeleb's figures are at 0.01 and 0.05.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, scores that are not finite, a prior that is
    not between 0 and 1, or a cost that is not positive.
    """
    _check_costs(target_prior, miss_cost, false_accept_cost)
    of_one_class = _trials(scores, same)[1]
    if of_one_class.all() or not of_one_class.any():
        return math.nan
    return min_dcf_of(det_points(scores, same), target_prior, miss_cost, false_accept_cost)


def min_dcf_of(
    points: DetPoints, target_prior: float = 0.01, miss_cost: float = 1.0, false_accept_cost: float = 1.0
) -> float:
    """Least normalized detection cost among given points, as `min_dcf` defines it. Raises: as `min_dcf`."""
    _check_costs(target_prior, miss_cost, false_accept_cost)
    miss, accept = miss_cost * target_prior, false_accept_cost * (1 - target_prior)
    costs = miss * points.false_rejects + accept * points.false_accepts
    return float(costs.min() / min(miss, accept))


def _check_costs(target_prior: float, miss_cost: float, false_accept_cost: float) -> None:
    if not 0 < target_prior < 1:
        raise ValueError(f"target_prior must be between 0 and 1, got {target_prior}")
    for name, cost in (("miss_cost", miss_cost), ("false_accept_cost", false_accept_cost)):
        if not 0 < cost < math.inf:
            raise ValueError(f"{name} must be a positive number, got {cost}")


def pair_scores(
    embeddings: Array, pairs: Array | Sequence[Sequence[int]], distance: str = "cosine", others: Array | None = None
) -> npt.NDArray[np.float64]:
    """Scores float64 [P] of given pairs of embeddings: their cosine, or their Euclidean distance negated.

    `pairs` [P, 2]: of row numbers, both of `embeddings` [N, D]; or, where `others` [M, D] are given, the first of
    `embeddings` and the second of `others`. For `eer` and `det_points`, as in a verification protocol's list of
    trials. A zero vector has cosine 0 with everything.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, or row numbers
    out of range.
    """
    check_distance(distance)
    left = as_matrix(embeddings)
    right = left if others is None else as_matrix(others, "others").to(left.device)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"others must have the embeddings' {left.shape[1]} dimensions, got {right.shape[1]}")
    numbers = as_pairs(pairs, len(left), len(right)).to(left.device)
    if distance == "cosine":
        left, right = unit(left), unit(right)
    scores = []
    for block in numbers.split(max(1, GATHERED // left.shape[1])):
        x, y = left[block[:, 0]], right[block[:, 1]]
        scores.append((x * y).sum(1) if distance == "cosine" else torch.linalg.vector_norm(x - y, dim=1).neg())
    return torch.cat(scores).cpu().numpy() if scores else np.empty(0)


def as_pairs(pairs: Array | Sequence[Sequence[int]], left: int, right: int, name: str = "pairs") -> torch.Tensor:
    """`pairs` [P, 2] as int64 on the CPU: row numbers below `left` in the first column, below `right` in the second.

    Raises: TypeError where they are no integers; ValueError for the wrong shape or row numbers out of range.
    """
    rows = pairs.detach().cpu().numpy() if isinstance(pairs, torch.Tensor) else np.asarray(pairs)
    if not np.issubdtype(rows.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {rows.dtype}")
    if rows.ndim != 2 or rows.shape[1] != 2:
        raise ValueError(f"{name} must have shape [P, 2], got {list(rows.shape)}")
    for column, count in ((rows[:, 0], left), (rows[:, 1], right)):
        if len(column) and not 0 <= int(column.min()) <= int(column.max()) < count:
            raise ValueError(f"{name} must be row numbers in 0 .. {count - 1}, got {column.min()} .. {column.max()}")
    return torch.from_numpy(rows.astype(np.int64))


def _trials(
    scores: Array | Sequence[float], same: Array | Sequence[bool]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    row = as_numbers(scores, "scores")
    kinds = same.detach().cpu().numpy() if isinstance(same, torch.Tensor) else np.asarray(same)
    if kinds.shape != row.shape:
        raise ValueError(f"same must have shape [{len(row)}], one for each score; got {list(kinds.shape)}")
    if kinds.dtype != np.bool_ and not (np.issubdtype(kinds.dtype, np.integer) and np.isin(kinds, (0, 1)).all()):
        raise TypeError(f"same must be bool, or 0 and 1; got {kinds.dtype}")
    return row, kinds.astype(np.bool_)
