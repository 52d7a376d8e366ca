"""Verification where a scorer says what is alike: the prototypes paper's equation 5."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdml_ext.evaluation.inputs import Array, Labels, as_labels, as_vectors
from robustdml_ext.evaluation.scored_pairs import points_of_all_pairs
from robustdml_ext.evaluation.scorers import Scorer, as_scorer, scores_of_pairs
from robustdml_ext.evaluation.verification import DetPoints, as_pairs, det_points, eer_of, min_dcf_of

# Components of either side of the pairs gathered at a time.
GATHERED = 2**22
# The priors of VoxCeleb's figures.
TARGET_PRIORS = (0.01, 0.05)


@dataclass(frozen=True)
class Verification:
    """How well trials are told apart.

    Attributes:
        figures: "eer", and "min_dcf@P" for each prior P, as `eer` and `min_dcf` define them.
        points: the detection error tradeoff that the figures were read from.
        targets: how many trials are of one class.
        nontargets: how many are of two.
    """

    figures: dict[str, float]
    points: DetPoints
    targets: int
    nontargets: int


def trial_scores(
    scorer: Scorer | nn.Module,
    embeddings: Array,
    pairs: Array | Sequence[Sequence[int]],
    others: Array | None = None,
    *,
    symmetric: bool = False,
) -> npt.NDArray[np.float64]:
    """Scores float64 [P] of given trials {x', x''}: S(E(x'), E(x'')) of the prototypes paper's equation 5.

    `pairs` [P, 2]: of row numbers, both of `embeddings` [N, D]; or, where `others` [M, D] are given, the first of
    `embeddings` and the second of `others`. The first is the scorer's query, the second its item: for a score that is
    not symmetric, (x', x'') and (x'', x') are different trials. With `symmetric` a trial's score is the mean of both
    orders. For `eer`, `min_dcf` and `det_points`.

    `scorer` is one of `SCORERS`, any callable (queries, items) → scores, or a similarity network. Scorers of
    `SCORERS` score the pairs as they are, in blocks of 2^22 components; any other callable is asked for all pairs of
    64 at a time.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, row numbers
    out of range, or a scorer that gives no finite scores of its queries and items.
    """
    judge = as_scorer(scorer)
    left = as_vectors(embeddings)
    right = left if others is None else as_vectors(others, "others").to(left.device)
    if left.shape[1] != right.shape[1]:
        raise ValueError(f"others must have the embeddings' {left.shape[1]} dimensions, got {right.shape[1]}")
    return _scores(judge, left, right, as_pairs(pairs, len(left), len(right)), symmetric)


def _scores(scorer: Scorer, left: Tensor, right: Tensor, rows: Tensor, symmetric: bool) -> npt.NDArray[np.float64]:
    scores = []
    for block in rows.to(left.device).split(max(1, GATHERED // left.shape[1])):
        x, y = left[block[:, 0]], right[block[:, 1]]
        found = scores_of_pairs(scorer, x, y).double()
        if symmetric:
            found = (found + scores_of_pairs(scorer, y, x).double()) / 2
        scores.append(found)
    return torch.cat(scores).cpu().numpy() if scores else np.empty(0)


def random_trials(
    labels: Labels, count: int, generator: torch.Generator | None = None
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Random pairs int64 [count, 2] of row numbers of `labels` [N], and whether each is of one class, bool [count].

    Half of them (the smaller half of an odd number) are drawn uniformly from all pairs of one class, the rest from all
    pairs of two; in random order, each in a random one of its two orders. No item is paired with itself, and no pair
    comes twice, in either order. Give the labels of classes that were not trained on, and `trial_scores` their
    embeddings.

    `generator`: a CPU generator; default: PyTorch's own.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, or a count < 1 or beyond what pairs there
    are.
    """
    classes = torch.from_numpy(as_labels(labels, len(labels)))
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count must be a positive whole number, got {count!r}")
    order = torch.argsort(classes, stable=True)
    ends = torch.searchsorted(classes[order], classes[order], right=True)
    place = torch.arange(len(classes))
    wanted = (count // 2, count - count // 2)
    drawn = []
    # In order of class, the partners of the item at a place are a run: first those of its class, then all others.
    for kind, start, stop, many in (
        ("one class", place + 1, ends, wanted[0]),
        ("two classes", ends, torch.full_like(ends, len(classes)), wanted[1]),
    ):
        sums = (stop - start).cumsum(0)
        there = int(sums[-1]) if len(sums) else 0
        if many > there:
            raise ValueError(f"count: {count} trials need {many} pairs of {kind}, labels make {there}")
        numbers = _distinct_numbers(there, many, generator)
        first = torch.searchsorted(sums, numbers, right=True)
        second = stop[first] - (sums[first] - numbers)
        drawn.append(torch.stack([order[first], order[second]], 1))
    pairs = torch.cat(drawn)
    same = torch.arange(count) < wanted[0]
    turned = torch.rand(count, generator=generator) < 0.5
    pairs = torch.where(turned[:, None], pairs.flip(1), pairs)
    shuffled = torch.randperm(count, generator=generator)
    return pairs[shuffled].numpy(), same[shuffled].numpy()


def _distinct_numbers(bound: int, count: int, generator: torch.Generator | None) -> Tensor:
    """`count` different numbers below `bound`, every set of them as probable as any other."""
    if bound <= 4 * count:
        return torch.randperm(bound, generator=generator)[:count]
    numbers = torch.empty(0, dtype=torch.int64)
    while len(numbers) < count:
        more = torch.randint(bound, (count - len(numbers) + 16,), generator=generator)
        numbers = torch.cat([numbers, more]).unique()
    # Sorted by now, so that cutting it off would keep the low ones.
    return numbers[torch.randperm(len(numbers), generator=generator)[:count]]


def verify(
    scorer: Scorer | nn.Module,
    embeddings: Array,
    labels: Labels,
    trials: Array | Sequence[Sequence[int]] | None = None,
    *,
    symmetric: bool = False,
    target_priors: Sequence[float] = TARGET_PRIORS,
) -> Verification:
    """EER, least detection costs and DET points of trials, judged by a scorer.

    `trials` [P, 2] are row numbers of `embeddings` [N, D], a target trial being one whose `labels` [N] are equal. The
    default is all pairs of two different embeddings: in both orders, N (N − 1) trials, as an asymmetric score judges
    them differently; with `symmetric` each pair once by the mean of both orders. For the cosine either is what
    `all_pairs_eer` gives.

    All pairs are scored tile by tile. Up to 2^22 trials are held, and the figures are exact. Of more, no score is
    held: they are counted between 2^16 thresholds, quantiles of a sample of the trials, closer among the highest scores
    of two classes. The rates at these thresholds are exact; the EER is read from the line between the two that it lies
    between, and the least cost is that of the best among them.

    Raises: TypeError, ValueError as `trial_scores` and `min_dcf`, or where there are no trials of both kinds.
    """
    judge = as_scorer(scorer)
    vectors = as_vectors(embeddings)
    classes = as_labels(labels, len(vectors))
    if trials is None:
        points, targets, nontargets = points_of_all_pairs(judge, vectors, classes, symmetric)
    else:
        rows = as_pairs(trials, len(vectors), len(vectors), "trials")
        same = classes[rows[:, 0].numpy()] == classes[rows[:, 1].numpy()]
        if same.all() or not same.any():
            raise ValueError(f"trials must be of both kinds, got {same.sum()} of one class and {(~same).sum()} of two")
        points = det_points(_scores(judge, vectors, vectors, rows, symmetric), same)
        targets, nontargets = int(same.sum()), int((~same).sum())
    figures = {"eer": eer_of(points)}
    figures |= {f"min_dcf@{prior:g}": min_dcf_of(points, prior) for prior in target_priors}
    return Verification(figures, points, targets, nontargets)
