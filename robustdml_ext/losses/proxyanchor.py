"""Proxy-Anchor: every class proxy an anchor for the whole batch."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from robustdml_ext.losses.proxies import loss_against_proxies, random_proxies


class ProxyAnchorLoss(nn.Module):
    """Proxy-Anchor loss (Kim et al. 2020, equation 4), the loss that Ensemble Adversarial Training is built on.

    With s the cosine similarity, P all proxies and P⁺ those with an embedding of their class in the batch, X⁺_p the
    embeddings of proxy p's class and X⁻_p the others,
        L = (1/|P⁺|) Σ_{p ∈ P⁺} log(1 + Σ_{x ∈ X⁺_p} exp(−α(s(x, p) − δ)))
          + (1/|P|) Σ_{p ∈ P} log(1 + Σ_{x ∈ X⁻_p} exp(α(s(x, p) + δ))).
    Computed in float32 even under autocast (in float64 for float64 embeddings), by `ops.proxy_loss`: never a `[B, C]`
    tensor in memory.

    Attributes:
        proxies: `[num_classes, embedding_dim]`, of any length; only their direction counts.

    Args:
        num_classes: classes C of the training set; labels are 0 to C − 1.
        embedding_dim: D.
        alpha: α, sharpness.
        delta: δ, the margin.
        proxy_lr_scale: learning rate of the proxies over the network's; 100 in the paper.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_dim: int,
        alpha: float = 32.0,
        delta: float = 0.1,
        proxy_lr_scale: float = 100.0,
    ) -> None:
        super().__init__()
        proxies = random_proxies(num_classes, embedding_dim)
        if not 0 < alpha < math.inf:
            raise ValueError(f"alpha: expected a finite number above 0, got {alpha}")
        if not math.isfinite(delta):
            raise ValueError(f"delta: expected a finite number, got {delta}")
        self.alpha, self.delta, self.proxy_lr_scale = alpha, delta, proxy_lr_scale
        self.proxies = nn.Parameter(proxies)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings `[B, D]` with labels int64 `[B]`.

        Raises:
            TypeError, ValueError: embeddings or labels of another type or shape, or (on the CPU) a label that
                is no class.
        """
        return loss_against_proxies(
            embeddings, self.proxies, labels, kind="proxy_anchor", scale=self.alpha, margin=self.delta
        )

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: the proxies, with a multiple of the network's rate."""
        return [{"params": [self.proxies], "lr": self.proxy_lr_scale * base_lr}]

    def extra_repr(self) -> str:
        classes, dim = self.proxies.shape
        return f"{classes}, {dim}, alpha={self.alpha}, delta={self.delta}, proxy_lr_scale={self.proxy_lr_scale}"
