"""Optimizers by name."""

from __future__ import annotations

from typing import Any

import torch


def build_optimizer(name: str, groups: list[dict[str, Any]], learning_rate: float) -> torch.optim.Optimizer:
    """Return the optimizer ``name`` (adam, adamw or sgd) over parameter groups.

    Args:
        groups: as PyTorch takes them; a group without ``lr`` gets ``learning_rate``.

    Raises:
        ValueError: unknown name.
    """
    # Fused: one pass over all parameters, where the default takes a dozen small operations for each.
    if name == "adam":
        return torch.optim.Adam(groups, lr=learning_rate, fused=True)
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=learning_rate, fused=True)
    if name == "sgd":
        return torch.optim.SGD(groups, lr=learning_rate, momentum=0.9, fused=True)
    raise ValueError(f"optimizer must be adam, adamw or sgd; got {name!r}")
