"""The angular loss's value and gradient, in one pass over blocks of classes, without a tensor of pairs × embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Numbers that a block's largest tensors hold, and the fewest and the most rows that this makes a block of.
_BLOCK = 1 << 20
_FEWEST, _MOST = 32, 128
# Largest exponent whose exponential, and that of its negative, fit with room to spare for the steps from them.
_LARGEST = {torch.float32: 70.0, torch.float64: 600.0}


class Settings(NamedTuple):
    """What of the loss does not depend on the batch; `tangent` is tan²α."""

    tangent: float
    triplet: bool
    mean: bool
    normalize: bool


class _Group(NamedTuple):
    """Consecutive classes, of which rows [x0, x1) of the sorted anchors are, and [y0, y1) of the sorted reference."""

    x0: int
    x1: int
    y0: int
    y1: int
    classes: int


def angular_blocks(
    embeddings: Tensor,
    labels: Tensor,
    reference: Tensor | None,
    reference_labels: Tensor | None,
    self_offset: int,
    settings: Settings,
) -> Tensor:
    """The angular loss of checked arguments, as :class:`AngularLoss` documents it; `self_offset` -1: not in it."""
    result: Tensor = _Angular.apply(embeddings, reference, labels, reference_labels, self_offset, settings)
    return result


class _Angular(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        embeddings: Tensor,
        reference: Tensor | None,
        labels: Tensor,
        reference_labels: Tensor | None,
        self_offset: int,
        settings: Settings,
    ) -> Tensor:
        wide = torch.promote_types(embeddings.dtype, torch.float32)
        with torch.autocast(embeddings.device.type, enabled=False):
            x, x_inverse = _scaled(embeddings.to(wide), settings.normalize)
            y, y_inverse = (None, None) if reference is None else _scaled(reference.to(wide), settings.normalize)
            blocks = _Blocks(x, y, labels, reference_labels, self_offset, settings, ctx.needs_input_grad[:2])
            loss = blocks.run()
            gradients = blocks.gradients()
            for k, (points, inverse) in enumerate(((x, x_inverse), (y, y_inverse))):
                gradient = gradients[k]
                if gradient is not None and points is not None and inverse is not None:
                    along = (gradient * points).sum(1, keepdim=True)
                    gradients[k] = ((gradient - along * points) * inverse).to(wide)
        found = (None if gradient is None else gradient.to(embeddings.dtype) for gradient in gradients)
        ctx.save_for_backward(*found, embeddings, reference)
        return loss

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        *gradients, embeddings, reference = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            found = _GradientOnce.apply(grad, *gradients, embeddings, reference)
        else:
            found = _scale(grad, *gradients)
        return *found, None, None, None, None


class _GradientOnce(torch.autograd.Function):
    """The gradient as a function whose own derivative is an error, not silently nothing."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor, of_x: Tensor | None, of_y: Tensor | None, *_: Tensor | None) -> Any:
        return _scale(grad, of_x, of_y)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise RuntimeError("AngularLoss: differentiable once; its gradient was differentiated")


def _scale(grad: Tensor, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(None if each is None else (each * grad).to(each.dtype) for each in gradients)


def _scaled(points: Tensor, normalize: bool) -> tuple[Tensor, Tensor | None]:
    """Rows at unit length, and one over their lengths in float64, where those of 1e-20 and 1e20 fit; 0 for zeros."""
    if not normalize:
        return points, None
    lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True, dtype=torch.float64)
    inverse = lengths.reciprocal().masked_fill_(lengths == 0, 0)
    return (points * inverse).to(points.dtype), inverse


