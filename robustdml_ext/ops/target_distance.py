"""Mean distance of each embedding to its T targets, gathered from a bank by index: value and gradient in one pass."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._registration import below_autograd, define, register_autograd


def _compute_type(embeddings: Tensor) -> torch.dtype:
    return torch.promote_types(embeddings.dtype, torch.float32)


def _one_target(difference: Tensor, p: float, squared: bool) -> tuple[Tensor, Tensor]:
    """‖d‖ₚ (or its square) `[B]` and its gradient `[B, D]`, for differences d `[B, D]`; the gradient at 0 is 0."""
    if p == 2 and squared:
        return difference.square().sum(1), 2 * difference
    if p == 1:
        norm = difference.abs().sum(1)
        gradient = difference.sign()
    elif p == 2:
        norm = difference.square().sum(1).sqrt()
        gradient = torch.where(norm[:, None] > 0, difference / norm[:, None], 0.0)
    else:
        norm = difference.abs().amax(1) if difference.shape[1] else difference.new_zeros(len(difference))
        largest = (difference.abs() == norm[:, None]).to(difference.dtype)
        # Where several components are largest, the mean of their gradients: the subgradient autograd takes too.
        gradient = difference.sign() * largest / largest.sum(1, keepdim=True).clamp(min=1)
    return (norm.square(), 2 * norm[:, None] * gradient) if squared else (norm, gradient)


def target_distance_reference(
    embeddings: Tensor, bank: Tensor, targets: Tensor, p: float, squared: bool
) -> tuple[Tensor, Tensor]:
    """Values `[B]` and gradients `[B, D]` in plain PyTorch; the meaning of `robustdml::target_distance`."""
    compute = _compute_type(embeddings)
    f, b = embeddings.to(compute), bank.to(compute)
    values, gradients = f.new_zeros(f.shape[0]), torch.zeros_like(f, memory_format=torch.contiguous_format)
    for t in range(targets.shape[1]):
        value, gradient = _one_target(f - b.index_select(0, targets[:, t]), p, squared)
        values, gradients = values + value, gradients + gradient
    return values / targets.shape[1], (gradients / targets.shape[1]).to(embeddings.dtype)


def _fake(embeddings: Tensor, bank: Tensor, targets: Tensor, p: float, squared: bool) -> tuple[Tensor, Tensor]:
    value = embeddings.new_empty(embeddings.shape[0], dtype=_compute_type(embeddings))
    return value, torch.empty_like(embeddings, memory_format=torch.contiguous_format)


_target_distance = define(
    "target_distance(Tensor embeddings, Tensor bank, Tensor targets, float p, bool squared) -> (Tensor, Tensor)",
    target_distance_reference,
    _fake,
)


def _hessian_product(difference: Tensor, direction: Tensor, p: float, squared: bool) -> Tensor:
    """H·v for H = ∇² of one target's distance: what a second derivative of the objective needs. All `[B, D]`."""
    if p == 2 and squared:
        return 2 * direction
    norm, gradient = _one_target(difference, p, squared=False)
    along = (gradient * direction).sum(1, keepdim=True)
    curvature = torch.zeros_like(direction)
    if p == 2:
        safe = torch.where(norm > 0, norm, torch.inf)[:, None]
        curvature = (direction - gradient * along) / safe
    # ∇²(n²) = 2·(∇n ∇nᵀ + n·∇²n)
    return 2 * (gradient * along + norm[:, None] * curvature) if squared else curvature


