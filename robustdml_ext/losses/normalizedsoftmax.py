"""Normalized softmax: classification by cosine, with a temperature."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from robustdml_ext.losses.proxies import loss_against_proxies, random_proxies


class NormalizedSoftmaxLoss(nn.Module):
    """Normalized softmax loss (Zhai & Wu 2019, "Classification is a strong baseline for deep metric learning").

    L = −(1/B) Σ_i log( exp(s(x_i, p_{y_i})/σ) / Σ_c exp(s(x_i, p_c)/σ) ) with s the cosine similarity of embedding
    and class proxy and σ the temperature. Computed in float32 even under autocast (in float64 for float64
    embeddings), by `ops.proxy_loss`: never a `[B, C]` tensor in memory.

    Attributes:
        proxies: `[num_classes, embedding_dim]`, of any length; only their direction counts.

    Args:
        num_classes: classes C of the training set; labels are 0 to C − 1.
        embedding_dim: D.
        temperature: σ.
        proxy_lr_scale: learning rate of the proxies over the network's.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self, num_classes: int, embedding_dim: int, temperature: float = 0.05, proxy_lr_scale: float = 1.0
    ) -> None:
        super().__init__()
        proxies = random_proxies(num_classes, embedding_dim)
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}")
        self.temperature, self.proxy_lr_scale = temperature, proxy_lr_scale
        self.proxies = nn.Parameter(proxies)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings `[B, D]` with labels int64 `[B]`.

        Raises:
            TypeError, ValueError: embeddings or labels of another type or shape, or (on the CPU) a label that
                is no class.
        """
        return loss_against_proxies(
            embeddings, self.proxies, labels, kind="normalized_softmax", scale=1 / self.temperature
        )

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: the proxies, with a multiple of the network's rate."""
        return [{"params": [self.proxies], "lr": self.proxy_lr_scale * base_lr}]

    def extra_repr(self) -> str:
        classes, dim = self.proxies.shape
        return f"{classes}, {dim}, temperature={self.temperature}, proxy_lr_scale={self.proxy_lr_scale}"
