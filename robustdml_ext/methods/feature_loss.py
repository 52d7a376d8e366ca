"""Losses that look behind the embeddings, at features and head: energy confusion, hard negatives, self-distillation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from robustdml_ext.methods.embedded import Embedded


class Progress(NamedTuple):
    """How far the training has come: the epoch and the optimizer's step of this batch, each from 0."""

    epoch: int = 0
    step: int = 0


class FeatureLoss(nn.Module):
    """A loss that looks behind the embeddings: `loss(embedded, labels, generator, progress)` → scalar.

    Attributes:
        metric: the metric loss L_m of embeddings that it adds to or takes the place of; may be a `FeatureLoss` too.
        parts: detached figures of its last call, for curves.

    Raises:
        TypeError: the metric loss is no module.
    """

    def __init__(self, metric: nn.Module) -> None:
        super().__init__()
        if not isinstance(metric, nn.Module):
            raise TypeError(f"metric: expected a loss, got {type(metric).__name__}")
        self.metric = metric
        self.parts: dict[str, Tensor] = {}

    def forward(self, embedded: Embedded, labels: Tensor, generator: torch.Generator, progress: Progress) -> Tensor:
        """The loss of a batch.

        Args:
            embedded: with features.
            labels: of the whole batch, int64 `[B]`.
            generator: what it draws from, alike in all processes.
            progress: of the training.
        """
        raise NotImplementedError

    def added(self, embedded: Embedded, labels: Tensor, generator: torch.Generator) -> Tensor:
        """What it adds to L_m, whatever L_m compares the embeddings with.

        Raises:
            TypeError: it takes the place of L_m.
        """
        raise TypeError(f"loss: {type(self).__name__} takes the place of the metric loss, and knows no label vectors")

    def trains_network(self, epoch: int) -> bool:
        """Whether the network is to learn in an epoch."""
        return not isinstance(self.metric, FeatureLoss) or self.metric.trains_network(epoch)

    def resting(self, epoch: int) -> Iterator[nn.Parameter]:
        """Its own parameters that have no gradient in an epoch."""
        return self.metric.resting(epoch) if isinstance(self.metric, FeatureLoss) else iter(())

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the parameters of L_m; for a subclass to add its own."""
        own_groups = getattr(self.metric, "parameter_groups", None)
        return [] if own_groups is None else list(own_groups(base_lr))


def check_number(name: str, number: object, *, above: bool = False) -> float:
    """A finite number of at least 0, or above it.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise TypeError(f"{name}: expected a number, got {type(number).__name__}")
    if not 0 <= number < math.inf or (above and number == 0):
        raise ValueError(f"{name}: expected a number {'above' if above else '>='} 0, got {number}")
    return number


def apply_loss(
    loss: nn.Module, embedded: Embedded, labels: Tensor, generator: torch.Generator, progress: Progress
) -> Tensor:  # fmt: skip
    """The loss of a batch, whatever it looks at; a `FeatureLoss` in full precision even under autocast."""
    value: Tensor
    if isinstance(loss, FeatureLoss):
        with torch.autocast(embedded.embeddings.device.type, enabled=False):
            value = loss(embedded, labels, generator, progress)
    else:
        value = loss(embedded.embeddings, labels)
    return value


def metric_alone(loss: nn.Module) -> nn.Module:
    """The metric loss `(embeddings, labels)` that a loss is built on: what an attack climbs."""
    while isinstance(loss, FeatureLoss):
        loss = loss.metric
    return loss