class _TargetDistance(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embeddings: Tensor, bank: Tensor, targets: Tensor, p: float, squared: bool) -> Any:
        value, gradient = below_autograd(_target_distance, embeddings, bank, targets, p, squared)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(embeddings, bank, targets, gradient)
        ctx.p, ctx.squared = p, squared
        return value, gradient

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        grad_value, grad_gradient = gradients
        embeddings, bank, targets, gradient = ctx.saved_tensors
        grad_embeddings: Tensor | None = None
        grad_bank: Tensor | None = None
        if grad_value is not None and ctx.needs_input_grad[0]:
            grad_embeddings = (grad_value[:, None] * gradient).to(embeddings.dtype)
        if grad_gradient is None and not ctx.needs_input_grad[1]:
            return grad_embeddings, None, None, None, None

        # The rarer derivatives (towards the bank, and second ones), one target at a time: still no [B, T, D].
        count = targets.shape[1]
        compute = _compute_type(embeddings)
        f, b = embeddings.to(compute), bank.to(compute)
        grad_bank = torch.zeros_like(b)
        second = torch.zeros_like(f)
        for t in range(count):
            difference = f - b.index_select(0, targets[:, t])
            pull = torch.zeros_like(f)
            if grad_value is not None:
                pull = pull + grad_value[:, None] * _one_target(difference, ctx.p, ctx.squared)[1]
            if grad_gradient is not None:
                curved = _hessian_product(difference, grad_gradient.to(compute), ctx.p, ctx.squared)
                second, pull = second + curved, pull + curved
            grad_bank = grad_bank.index_add(0, targets[:, t], pull, alpha=-1)
        if grad_gradient is not None:
            second = (second / count).to(embeddings.dtype)
            grad_embeddings = second if grad_embeddings is None else grad_embeddings + second
        return grad_embeddings, (grad_bank / count).to(bank.dtype), None, None, None


register_autograd(_target_distance, _TargetDistance)


def target_distance(embeddings: Tensor, bank: Tensor, targets: Tensor, *, p: float = 2, squared: bool = True) -> Tensor:
    """Mean distance of each embedding to its T targets: MDProp's multi-target objective, per sample (equation 3).

    value_i = (1/T) · Σ_t ‖f_i − bank[targets[i, t]]‖ₚ   (squared: ‖·‖ₚ²)

    The gradient towards the embeddings is computed in the same pass as the values, and no `[B, T, D]` tensor is made.
    Differentiable towards `embeddings` and `bank`, twice. At a kink (p = 1, p = ∞, or a distance of 0) the gradient is
    the subgradient that autograd takes: 0 at 0, and for p = ∞ the mean over the largest components.

    Args:
        embeddings: f, `[B, D]`.
        bank: embeddings that targets are picked from, `[N, D]`, dtype and device as `embeddings`.
        targets: rows of the bank, int64 `[B, T]`, T >= 1.
        p: 1, 2 or `math.inf`.
        squared: square the norm (the paper's attack: squared l2).

    Returns:
        Values `[B]`, in float32 for half-precision embeddings.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes do not fit, or p is another.
        IndexError: a target is no row of the bank (on CUDA: a device-side assertion).
    """
    _check.tensor("embeddings", embeddings, rank=2)
    _check.tensor("bank", bank, dtypes=(embeddings.dtype,), rank=2)
    _check.tensor("targets", targets, dtypes=(torch.int64,), rank=2)
    if bank.shape[1] != embeddings.shape[1]:
        raise ValueError(f"bank: expected [N, D] with D = {embeddings.shape[1]}, got {_check.describe(bank)}")
    if targets.shape[0] != embeddings.shape[0] or targets.shape[1] < 1:
        raise ValueError(
            f"targets: expected [B, T] with B = {embeddings.shape[0]} and T >= 1, got {_check.describe(targets)}"
        )
    if p not in (1, 2, math.inf):
        raise ValueError(f"p: expected 1, 2 or inf, got {p}")
    # On CUDA the look would wait for the device; there the kernel asserts.
    if targets.is_cpu and targets.numel() and not torch.compiler.is_compiling():
        lowest, highest = (int(bound) for bound in targets.aminmax())
        if lowest < 0 or highest >= bank.shape[0]:
            raise IndexError(f"targets: expected rows of the bank, 0 to {bank.shape[0] - 1}; got {lowest} to {highest}")
    value, _ = _target_distance(embeddings, bank, targets, float(p), squared)
    result: Tensor = value
    return result
