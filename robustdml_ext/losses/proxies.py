"""What losses against class proxies share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robustdml_ext.losses.embeddings import check_batch, full_precision
from robustdml_ext.ops.proxy_loss import proxy_loss


def random_proxies(num_classes: int, embedding_dim: int) -> Tensor:
    """Uniform directions `[C, D]`, of about unit length, so that a learning rate means the same for every D.

    Raises:
        ValueError: there is no class or no dimension.
    """
    if num_classes < 1 or embedding_dim < 1:
        raise ValueError(f"num_classes, embedding_dim: expected >= 1, got {num_classes}, {embedding_dim}")
    return torch.randn(num_classes, embedding_dim) / math.sqrt(embedding_dim)


def loss_against_proxies(
    embeddings: Tensor, proxies: Tensor, labels: Tensor, *, kind: str, scale: float, margin: float = 0.0
) -> Tensor:
    """`ops.proxy_loss` of a batch that it checks first, in float32 at least, whatever the mixture of dtypes.

    Raises:
        TypeError, ValueError: embeddings or labels of another type or shape, or (on the CPU) a label that is no class.
    """
    check_batch(embeddings, labels, proxies.shape[1])
    if embeddings.dtype != proxies.dtype:
        embeddings = full_precision(embeddings)
        proxies = proxies.to(embeddings.dtype)
    return proxy_loss(embeddings, proxies, labels, kind=kind, scale=scale, margin=margin)
