"""ArcFace: an additive angular margin to class centers."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from robustdml_ext.losses.proxies import loss_against_proxies, random_proxies


class ArcFaceLoss(nn.Module):
    """ArcFace (Deng et al. 2019), with the constants of MDProp, appendix C.1.2.

    L = −(1/B) Σ_i log( exp(s·cos(θ_{i,y_i} + m)) / (exp(s·cos(θ_{i,y_i} + m)) + Σ_{c ≠ y_i} exp(s·cos
    θ_{i,c})) ) with θ_{i,c} the angle between embedding i and the center of class c. The margin is on the
    true class alone.

    Where θ + m exceeds π, cos(θ + m) would rise again and reward the worst embeddings; there the logit is
    cos θ − m·sin m instead, as in the authors' code, so that it falls with θ everywhere. At cos θ = ±1, where
    θ has no derivative, its share of the gradient is 0. Computed in float32 even under autocast (in float64
    for float64 embeddings), by `ops.proxy_loss`: never a `[B, C]` tensor in memory.

    Attributes:
        centers: `[num_classes, embedding_dim]`, of any length; only their direction counts.

    Args:
        num_classes: classes C of the training set; labels are 0 to C − 1.
        embedding_dim: D.
        margin: m (γ in MDProp), in radians.
        scale: s.
        center_lr: learning rate of the centers.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        margin: float = 0.5,
        scale: float = 16.0,
        center_lr: float = 5e-4,
    ) -> None:
        super().__init__()
        centers = random_proxies(num_classes, embedding_dim)
        if not 0 <= margin < math.pi:
            raise ValueError(f"margin: expected an angle in [0, π), got {margin}")
        if not 0 < scale < math.inf:
            raise ValueError(f"scale: expected a finite number above 0, got {scale}")
        self.num_classes, self.margin, self.scale, self.center_lr = num_classes, margin, scale, center_lr
        self.centers = nn.Parameter(centers)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings `[B, D]` with labels int64 `[B]`.

        Raises:
            TypeError, ValueError: embeddings or labels of another type or shape, or (on the CPU) a label that
                is no class.
        """
        return loss_against_proxies(
            embeddings, self.centers, labels, kind="arcface", scale=self.scale, margin=self.margin
        )

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: the centers, with their own learning rate."""
        return [{"params": [self.centers], "lr": self.center_lr}]

    def extra_repr(self) -> str:
        classes, dim = self.centers.shape
        return f"{classes}, {dim}, margin={self.margin}, scale={self.scale}, center_lr={self.center_lr}"
