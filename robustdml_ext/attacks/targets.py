"""Draws the targets of targeted attacks: images of another class than the attacked one's."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_targets(
    labels: Tensor, count: int, *, candidates: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """Draws T targets for each sample, uniformly among the candidates of other classes.

    A sample's targets are distinct where at least T candidates are of other classes, and drawn with
    repetition where fewer are. Takes O(N log N + B·T) time, without rejection (Floyd's algorithm, all rows at
    once). This is lines 5 and 6 of MDProp's Algorithm 1, drawn in one: images of other classes, among which a class may
    occur more than once, as in the published code (where a batch has fewer than T other classes, it must).

    Args:
        labels: classes of the samples, int64 `[B]`.
        count: T >= 1.
        candidates: classes of the bank's rows, int64 `[N]`.
        generator: None for PyTorch's global one.

    Returns:
        Rows of the bank, int64 `[B, T]`, on the device of `labels`.

    Raises:
        TypeError: labels are no integers.
        ValueError: `count` is below 1, a shape is wrong, or no candidate is of another class than some sample
            (on CUDA, where looking would wait for the device, a device-side assertion).
    """
    for name, classes in (("labels", labels), ("candidates", candidates)):
        if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
            raise TypeError(f"{name}: expected integers, got {classes.dtype}")
        if classes.dim() != 1:
            raise ValueError(f"{name}: expected one dimension, got shape {list(classes.shape)}")
    if count < 1:
        raise ValueError(f"count: expected a number >= 1, got {count}")
    candidates = candidates.to(labels.device)
    ordered, order = candidates.sort(stable=True)
    first = torch.searchsorted(ordered, labels)
    own = torch.searchsorted(ordered, labels, right=True) - first
    others = len(candidates) - own
    _check_others(labels, others)
    device = labels.device if generator is None else generator.device
    uniform = torch.rand(count, len(labels), dtype=torch.float64, generator=generator, device=device)
    chosen = _distinct(uniform.to(labels.device), others)
    # Sorted by class, the sample's own class is one gap, which positions behind it step over.
    return order[torch.where(chosen < first[:, None], chosen, chosen + own[:, None])]


def _distinct(uniform: Tensor, others: Tensor) -> Tensor:
    """T numbers in [0, others[i]) for each row i, `[B, T]`; distinct where others[i] >= T."""
    count, rows = uniform.shape
    chosen = torch.full((rows, count), -1, dtype=torch.int64, device=uniform.device)
    distinct = others >= count
    for t in range(count):
        # Floyd: the t-th draw is from one number more than the last; a number taken already gives way to that
        # new one.
        newest = torch.where(distinct, others - count + t, others - 1)
        drawn = torch.minimum((uniform[t] * (newest + 1)).to(torch.int64), newest)
        taken = (chosen == drawn[:, None]).any(1) & distinct
        chosen[:, t] = torch.where(taken, newest, drawn)
    return chosen


def _check_others(labels: Tensor, others: Tensor) -> None:
    exist = (others > 0).all()
    if not labels.is_cpu:
        torch._assert_async(exist)
    elif not exist:
        label = int(labels[int(others.argmin())])
        raise ValueError(f"candidates: no other class than {label} to draw targets from")
