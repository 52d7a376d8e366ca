"""Learning rates by epoch: a pure function of the epoch, so that a resumed run has the very same."""

from __future__ import annotations

import math

import torch

from robustdml_ext.recipes import Recipe


def learning_rate_factor(recipe: Recipe, epoch: int, epochs: int) -> float:
    """What the first learning rate is multiplied by in an epoch, counted from 0, of so many `epochs`.

    cosine: (1 + cos(π·epoch / epochs)) / 2, from 1 down to nearly 0; step: γ^⌊epoch / step⌋; none: 1.
    """
    if recipe.schedule == "cosine":
        return (1 + math.cos(math.pi * min(epoch / max(epochs, 1), 1.0))) / 2
    if recipe.schedule == "step":
        return recipe.schedule_gamma ** (epoch // recipe.schedule_step)
    return 1.0


class Schedule:
    """Sets the optimizer's learning rates, each group's from its own first one.

    Args:
        optimizer: whose rates are set.
        recipe: which schedule, with its constants.
        epochs: those of the whole run, the last of which may be cut short.

    Attributes:
        epoch: the one begun last; None before the first.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, recipe: Recipe, epochs: int) -> None:
        self._optimizer, self._recipe, self._epochs = optimizer, recipe, epochs
        self._first = [group["lr"] for group in optimizer.param_groups]
        self.epoch: int | None = None

    def begin(self, epoch: int) -> None:
        """Set the learning rates of an epoch."""
        self.epoch = epoch
        factor = learning_rate_factor(self._recipe, epoch, self._epochs)
        for group, first in zip(self._optimizer.param_groups, self._first, strict=True):
            group["lr"] = first * factor
