"""Energy Confused Adversarial Metric Learning (ECAML, Chen & Deng): a regularizer of any metric loss."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustdml_ext.losses import EnergyConfusion
from robustdml_ext.methods.embedded import Embedded
from robustdml_ext.methods.feature_loss import FeatureLoss, Progress, apply_loss, check_number


class EnergyConfused(FeatureLoss):
    """L = L_m(θ_f; T, D) + λ Σ_{I ≠ J} log(1 + L_ec(θ_f; X_I, X_J)), equation 11 of ECAML.

    L_m, the defender, tells classes apart; energy confusion, the attacker, draws them together: it minimizes the
    expected squared distance between the features of two classes. It sees the head's output before any normalization,
    and constrains the learning of the head alone ("the overfitting mainly appears at the fc layer"): its gradient stops
    at the head's input.

    The equation sums over pairs of classes, L_m over anchors. With `reduction="mean"`, here the default, the second
    term is a mean as the losses of this package are, and the paper's λ (0.02, 0.3, 0.13) weigh terms of one size; so it
    is in the published code, whose term is of the size of one log. With "sum" a batch of 64 classes counts 4,032 pairs.

    Args:
        metric: L_m.
        weight: λ; 0 leaves L_m as it is.
        logarithmic: equation 11, or 7 where False.
        reduction: over pairs of classes, "mean" or "sum".
        pairs: how many ordered pairs of the batch's classes are drawn at random at each step; None: all of them.

    Raises:
        ValueError: a number out of its range, or another reduction.
    """

    def __init__(
        self,
        metric: nn.Module,
        weight: float,
        *,
        logarithmic: bool = True,
        reduction: str = "mean",
        pairs: int | None = None,
    ) -> None:
        super().__init__(metric)
        self.weight = check_number("weight", weight)
        self.confusion = EnergyConfusion(logarithmic, reduction, pairs)

    def forward(self, embedded: Embedded, labels: Tensor, generator: torch.Generator, progress: Progress) -> Tensor:
        """L_m + λ·(energy confusion); see `FeatureLoss`."""
        metric = apply_loss(self.metric, embedded, labels, generator, progress)
        below = self.metric.parts if isinstance(self.metric, FeatureLoss) else {"loss/metric": metric.detach()}
        if not self.trains_network(progress.epoch):  # L_m does not defend the network then
            self.parts = dict(below)
            return metric
        confusion = self.added(embedded, labels, generator)
        self.parts |= below
        return metric + confusion

    def added(self, embedded: Embedded, labels: Tensor, generator: torch.Generator) -> Tensor:
        """λ·Σ_{I ≠ J} log(1 + L_ec(X_I, X_J)), whose gradient reaches the head's parameters alone.

        Raises:
            ValueError: the batch comes without features.
        """
        if embedded.features is None:
            raise ValueError("embedded: expected features, which energy confusion looks at; got None")
        outputs = embedded.head.outputs(embedded.features.detach())
        confusion: Tensor = self.weight * self.confusion(outputs, labels, generator)
        self.parts = {"loss/confusion": confusion.detach()}
        return confusion

    def extra_repr(self) -> str:
        return f"weight={self.weight}"
