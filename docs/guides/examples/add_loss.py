"""A metric loss of one's own: any module from embeddings and labels to a scalar."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CosineHingeLoss(nn.Module):
    """Every pair of a class at a cosine of 1, every other pair at a cosine of `bound` or below.

    L = mean over positive pairs of (1 − s_ij) + mean over negative pairs of [s_ij − bound]₊, s the cosine similarity. A
    side without pairs adds 0.

    Args:
        bound: cosine up to which a negative pair costs nothing.

    Raises:
        ValueError: a bound outside of [−1, 1].
    """

    def __init__(self, bound: float = 0.2) -> None:
        super().__init__()
        if not -1 <= bound <= 1:
            raise ValueError(f"bound: expected a number from -1 to 1, got {bound}")
        self.bound = bound

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Scalar loss of embeddings `[B, D]` with labels int64 `[B]`."""
        unit = F.normalize(embeddings, dim=1)
        similarity = unit @ unit.T
        same = labels[:, None] == labels
        itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        return _mean(1 - similarity, same & ~itself) + _mean((similarity - self.bound).relu(), ~same)

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: none."""
        return []


def _mean(costs: Tensor, pairs: Tensor) -> Tensor:
    return torch.where(pairs, costs, 0).sum() / pairs.sum().clamp(min=1)


if __name__ == "__main__":
    from robustdml_ext.methods import Batch, Context, MDProp
    from robustdml_ext.models import build_embedder

    embedder = build_embedder("small", channels=1, embedding_dim=16, distributions=3)
    method = MDProp(embedder, CosineHingeLoss(), targets=[1, 5]).train()
    batch = Batch(torch.rand(24, 1, 8, 8), torch.arange(24) // 4)
    print(method.training_step(batch, torch.Generator(), Context()).loss.item())
