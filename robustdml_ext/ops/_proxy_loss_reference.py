"""The proxy losses and their gradients in plain PyTorch, from the equations: what `robustdml::proxy_loss` means."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.ops._registration import without_autocast


def compute_type(embeddings: Tensor) -> torch.dtype:
    return torch.promote_types(embeddings.dtype, torch.float32)


def _unit_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """x/‖x‖ and 1/‖x‖ `[N, 1]`; both 0 where x is. Squares in float64, as those of float32 end at 1e-23 and 1e19."""
    compute = compute_type(rows)
    norm = rows.double().square().sum(1, keepdim=True).sqrt()
    inverse = torch.where(norm == 0, 0.0, 1 / norm).clamp(max=torch.finfo(compute).max).to(compute)
    return rows.to(compute) * inverse, inverse


def _widened(cosine: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """cos θ → cos(θ + m), continued beyond θ = π − m by cos θ − m·sin m, and its derivative towards cos θ."""
    cosine = cosine.clamp(-1, 1)
    smallest = torch.finfo(cosine.dtype).eps
    square = (1 - cosine) * (1 + cosine)
    sine = square.clamp_min(smallest).sqrt()
    inside = cosine * math.cos(margin) - sine * math.sin(margin)
    beyond = cosine - margin * math.sin(margin)
    slope = math.cos(margin) + torch.where(square < smallest, 0.0, cosine / sine) * math.sin(margin)
    is_beyond = cosine <= math.cos(math.pi - margin)
    return torch.where(is_beyond, beyond, inside), torch.where(is_beyond, 1.0, slope)


def _log_one_plus_sum(exponents: Tensor, mask: Tensor) -> Tensor:
    """log(1 + Σ_i exp(x_ic)) over the masked entries of each column, `[B, C]` → `[C]`, without overflow."""
    return F.pad(exponents.masked_fill(~mask, -torch.inf), (0, 0, 1, 0)).logsumexp(0)


@without_autocast
def proxy_loss_reference(
    embeddings: Tensor, proxies: Tensor, labels: Tensor, kind: str, scale: float, margin: float
) -> tuple[Tensor, Tensor]:
    """The loss, and what its gradient needs: for each embedding `[2, B]` log Σ exp of its logits and its loss, for
    proxy-anchor `[2, C]` log(1 + Σ exp) over the positives and over the negatives of each class."""
    cosines = _unit_rows(embeddings)[0] @ _unit_rows(proxies)[0].T
    target = F.one_hot(labels, proxies.shape[0]).bool()
    if kind == "proxy_anchor":
        pull = _log_one_plus_sum(-scale * (cosines - margin), target)
        push = _log_one_plus_sum(scale * (cosines + margin), ~target)
        return pull.sum() / target.any(0).sum() + push.mean(), torch.stack([pull, push])
    logits = scale * cosines
    own = cosines.gather(1, labels[:, None])
    if kind == "arcface":
        own = _widened(own, margin)[0]
    logits = logits.scatter(1, labels[:, None], scale * own)
    losses = F.cross_entropy(logits, labels, reduction="none")
    return losses.mean(), torch.stack([logits.logsumexp(1), losses])


def _cosine_gradient(
    cosines: Tensor, labels: Tensor, statistics: Tensor, kind: str, scale: float, margin: float
) -> Tensor:
    """∂loss/∂cosines, `[B, C]`."""
    target = F.one_hot(labels, cosines.shape[1]).bool()
    if kind == "proxy_anchor":
        pull, push = statistics
        pulls = torch.exp(-scale * (cosines - margin) - pull) * (-scale / target.any(0).sum().to(pull.dtype))
        pushes = torch.exp(scale * (cosines + margin) - push) * (scale / cosines.shape[1])
        return torch.where(target, pulls, pushes)
    pool, losses = statistics
    others = torch.exp(scale * cosines - pool[:, None])
    # p − 1 from the loss −log p: exact where p is close to 1.
    own = torch.expm1(-losses)[:, None]
    if kind == "arcface":
        own = own * _widened(cosines.gather(1, labels[:, None]), margin)[1]
    return torch.where(target, own, others) * (scale / max(cosines.shape[0], 1))


def _through_norm(gradient: Tensor, unit: Tensor, inverse: Tensor) -> Tensor:
    """The gradient towards x of what has `gradient` towards x/‖x‖."""
    return (gradient - unit * (gradient * unit).sum(1, keepdim=True)) * inverse


@without_autocast
def proxy_loss_backward_reference(
    gradient: Tensor, embeddings: Tensor, proxies: Tensor, labels: Tensor, statistics: Tensor,
    kind: str, scale: float, margin: float, wants_embeddings: bool, wants_proxies: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients `[B, D]` and `[C, D]`; `[0, D]` in place of one that is not wanted."""
    unit, inverse = _unit_rows(embeddings)
    directions, inverse_proxies = _unit_rows(proxies)
    towards = gradient * _cosine_gradient(unit @ directions.T, labels, statistics, kind, scale, margin)
    results = [embeddings.new_empty(0, embeddings.shape[1]), proxies.new_empty(0, proxies.shape[1])]
    if wants_embeddings:
        results[0] = _through_norm(towards @ directions, unit, inverse).to(embeddings.dtype)
    if wants_proxies:
        results[1] = _through_norm(towards.T @ unit, directions, inverse_proxies).to(proxies.dtype)
    return results[0], results[1]
