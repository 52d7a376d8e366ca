"""Scores of all (embedding, prototype) pairs under a learned similarity: both layers fused, dropout from a seed."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._registration import below_autograd, define, register_autograd
from robustdml_ext.ops._similarity_dropout import dropped_share, keep_mask


def _compute_type(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _kept(embeddings: Tensor, prototypes: Tensor, seed: Tensor | None, dropped: int) -> Tensor | float:
    """What dropout multiplies activations by: `[B, C, H]`, or 1 where it drops nothing."""
    if not dropped:
        return 1.0
    assert seed is not None
    mask = keep_mask(seed, len(embeddings), len(prototypes), embeddings.shape[1], dropped)
    return mask.to(_compute_type(embeddings)) * (2**16 / (2**16 - dropped))


def similarity_reference(
    embeddings: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    slope: float,
    dropped: int,
) -> Tensor:
    """Scores `[B, C]` in plain PyTorch, over the `[B, C, H]` activations; the meaning of `robustdml::similarity`."""
    compute = _compute_type(embeddings)
    x = embeddings.to(compute)[:, None] + prototypes.to(compute)[None]
    active = torch.where(x > 0, x, slope * x) * _kept(embeddings, prototypes, seed, dropped)
    # No matrix product: autocast would round it to half precision.
    scores: Tensor = (active * weight).sum(2) + bias.reshape(())
    return scores


def similarity_backward_reference(
    grad: Tensor,
    embeddings: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    slope: float,
    dropped: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients towards embeddings `[B, H]`, prototypes `[C, H]` and weight `[H]`, in plain PyTorch."""
    compute = _compute_type(embeddings)
    x = embeddings.to(compute)[:, None] + prototypes.to(compute)[None]
    through = grad[..., None] * _kept(embeddings, prototypes, seed, dropped)
    pull = torch.where(x > 0, through, slope * through)
    to_weight = (through * torch.where(x > 0, x, slope * x)).sum((0, 1))
    to_embeddings = (pull.sum(1) * weight).to(embeddings.dtype)
    return to_embeddings, (pull.sum(0) * weight).to(prototypes.dtype), to_weight


def _fake(
    embeddings: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    bias: Tensor,
    seed: Tensor | None,
    slope: float,
    dropped: int,
) -> Tensor:
    return embeddings.new_empty((embeddings.shape[0], prototypes.shape[0]), dtype=_compute_type(embeddings))


def _fake_backward(
    grad: Tensor,
    embeddings: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    seed: Tensor | None,
    slope: float,
    dropped: int,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        embeddings.new_empty(embeddings.shape),
        prototypes.new_empty(prototypes.shape),
        weight.new_empty(weight.shape),
    )


_similarity = define(
    "similarity(Tensor embeddings, Tensor prototypes, Tensor weight, Tensor bias, Tensor? seed, float slope, "
    "int dropped) -> Tensor",
    similarity_reference,
    _fake,
)
_similarity_backward = define(
    "similarity_backward(Tensor grad, Tensor embeddings, Tensor prototypes, Tensor weight, Tensor? seed, float slope, "
    "int dropped) -> (Tensor, Tensor, Tensor)",
    similarity_backward_reference,
    _fake_backward,
)