class _Blocks:
    """A pass over the blocks of one call: what they read, and the sums that they add to."""

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        labels: Tensor,
        columns: Tensor | None,
        offset: int,
        settings: Settings,
        asked: tuple[bool, bool],
    ) -> None:
        self.settings, self.asked, self.own = settings, asked, y is None
        self.poisoned = x.isnan().any() if y is None else x.isnan().any() | y.isnan().any()
        self.x_order = labels.argsort(stable=True)
        labels = labels[self.x_order]
        classes, counts = torch.unique_consecutive(labels, return_counts=True)
        at: Tensor | None = torch.arange(len(x), device=x.device)
        if y is None or columns is None:
            self.x = self.y = x[self.x_order]
            self.labels = self.columns = labels
            self.x_at = self.y_at = at
            sizes = [counts, counts]
            self.y_order = self.x_order
        else:
            # Classes that have anchors first, so that a block's positives are neighbors in memory.
            order = columns.argsort(stable=True)
            present = torch.isin(columns[order], classes)
            self.y_order = torch.cat([order[present], order[~present]])
            self.x, self.y = x[self.x_order], y[self.y_order]
            self.labels, self.columns = labels, columns[self.y_order]
            self.x_at, self.y_at = (None, None) if offset < 0 else (self.x_order + offset, self.y_order)
            ends = [torch.searchsorted(columns[order], classes, right=right) for right in (False, True)]
            sizes = [counts, ends[1] - ends[0]]
        of_x, of_y = torch.stack(sizes).tolist()
        self.rows = min(max(_BLOCK // max(len(self.y), 1), _FEWEST), _MOST)
        self.groups = list(_grouped(of_x, of_y, self.rows))
        selves = of_x if self.x_at is not None else [0] * len(of_x)
        pairs = [a * b - c for a, b, c in zip(of_x, of_y, selves, strict=True)]
        # Each unordered pair of a batch's own needs but one row.
        self.rows_of_pairs = sum(pairs) // 2 if self.own else sum(pairs)
        self.rows_of_classes = sum(of_x) if self.own else sum(of_x) + sum(of_y)
        weights = [len(self.y) - b if settings.triplet else 1 for b in of_y]
        self.count = max(sum(p * w for p, w in zip(pairs, weights, strict=True)), 1) if settings.mean else 1
        self.total = torch.zeros((), dtype=torch.float64, device=x.device)
        self.grad_x = torch.zeros_like(self.x) if any(asked) else None
        self.grad_y = self.grad_x if y is None else torch.zeros_like(self.y) if any(asked) else None

    def run(self) -> Tensor:
        """The loss; adds up the gradients on the way."""
        size, factored = len(self.y), self._factors()
        for group in self.groups:
            if group.y0 == group.y1 or (group.classes == 1 and group.y1 - group.y0 == size):
                continue  # there are no positives, or no negatives
            for a, p in self._chunks(group):
                if factored:
                    self._factored(a, p, group)
                else:
                    self._by_pairs(a, p, group)
        loss = (self.total / self.count).to(self.x.dtype)
        return torch.where(self.poisoned, torch.nan, loss)

    def _factors(self) -> bool:
        """Whether exponentials of similarities can be multiplied, and are fewer than those of pairs' exponents."""
        fits = self.settings.normalize and not self.settings.triplet and len(self.y) > 0
        reach = 8 * self.settings.tangent + math.log(max(len(self.y), 1))  # of their sums' logarithms, either way
        return fits and reach <= _LARGEST[self.x.dtype] and self.rows_of_pairs > self.rows_of_classes

    def gradients(self) -> list[Tensor | None]:
        """Of the mean (or sum), towards anchors and reference, in the order that they came in."""
        of_each = ((self.grad_x, self.x_order, self.asked[0]), (self.grad_y, self.y_order, self.asked[1]))
        return [
            (gradient / self.count)[order.argsort()] if asked and gradient is not None else None
            for gradient, order, asked in of_each
        ]

    def _chunks(self, group: _Group) -> Iterator[tuple[slice, slice]]:
        """Parts of the group's anchors × of its positives; of symmetric ones, a batch's own, (a, p) without (p, a)."""
        for a in range(group.x0, group.x1, self.rows):
            for p in range(a if self.own else group.y0, group.y1, self.rows):
                yield slice(a, min(a + self.rows, group.x1)), slice(p, min(p + self.rows, group.y1))

    def _is_pair(self, a: slice, p: slice) -> Tensor:
        same = self.labels[a, None] == self.columns[p]
        if self.x_at is not None and self.y_at is not None:
            same &= self.x_at[a, None] != self.y_at[p]
        return same

    def _factored(self, a: slice, p: slice, group: _Group) -> None:
        """The N-pair form of unit vectors: Σ_n exp(k x_iᵀx_n + k x_pᵀx_n), k = 4 tan²α, is a matrix product.

        Without a shift by the largest exponent, as k bounds them all.
        """
        k, twist = 4 * self.settings.tangent, -2 * (1 + self.settings.tangent)
        of_group = slice(group.y0, group.y1)
        square = self.own and a == p
        x, y = self.x[a], self.y
        s = x @ y.T
        s_pair = s[:, p] * twist
        e_x = self._exponentials(s, self.labels[a], of_group)
        e_p = e_x if square else self._exponentials(y[p] @ y.T, self.columns[p], of_group)
        sums = e_x @ e_p.T
        pair = self._is_pair(a, p)
        z = s_pair.add_(sums.log())
        times = 2.0 if self.own and not square else 1.0
        self.total += F.softplus(z, threshold=40).masked_fill_(~pair, 0).sum(dtype=torch.float64) * times
        if self.grad_x is None or self.grad_y is None:
            return
        # The slope of each pair's term in its exponents' common part, and over its sum of exponentials.
        slope = z.sigmoid_().masked_fill_(~pair, 0).mul_(times)
        share = (slope / sums).masked_fill_(~pair, 0)
        rows = (share @ e_p).mul_(e_x).mul_(2 * k if square else k)
        rows[:, p] += slope * twist
        if square and a.stop - a.start == len(y):
            self.grad_x += (rows + rows.T) @ y
            return
        self.grad_x[a] += rows @ y
        if self.asked[1] or self.own:
            self.grad_y.addmm_(rows.T, x)
        if not square and (self.asked[1] or self.own):
            rows = (share.T @ e_x).mul_(e_p).mul_(k)
            self.grad_y[p] += rows @ y
            self.grad_y.addmm_(rows.T, y[p])

    def _exponentials(self, similarities: Tensor, labels: Tensor, group: slice) -> Tensor:
        """exp(4 tan²α s) in place, 0 for embeddings of the row's own class, which are all in the group."""
        similarities.mul_(4 * self.settings.tangent).exp_()
        similarities[:, group].masked_fill_(labels[:, None] == self.columns[group], 0)
        return similarities

    def _by_pairs(self, a: slice, p: slice, group: _Group) -> None:
        """Any form of any embeddings: a row for each pair, of its exponents or hinges with all negatives."""
        pair = self._is_pair(a, p)
        times = 1.0
        if self.own:  # each unordered pair once
            times = 2.0
            if a == p:
                pair = pair.triu(1)
        first, second = pair.nonzero(as_tuple=True)
        for i, j in zip((first + a.start).split(self.rows), (second + p.start).split(self.rows), strict=True):
            if self.settings.triplet:
                self._hinges(i, j, slice(group.y0, group.y1), times)
            else:
                self._exponents(i, j, slice(group.y0, group.y1), times)

    def _exponents(self, i: Tensor, j: Tensor, group: slice, times: float) -> None:
        k, twist = 4 * self.settings.tangent, -2 * (1 + self.settings.tangent)
        x, p, y = self.x[i], self.y[j], self.y
        both = x + p
        z = (both @ y.T).mul_(k).add_((x * p).sum(1, keepdim=True), alpha=twist)
        z[:, group].masked_fill_(self.labels[i, None] == self.columns[group], -math.inf)
        largest = z.amax(1, keepdim=True).clamp_(min=0)
        terms = z.sub_(largest).exp_()
        sums = terms.sum(1, keepdim=True)
        # log(1 + Σ exp z) = m + log(exp(−m) + Σ exp(z − m)), with m the largest exponent, 0 among them.
        ones = largest.neg().exp_()
        small = largest == 0
        logs = torch.where(small, sums.log1p(), (ones + sums).log())
        self.total += (largest + logs).sum(dtype=torch.float64) * times
        if self.grad_x is None or self.grad_y is None:
            return
        share = terms.mul_(times / (ones + sums))
        slope = share.sum(1, keepdim=True) * twist
        of_both = (share @ y).mul_(k)
        self.grad_x.index_add_(0, i, of_both + slope * p)
        self.grad_y.index_add_(0, j, of_both + slope * x)
        self.grad_y.addmm_(share.T, both, alpha=k)

    def _hinges(self, i: Tensor, j: Tensor, group: slice, times: float) -> None:
        k = 4 * self.settings.tangent
        x, p, y = self.x[i], self.y[j], self.y
        both, apart = x + p, x - p
        # ‖x_n − c‖² = ‖x_n‖² − 2 x_nᵀc + ‖c‖², c half of both.
        own = apart.square().sum(1, keepdim=True) - (k / 4) * both.square().sum(1, keepdim=True)
        v = (both @ y.T).mul_(k).add_(own).sub_(y.square().sum(1) * k)
        v[:, group].masked_fill_(self.labels[i, None] == self.columns[group], 0)
        v.relu_()
        self.total += v.sum(dtype=torch.float64) * times
        if self.grad_x is None or self.grad_y is None:
            return
        on = v.sign_().mul_(times)
        number = on.sum(1, keepdim=True)
        of_both = (on @ y).mul_(k) - number * both * (k / 2)
        stretch = number * apart * 2
        self.grad_x.index_add_(0, i, of_both + stretch)
        self.grad_y.index_add_(0, j, of_both - stretch)
        self.grad_y.addmm_(on.T, both, alpha=k).sub_(on.sum(0)[:, None] * y * (2 * k))


def _grouped(of_x: list[int], of_y: list[int], rows: int) -> Iterator[_Group]:
    """Groups of consecutive classes, with at most so many rows on either side unless one class alone has more.

    Classes without positives are in none of them, unless between others.
    """
    x0 = y0 = x1 = y1 = classes = 0
    for more_x, more_y in zip(of_x, of_y, strict=True):
        if classes and (x1 + more_x - x0 > rows or y1 + more_y - y0 > rows):
            yield _Group(x0, x1, y0, y1, classes)
            x0, y0, classes = x1, y1, 0
        x1, y1, classes = x1 + more_x, y1 + more_y, classes + 1
    yield _Group(x0, x1, y0, y1, classes)
