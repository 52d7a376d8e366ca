"""Multi-similarity loss."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.losses.embeddings import check_batch, full_precision


class MultiSimilarityLoss(nn.Module):
    """Multi-similarity loss (Wang et al. 2019), as in equations 14 and 15 of MDProp, appendix C.1.1.

    With s_ij the cosine similarity, positives P_i (same class, j ≠ i) and negatives N_i of anchor i, pairs
    are mined:
        a negative k counts where s_ik > min_{j ∈ P_i} s_ij − ε,
        a positive j counts where s_ij < max_{k ∈ N_i} s_ik + ε,
    and over the pairs that count
        L = (1/B) Σ_i [ (1/α) log(1 + Σ_j exp(−α(s_ij − λ))) + (1/β) log(1 + Σ_k exp(β(s_ik − λ))) ].
    The paper prints 1/B before the first sum alone and calls a pair that does not count 0; as in Wang et al., whom it
    cites, both sums are means over the anchors, and such pairs are left out.
    An anchor without positives or without negatives has no pair that counts, and adds 0; a batch of such
    anchors has loss 0, with gradient 0. Embeddings that are NaN give a loss that is NaN. Computed in float32
    even under autocast (in float64 for float64 embeddings).

    Args:
        alpha: α, sharpness over positives.
        beta: β, sharpness over negatives.
        base: λ, the similarity that pairs are compared with.
        epsilon: ε, slack of the mining.

    Raises:
        ValueError: α or β is not above 0.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 40.0, base: float = 0.5, epsilon: float = 0.1) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta)):
            if not value > 0:
                raise ValueError(f"{name}: expected a number above 0, got {value}")
        self.alpha, self.beta, self.base, self.epsilon = alpha, beta, base, epsilon

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings `[B, D]` with labels int64 `[B]`.

        Raises:
            TypeError, ValueError: embeddings or labels of another type or shape.
        """
        check_batch(embeddings, labels)
        with torch.autocast(embeddings.device.type, enabled=False):
            unit = F.normalize(full_precision(embeddings), dim=1)
            similarities = unit @ unit.T
            positive, negative = self._mine(similarities.detach(), labels)
            pull = _log_one_plus_sum(-self.alpha * (similarities - self.base), positive) / self.alpha
            push = _log_one_plus_sum(self.beta * (similarities - self.base), negative) / self.beta
            return (pull + push).mean()

    def _mine(self, similarities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Boolean `[B, B]`: positives and negatives that count (equation 14)."""
        same = labels[:, None] == labels[None, :]
        positive = same.clone().fill_diagonal_(False)
        weakest_positive = similarities.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
        strongest_negative = similarities.masked_fill(same, -torch.inf).amax(1, keepdim=True)
        # By what is left out, so that a NaN, which compares with nothing, stays in and is seen in the loss.
        easy_positive = similarities >= strongest_negative + self.epsilon
        easy_negative = similarities <= weakest_positive - self.epsilon
        return positive & ~easy_positive, ~same & ~easy_negative

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: none."""
        return []

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, base={self.base}, epsilon={self.epsilon}"


def _log_one_plus_sum(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + Σ_j exp(x_ij)) over the masked entries of each row, `[B, B]` → `[B]`, without overflow."""
    masked = exponents.masked_fill(~mask, -torch.inf)
    return torch.logsumexp(F.pad(masked, (1, 0)), dim=1)
