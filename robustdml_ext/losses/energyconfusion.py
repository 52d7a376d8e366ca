"""Energy confusion: the regularizer of energy confused adversarial metric learning."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.losses.embeddings import check_batch
from robustdml_ext.ops.energy_confusion import energy_confusion


class EnergyConfusion(nn.Module):
    """Energy confusion of ECAML, to be added to a metric loss with a weight λ (equations 7 and 11).

    With L_ec(I, J) the mean squared Euclidean distance between the features of classes I and J (equation 3), the sum
    over ordered pairs I ≠ J of the batch's classes of log(1 + L_ec(I, J)), or of L_ec(I, J) itself. Minimizing it
    draws classes together, against the metric loss. A batch of one class has loss 0, with gradient 0.

    The paper applies it to the features before any normalization, and lets its gradient reach the last fully connected
    layer alone: give it that layer's output on features that are detached.

    Args:
        logarithmic: log(1 + L_ec) (equation 11, "for numerical stability") instead of L_ec (equation 7).
        reduction: "sum" over the pairs, as in the paper, or "mean", which does not depend on the number of classes.
        pairs: how many ordered pairs to draw at each call, uniformly and with replacement, as the paper draws its class
            sets at random; None: all pairs. Their mean is an unbiased estimate of the mean over all pairs.
        generator: source of the draws, on the features' device; None: PyTorch's default.

    Raises:
        ValueError: another reduction, or pairs below 1.
    """

    def __init__(
        self,
        logarithmic: bool = True,
        reduction: str = "sum",
        pairs: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction: expected sum or mean, got {reduction!r}")
        if pairs is not None and pairs < 1:
            raise ValueError(f"pairs: expected >= 1 or None, got {pairs}")
        self.logarithmic, self.reduction, self.pairs, self.generator = logarithmic, reduction, pairs, generator

    def forward(self, features: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Scalar loss of features `[B, D]` with labels int64 `[B]`; float32, or float64 for float64 features.

        Args:
            generator: source of this call's draws; the loss's own where None.

        Raises:
            TypeError, ValueError: features or labels of another type or shape.
        """
        check_batch(features, labels)
        drawn = None if self.pairs is None else self._draw(labels, self.pairs, generator)
        return energy_confusion(features, labels, pairs=drawn, logarithmic=self.logarithmic, reduction=self.reduction)

    def _draw(self, labels: Tensor, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Ordered pairs of different classes, int64 `[count, 2]`; of one class with itself where there is but one."""
        # As a tensor, so that nothing waits for the device.
        classes = labels.sort().values.diff().ne(0).sum() + 1
        draws = torch.rand(2, count, dtype=torch.float64, device=labels.device, generator=generator or self.generator)
        # Rounding may lift a product to the bound itself.
        first = torch.minimum((draws[0] * classes).long(), classes - 1)
        step = torch.minimum((draws[1] * (classes - 1)).long(), (classes - 2).clamp(min=0)) + 1
        return torch.stack([first, (first + step) % classes], dim=1)

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: none."""
        return []

    def extra_repr(self) -> str:
        return f"logarithmic={self.logarithmic}, reduction={self.reduction!r}, pairs={self.pairs}"
