"""Verification over all pairs that there are, counted block by block and never held."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, Labels, scale_to_one, unit
from robustdml_ext.evaluation.rankings import search
from robustdml_ext.evaluation.verification import DetPoints, crossing

# A block of scores: 16 MB. Smaller ones would stay in a nearer cache, but threads would have to meet more often.
ROWS, COLUMNS = 512, 4096
BINS = 2**20
# Scores that differ by less than this part of their range are equal: 64 times and more what products round by.
EQUAL = 2.0**-38
# A crossing known this well is known.
ENOUGH = 1e-7
# Trials that the first bracket is guessed from, if there are so many more that guessing pays.
SAMPLE = 2**18


@dataclass(frozen=True)
class _Pairs:
    """All pairs of a left and a right item, or of two different items of one set; both sorted by class.

    Sorted, so that pairs of one class lie close to the diagonal and nearly all blocks need no look at labels. Scores
    are products less what is either item's own, between `low` and `high`; embeddings were multiplied by `scale`.
    """

    left: Tensor
    left_labels: Tensor
    right: Tensor
    right_labels: Tensor
    left_own: Tensor
    right_own: Tensor
    mirrored: bool
    low: float
    high: float
    scale: float

    @property
    def same(self) -> int:
        """How many pairs are of one class."""
        sizes = self.class_sizes()
        return int((sizes - 1).sum()) // 2 if self.mirrored else int(sizes.sum())

    @property
    def different(self) -> int:
        """How many pairs are of two classes."""
        count = len(self.left)
        every = count * (count - 1) // 2 if self.mirrored else count * len(self.right)
        return every - self.same

    def class_sizes(self) -> Tensor:
        """[N]: how many on the right are of each left item's class."""
        end = torch.searchsorted(self.right_labels, self.left_labels, right=True)
        return end - torch.searchsorted(self.right_labels, self.left_labels)

    def blocks(self) -> Iterator[tuple[Tensor, Tensor | None]]:
        """Scores, and which are of one class (None: none of them is). Of mirrored pairs one is given.

        Scores are good until the next block is asked for: it takes their place.
        """
        place = self.left.new_empty(ROWS * COLUMNS)
        bounds = [(int(x[0]), int(x[-1])) for x in self.right_labels.split(COLUMNS)]
        for top in range(0, len(self.left), ROWS):
            rows = slice(top, min(top + ROWS, len(self.left)))
            lowest, highest = int(self.left_labels[top]), int(self.left_labels[rows.stop - 1])
            for number, (first, last) in enumerate(bounds):
                start = number * COLUMNS
                columns = slice(start, min(start + COLUMNS, len(self.right)))
                if self.mirrored and columns.stop <= top + 1:
                    continue
                with torch.autocast(self.left.device.type, enabled=False):
                    scores = place[: (rows.stop - top) * (columns.stop - start)].view(rows.stop - top, -1)
                    torch.mm(self.left[rows], self.right[columns].T, out=scores)
                if self.left_own.numel():
                    scores.sub_(self.left_own[rows, None]).sub_(self.right_own[columns])
                same = None
                if first <= highest and lowest <= last:
                    same = self.left_labels[rows, None] == self.right_labels[columns]
                if self.mirrored and start < rows.stop:
                    # Itself, and the pairs that the mirror image of this block has.
                    upper = torch.ones_like(scores, dtype=torch.bool).triu_(top + 1 - start)
                    scores, same = _picked(scores, upper), None if same is None else _picked(same, upper)
                yield scores.flatten(), None if same is None else same.flatten()

    def given(self, scores: Tensor) -> Tensor:
        """Scores as they are told: the cosine, or the Euclidean distance negated."""
        return (-2 * scores).clamp_min(0).sqrt().neg() / self.scale if self.left_own.numel() else scores

    def sample(self) -> tuple[Tensor, Tensor]:
        """Scores of random pairs of one class and of two, by a seed of its own."""
        generator = torch.Generator().manual_seed(0)

        def random(bound: Tensor | int) -> Tensor:
            return (torch.rand(SAMPLE, generator=generator, dtype=torch.float64) * bound).long()

        sizes = self.class_sizes().cpu()
        begin = torch.searchsorted(self.right_labels, self.left_labels).cpu()
        ends = (sizes - int(self.mirrored)).cumsum(0)
        i = torch.searchsorted(ends, random(int(ends[-1])), right=True)
        j = begin[i] + random(sizes[i] - int(self.mirrored))
        j += (j >= i).long() * int(self.mirrored)  # not itself
        same = self._scores(i, j)
        i, j = random(len(self.left)), random(len(self.right))
        apart = self.left_labels.cpu()[i] != self.right_labels.cpu()[j]
        return same, self._scores(i[apart], j[apart])

    def _scores(self, i: Tensor, j: Tensor) -> Tensor:
        i, j = i.to(self.left.device), j.to(self.left.device)
        scores = torch.cat(
            [(self.left[x] * self.right[y]).sum(1) for x, y in zip(i.split(2**15), j.split(2**15), strict=True)]
        )
        return scores - self.left_own[i] - self.right_own[j] if self.left_own.numel() else scores


