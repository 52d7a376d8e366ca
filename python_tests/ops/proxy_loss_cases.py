"""The losses over proxies by their papers' equations, with the papers' constants."""

from __future__ import annotations

import math

import torch
from torch import Tensor

CONSTANTS = {"arcface": (16.0, 0.5), "normalized_softmax": (20.0, 0.0), "proxy_anchor": (32.0, 0.1)}


def unit(rows: Tensor) -> Tensor:
    norm = rows.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, rows / torch.where(norm > 0, norm, 1.0), 0.0)


def exact_loss(e: Tensor, p: Tensor, labels: Tensor, kind: str, scale: float, margin: float) -> Tensor:
    """The papers' equations in float64, one class or one embedding after the other."""
    cosines = unit(e.double()) @ unit(p.double()).T
    batch, classes = cosines.shape
    if kind == "proxy_anchor":
        pull, push, present = e.new_zeros((), dtype=torch.float64), e.new_zeros((), dtype=torch.float64), 0
        for c in range(classes):
            positive, negative = cosines[labels == c, c], cosines[labels != c, c]
            present += int(len(positive) > 0)
            pull = pull + torch.cat([-scale * (positive - margin), positive.new_zeros(1)]).logsumexp(0)
            push = push + torch.cat([scale * (negative + margin), negative.new_zeros(1)]).logsumexp(0)
        return pull / present + push / classes
    losses = []
    for i in range(batch):
        own = cosines[i, labels[i]]
        if kind == "arcface":
            angle = torch.arccos(own.clamp(-1 + 1e-15, 1 - 1e-15))
            own = torch.cos(angle + margin) if angle < math.pi - margin else own - margin * math.sin(margin)
        others = torch.arange(classes, device=e.device) != labels[i]
        logits = scale * torch.cat([own[None], cosines[i, others]])
        losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()
