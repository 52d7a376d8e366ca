"""What every loss does with its arguments first."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(embeddings: Tensor) -> Tensor:
    """The embeddings in float32, or float64 where they are."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def check_batch(embeddings: object, labels: object, embedding_dim: int | None = None) -> None:
    """Checks embeddings `[B, D]`, B >= 1, and labels int64 `[B]`.

    Raises:
        TypeError: they are no tensors of floating-point numbers and of integers.
        ValueError: shapes do not fit.
    """
    if not isinstance(embeddings, Tensor) or not embeddings.is_floating_point():
        got = embeddings.dtype if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"embeddings: expected a floating-point tensor [B, D], got {got}")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
        got = labels.dtype if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(f"labels: expected an int64 tensor [B], got {got}")
    if embeddings.dim() != 2 or len(embeddings) == 0:
        raise ValueError(f"embeddings: expected [B, D] with B >= 1, got {list(embeddings.shape)}")
    if labels.shape != embeddings.shape[:1]:
        raise ValueError(f"labels: expected [{len(embeddings)}], one an embedding, got {list(labels.shape)}")
    if embedding_dim is not None and embeddings.shape[1] != embedding_dim:
        raise ValueError(f"embeddings: expected [B, {embedding_dim}], got {list(embeddings.shape)}")