def all_pairs_eer(
    embeddings: Array,
    labels: Labels,
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    distance: str = "cosine",
) -> float:
    """Equal error rate, as `eer` defines it, over all pairs of two different embeddings [N, D] with `labels` [N].

    With `gallery` [M, D] and `gallery_labels` [M]: over all pairs of a query and an item. A pair is a trial of the
    same class where its labels are equal; its score is the cosine, or the Euclidean distance negated. NaN where
    there are no pairs of both kinds.

    Nothing of the size of the number of pairs is held: pairs are counted, block by block in float64, into 2^20 bins
    between two thresholds that the EER was guessed to lie between from a sample. Where its bin holds more than 1e-7
    of the pairs of both kinds, they are counted again into bins of that bin. So the error is below 1e-7, whatever
    the sample says, except that scores which differ by less than 4e-12 of their range may be taken for equal: ties
    are ties although products round.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, or values that are not finite.
    """
    pairs = _pairs(embeddings, labels, gallery, gallery_labels, distance)
    if not pairs.same or not pairs.different:
        return math.nan
    low, high = pairs.low, pairs.high
    equal = (high - low) * EQUAL
    bracket = (low, high)
    if pairs.same + pairs.different > 64 * SAMPLE:
        bracket = _guess(pairs, equal)
    while True:
        # False accepts and rejects at the edges of the bins, from the top down.
        accepts, rejects = _rates(pairs, *bracket)
        below = accepts >= rejects
        bottom, top = bracket
        if below[0]:
            bracket = (top, high)  # the guess was too low
            low = top
        elif not below[-1]:
            bracket = (low, bottom)
            high = bottom
        else:
            after = int(below.int().argmax())
            strict = float(accepts[after - 1]), float(rejects[after - 1])
            lax = float(accepts[after]), float(rejects[after])
            width = (top - bottom) / BINS
            # The EER lies between both points' rates of either kind.
            if min(lax[0] - strict[0], strict[1] - lax[1]) <= ENOUGH or width <= equal:
                return crossing(strict, lax)
            edge = top - after * width
            low, high = max(low, edge - width / 2), min(high, edge + 1.5 * width)
            bracket = (low, high)


