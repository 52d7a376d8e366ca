"""The learned similarity S of "Learning Semantic Similarities for Prototypical Classifiers"."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.ops.similarity import similarity


class SimilarityNetwork(nn.Sequential):
    """S(prototype, embedding): how similar an embedding is to a class's prototype, learned; not symmetric.

    concat(prototype, embedding) → Linear(2d → hidden) → LeakyReLU → Dropout → Linear(hidden → 1), over all pairs of a
    batch at once: the logits S(E(x), C) of the paper's equation 1. For all pairs of the batch itself pass the
    embeddings as prototypes. The pairs are never built: see `robustdml_ext.ops.similarity`.

    It is the plain `nn.Sequential` of those four layers with another forward pass, so state dicts go either way, and
    `nn.Sequential.forward(network, torch.cat([prototypes, embeddings], 1))` scores given pairs `[T, 2d]` as `[T, 1]`.
    Computed in float32 even under autocast (in float64 for float64 parameters).

    Args:
        embedding_dim: d, of embeddings and prototypes alike.
        hidden: units of the hidden layer.
        negative_slope: of the leaky ReLU, 0 to 1.
        dropout: probability that a hidden unit of a pair is dropped in training mode, 0 <= p < 1; rounded to a
            multiple of 2^-16, of which quarters are the cheapest.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self, embedding_dim: int, hidden: int = 512, *, negative_slope: float = 0.1, dropout: float = 0.25
    ) -> None:
        if embedding_dim < 1 or hidden < 1:
            raise ValueError(f"embedding_dim, hidden: expected >= 1, got {embedding_dim}, {hidden}")
        if not 0 <= negative_slope <= 1:
            raise ValueError(f"negative_slope: expected a number from 0 to 1, got {negative_slope}")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability, 0 <= p < 1, got {dropout}")
        super().__init__(
            nn.Linear(2 * embedding_dim, hidden),
            nn.LeakyReLU(negative_slope),
            nn.Dropout(dropout),
            nn.Linear(hidden, 1),
        )
        self.embedding_dim = embedding_dim

    def forward(  # type: ignore[override]
        self, embeddings: Tensor, prototypes: Tensor, seed: Tensor | None = None
    ) -> Tensor:  # fmt: skip
        """Scores `[B, C]` of embeddings `[B, d]` against prototypes `[C, d]`.

        Args:
            embeddings, prototypes: as above.
            seed: of the dropout in training mode, int64 `[1]`; None: drawn from PyTorch's default generator of the
                device.

        Raises:
            TypeError, ValueError: no floating-point tensors, or of another shape.
        """
        for name, value in (("embeddings", embeddings), ("prototypes", prototypes)):
            if not isinstance(value, Tensor) or not value.is_floating_point():
                got = value.dtype if isinstance(value, Tensor) else type(value).__name__
                raise TypeError(f"{name}: expected a floating-point tensor, got {got}")
            if value.dim() != 2 or value.shape[1] != self.embedding_dim:
                raise ValueError(f"{name}: expected [N, {self.embedding_dim}], got {list(value.shape)}")
        first, leaky, dropout, last = (
            cast(nn.Linear, self[0]), cast(nn.LeakyReLU, self[1]), cast(nn.Dropout, self[2]), cast(nn.Linear, self[3]),
        )  # fmt: skip
        compute = torch.promote_types(first.weight.dtype, torch.float32)
        with torch.autocast(embeddings.device.type, enabled=False):
            # concat(prototype, embedding) · W₁ᵀ is one product per side.
            of_prototype, of_embedding = first.weight.to(compute).split(self.embedding_dim, dim=1)
            return similarity(
                F.linear(embeddings.to(compute), of_embedding),
                F.linear(prototypes.to(compute), of_prototype, first.bias.to(compute)),
                last.weight,
                last.bias,
                negative_slope=leaky.negative_slope,
                dropout=dropout.p if dropout.training else 0.0,
                seed=seed,
            )