class _Similarity(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, prototypes: Tensor, weight: Tensor, bias: Tensor, seed: Tensor | None,
        slope: float, dropped: int,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(embeddings, prototypes, weight, seed)
        ctx.slope, ctx.dropped, ctx.bias_shape = slope, dropped, bias.shape
        scores: Tensor = below_autograd(_similarity, embeddings, prototypes, weight, bias, seed, slope, dropped)
        return scores

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        embeddings, prototypes, weight, seed = ctx.saved_tensors
        gradients: tuple[Tensor | None, ...] = (None, None, None)
        if any(ctx.needs_input_grad[:3]):
            found = _similarity_backward(grad, embeddings, prototypes, weight, seed, ctx.slope, ctx.dropped)
            gradients = tuple(g if need else None for g, need in zip(found, ctx.needs_input_grad, strict=False))
        to_bias = grad.sum().reshape(ctx.bias_shape) if ctx.needs_input_grad[3] else None
        return (*gradients, to_bias, None, None, None)


class _SimilarityBackward(torch.autograd.Function):
    """Refuses second derivatives only where one is asked for: `create_graph=True` alone does no harm."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        return below_autograd(_similarity_backward, *arguments)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise NotImplementedError("similarity: no second derivatives; differentiate the plain network for those")


register_autograd(_similarity, _Similarity)
register_autograd(_similarity_backward, _SimilarityBackward)


def draw_seed(device: torch.device | str) -> Tensor:
    """A seed for `similarity`'s dropout, int64 `[1]`, from PyTorch's default generator of `device`."""
    return torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=device)


def similarity(
    embeddings: Tensor,
    prototypes: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    negative_slope: float = 0.1,
    dropout: float = 0.0,
    seed: Tensor | None = None,
) -> Tensor:
    """Scores of all pairs under a learned similarity S, from its first layer's two halves.

    score_bc = Σ_h w_h · dropout(leaky_relu(E_bh + P_ch)) + bias

    S is a network on concat(prototype, embedding); its first layer W₁ splits into one product per side,
    P = prototypes · W₁[:, :d]ᵀ + b₁ and E = embeddings · W₁[:, d:]ᵀ (Learning Semantic Similarities for Prototypical
    Classifiers, equation 1: the logits S(E(x), C)). Neither the `[B, C, 2d]` pairs nor the `[B, C, H]` activations are
    made, forward or backward: memory beyond the arguments, scores and gradients is O(B·C + (B + C)·H) at most.

    The drop probability is rounded to a multiple of 2^-16 (a quarter is exact, 0.1 becomes 6554/65536), and what is
    kept is scaled by 1 / (1 − the rounded probability). The mask is a function of the seed and of (b, c, h) alone: the
    backward pass recomputes it, and it is the same on every device and for every number of threads. A probability
    with few binary digits is the cheaper one: a mask takes as many random bits a unit.

    Differentiable once, towards everything but the seed. Where E_bh + P_ch is 0 the slope is `negative_slope`, as in
    PyTorch.

    Args:
        embeddings: E, `[B, H]`.
        prototypes: P, `[C, H]`, dtype and device as `embeddings`.
        weight: w, the second layer's, `[H]` or `[1, H]`.
        bias: the second layer's, `[]` or `[1]`.
        negative_slope: of the leaky ReLU, 0 to 1.
        dropout: probability that a hidden unit of a pair is dropped, 0 <= p < 1.
        seed: int64 `[]` or `[1]`; where None and `dropout` > 0, one is drawn from PyTorch's default generator of the
            device.

    Returns:
        Scores `[B, C]`, in float32 for half-precision embeddings.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes or devices do not fit, or a number out of its range.
    """
    _check.tensor("embeddings", embeddings, rank=2)
    _check.tensor("prototypes", prototypes, dtypes=(embeddings.dtype,), rank=2)
    hidden = embeddings.shape[1]
    if prototypes.shape[1] != hidden or prototypes.device != embeddings.device:
        raise ValueError(
            f"prototypes: expected [C, H] with H = {hidden} on {embeddings.device}, got {_check.describe(prototypes)}"
        )
    for name, value, shapes in (("weight", weight, [[hidden], [1, hidden]]), ("bias", bias, [[], [1]])):
        _check.tensor(name, value)
        if list(value.shape) not in shapes or value.device != embeddings.device:
            raise ValueError(
                f"{name}: expected shape {shapes[0]} or {shapes[1]} on {embeddings.device}, "
                f"got {_check.describe(value)}"
            )
    if not 0 <= negative_slope <= 1:
        raise ValueError(f"negative_slope: expected a number from 0 to 1, got {negative_slope}")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout: expected a probability, 0 <= p < 1, got {dropout}")
    dropped = dropped_share(dropout)
    if not dropped:
        seed = None
    elif seed is None:
        seed = draw_seed(embeddings.device)
    else:
        _check.tensor("seed", seed, dtypes=(torch.int64,))
        if seed.numel() != 1:
            raise ValueError(f"seed: expected one number, got {_check.describe(seed)}")
        seed = seed.reshape(1).to(embeddings.device)
    compute = _compute_type(embeddings)
    scores: Tensor = _similarity(
        embeddings,
        prototypes,
        weight.reshape(hidden).to(compute),
        bias.to(compute),
        seed,
        float(negative_slope),
        dropped,
    )
    return scores
