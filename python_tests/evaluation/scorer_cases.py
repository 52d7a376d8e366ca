"""Scores written out pair by pair in float64, and callables that are no scorers of ours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from robustdml_ext.models import SimilarityNetwork

NAMES = ("similarity", "cosine", "sum", "published-sum")


def network(dim: int, seed: int = 0, hidden: int = 12) -> SimilarityNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = SimilarityNetwork(dim, hidden)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(3.0)
    return made


def plain_scores(name: str, net: SimilarityNetwork, queries: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Float64 [N, M]: S on every concatenated pair, the cosine, and their sums, one pair at a time."""
    first, last = (
        [p.detach().double().numpy() for p in (layer.weight, layer.bias)]  # type: ignore[union-attr]
        for layer in (net[0], net[3])
    )
    scores = np.empty((len(queries), len(items)))
    for i, x in enumerate(queries.astype(np.float64)):
        for j, y in enumerate(items.astype(np.float64)):
            hidden = first[0] @ np.concatenate([y, x]) + first[1]
            learned = float(last[0][0] @ np.where(hidden > 0, hidden, 0.1 * hidden) + last[1][0])
            length = np.sqrt(float(x @ x) * float(y @ y))
            cosine = float(x @ y) / length if length else 0.0
            scores[i, j] = {
                "similarity": learned,
                "cosine": cosine,
                "sum": learned + cosine,
                "published-sum": 1 / (1 + np.exp(-learned)) + (1 + cosine) / 2,
            }[name]
    return scores


def plane(queries: Tensor, items: Tensor) -> Tensor:
    """A score that is not symmetric, exact in float32 on small whole numbers, and ties all the time."""
    weights = torch.arange(1.0, queries.shape[1] + 1).to(queries)
    return (queries * weights) @ items.T - items.sum(1)


class Tilted(nn.Module):
    """A similarity network of another make."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.form = nn.Parameter(torch.randn(dim, dim, generator=torch.Generator().manual_seed(0)))
        self.modes: list[bool] = []

    def forward(self, embeddings: Tensor, prototypes: Tensor) -> Tensor:
        self.modes.append(self.training)
        return embeddings @ self.form @ prototypes.T