def all_pairs_det(
    embeddings: Array,
    labels: Labels,
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    distance: str = "cosine",
    points: int = 1000,
) -> DetPoints:
    """Points of the detection error tradeoff over all pairs, which are as in `all_pairs_eer`.

    As many as `points` thresholds lie closer where a sample of the pairs of one class, or of the lowest scores among
    those of two, lie closer; the rates at each of them are exact. Thresholds are scores: the cosine, or the Euclidean
    distance negated.

    Raises: as `all_pairs_eer`; ValueError for fewer than 2 points, or where there are no pairs of both kinds.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ValueError(f"points must be a whole number from 2, got {points!r}")
    pairs = _pairs(embeddings, labels, gallery, gallery_labels, distance)
    if not pairs.same or not pairs.different:
        raise ValueError("labels must make pairs of both kinds, of the same class and of different classes")
    same, apart = (scores.sort().values for scores in pairs.sample())
    # Even steps through the pairs of one class; steps of a constant factor through those of two, up to 1 in 10^6.
    even = torch.linspace(0, 1, points - points // 2, dtype=torch.float64)
    falling = 1 - torch.logspace(-6, 0, points // 2, dtype=torch.float64)
    steps = [same[(even * (len(same) - 1)).long()], apart[(falling * (len(apart) - 1)).long()]]
    thresholds = torch.cat(steps).unique()
    counts = torch.zeros(2, len(thresholds) + 1, dtype=torch.int64, device=thresholds.device)
    for scores, of_one_class in pairs.blocks():
        place = torch.bucketize(scores, thresholds, right=True)
        counts[1] += torch.bincount(place, minlength=len(thresholds) + 1)
        if of_one_class is not None:
            counts[0] += torch.bincount(place[of_one_class], minlength=len(thresholds) + 1)
    counts[1] -= counts[0]
    reached = counts.flip(1).cumsum(1).cpu().numpy()[:, :-1]
    return DetPoints(
        np.append(math.inf, pairs.given(thresholds.flip(0)).cpu().numpy()),
        np.append(0.0, reached[1] / pairs.different),
        np.append(1.0, 1 - reached[0] / pairs.same),
    )


def _pairs(
    embeddings: Array, labels: Labels, gallery: Array | None, gallery_labels: Labels | None, distance: str
) -> _Pairs:
    task = search(embeddings, labels, gallery, gallery_labels, distance, None, "own")
    mirrored = gallery is None
    left_order, right_order = (np.argsort(x, kind="stable") for x in (task.labels, task.item_labels))
    device = task.queries.device
    left_labels = torch.from_numpy(task.labels[left_order]).to(device)
    right_labels = torch.from_numpy(task.item_labels[right_order]).to(device)
    left = task.queries[torch.from_numpy(left_order).to(device)]
    right = left if mirrored else task.items[torch.from_numpy(right_order).to(device)]
    none = left.new_empty(0)
    if distance == "cosine":
        left = unit(left)
        right = left if mirrored else unit(right)
        # No edge of a bin on a round number, as ties are most likely there.
        return _Pairs(left, left_labels, right, right_labels, none, none, mirrored, -1.000123456, 1.000234567, 1.0)
    scale = scale_to_one(max(float(left.abs().max()), float(right.abs().max())))
    left = left * scale
    right = left if mirrored else right * scale
    # Scores are -|x - y|² / 2, in the order of the distances negated.
    own, other = left.square().sum(1) / 2, right.square().sum(1) / 2
    widest = float(own.max().sqrt() + other.max().sqrt()) ** 2 or 1.0
    low, high = -1.000123456 * widest, 0.000234567 * widest
    return _Pairs(left, left_labels, right, right_labels, own, other, mirrored, low, high, scale)


def _guess(pairs: _Pairs, equal: float) -> tuple[float, float]:
    """Thresholds that the EER lies between, unless the sample is five standard deviations off."""
    same, apart = (scores.sort().values for scores in pairs.sample())
    if len(apart) < 1000:
        return pairs.low, pairs.high
    thresholds = torch.cat([same, apart])
    accepts = 1 - torch.searchsorted(apart, thresholds) / len(apart)
    rejects = torch.searchsorted(same, thresholds) / len(same)
    margin = 2.5 * math.sqrt(1 / len(same) + 1 / len(apart))
    lax, strict = thresholds[accepts - rejects >= margin], thresholds[rejects - accepts >= margin]
    bottom = float(lax.max()) - equal if len(lax) else pairs.low
    top = float(strict.min()) if len(strict) else pairs.high
    return bottom, max(top, bottom + equal)


def _picked(values: Tensor, mask: Tensor) -> Tensor:
    """values[mask]; NumPy picks a few out of many three times as fast."""
    return torch.from_numpy(values.numpy()[mask.numpy()]) if values.device.type == "cpu" else values[mask]


def _rates(pairs: _Pairs, bottom: float, top: float) -> tuple[Tensor, Tensor]:
    """False accepts and false rejects [BINS + 1] at thresholds from `top` down to `bottom` in equal steps."""
    device = pairs.left.device
    bins = torch.zeros(2, BINS + 1, dtype=torch.int64, device=device)  # same, all; the last bin is `top` and above
    waiting: tuple[list[Tensor], list[Tensor]] = ([], [])
    per_width = BINS / (top - bottom)

    def count(kind: int) -> None:
        if waiting[kind]:
            place = torch.cat(waiting[kind]).sub_(bottom).mul_(per_width).long().clamp_(0, BINS - 1)
            bins[kind, :BINS] += torch.bincount(place, minlength=BINS)
            waiting[kind].clear()

    held = 0
    for scores, same in pairs.blocks():
        reached = scores >= bottom
        # Of all kinds at first: few scores come so high, and only these are looked at again.
        for kind, chosen in (
            (1, _picked(scores, reached)),
            (0, None if same is None else _picked(scores, reached & same)),
        ):
            if chosen is not None:
                inside = _picked(chosen, chosen < top)
                bins[kind, BINS] += len(chosen) - len(inside)
                waiting[kind].append(inside)
                held += len(inside)
        if held > BINS:
            count(0)
            count(1)
            held = 0
    count(0)
    count(1)
    bins[1] -= bins[0]
    reached = bins.flip(1).cumsum(1).cpu().double()
    return reached[1] / pairs.different, 1 - reached[0] / pairs.same
