"""Losses of embeddings against class proxies, with the similarities, the pooling and the gradients fused."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._proxy_loss_reference import (
    compute_type,
    proxy_loss_backward_reference,
    proxy_loss_reference,
)
from robustdml_ext.ops._registration import below_autograd, define, register_autograd

KINDS = ("arcface", "normalized_softmax", "proxy_anchor")


def _fake(
    embeddings: Tensor, proxies: Tensor, labels: Tensor, kind: str, scale: float, margin: float
) -> tuple[Tensor, Tensor]:
    dtype = compute_type(embeddings)
    pooled = proxies if kind == "proxy_anchor" else embeddings
    return embeddings.new_empty((), dtype=dtype), embeddings.new_empty((2, pooled.shape[0]), dtype=dtype)


def _fake_backward(
    gradient: Tensor, embeddings: Tensor, proxies: Tensor, labels: Tensor, statistics: Tensor,
    kind: str, scale: float, margin: float, wants_embeddings: bool, wants_proxies: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    depth = embeddings.shape[1]
    return (
        embeddings.new_empty((embeddings.shape[0] if wants_embeddings else 0, depth)),
        proxies.new_empty((proxies.shape[0] if wants_proxies else 0, depth)),
    )


_proxy_loss = define(
    "proxy_loss(Tensor embeddings, Tensor proxies, Tensor labels, str kind, float scale, float margin) "
    "-> (Tensor, Tensor)",
    proxy_loss_reference,
    _fake,
)
_proxy_loss_backward = define(
    "proxy_loss_backward(Tensor gradient, Tensor embeddings, Tensor proxies, Tensor labels, Tensor statistics, "
    "str kind, float scale, float margin, bool wants_embeddings, bool wants_proxies) -> (Tensor, Tensor)",
    proxy_loss_backward_reference,
    _fake_backward,
)


class _ProxyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, embeddings: Tensor, proxies: Tensor, labels: Tensor, kind: str, scale: float, margin: float
    ) -> Any:
        loss, statistics = below_autograd(_proxy_loss, embeddings, proxies, labels, kind, scale, margin)
        ctx.save_for_backward(embeddings, proxies, labels, statistics)
        ctx.constants = (kind, scale, margin)
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        return loss, statistics

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, _: Tensor | None) -> Any:
        wanted = ctx.needs_input_grad[:2]
        if gradient is None or not any(wanted):
            return (None,) * 6
        gradients = _proxy_loss_backward(gradient, *ctx.saved_tensors, *ctx.constants, *wanted)
        return (*(g if want else None for g, want in zip(gradients, wanted, strict=True)), None, None, None, None)


class _ProxyLossBackward(torch.autograd.Function):
    """Refuses second derivatives where one is asked for: out of the graph, the gradient would pass for a constant."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        return below_autograd(_proxy_loss_backward, *arguments)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise NotImplementedError("proxy_loss has no second derivative")


register_autograd(_proxy_loss, _ProxyLoss)
register_autograd(_proxy_loss_backward, _ProxyLossBackward)


def proxy_loss(
    embeddings: Tensor, proxies: Tensor, labels: Tensor, *, kind: str, scale: float, margin: float = 0.0
) -> Tensor:
    """Loss of embeddings against one proxy a class, from the cosines s_ic of embedding i and proxy c.

    `"arcface"` (Deng et al. 2019, equation 3), with s the scale and m the margin, θ_ic the angle of cosine s_ic:
        (1/B) Σ_i −log( exp(s·cos(θ_iy + m)) / (exp(s·cos(θ_iy + m)) + Σ_{c ≠ y} exp(s·cos θ_ic)) ), y = labels[i];
        beyond θ_iy = π − m, where cos(θ + m) would rise again, cos θ_iy − m·sin m takes its place. The sine's share of
        the gradient is 0 at cos θ = ±1, where it has no derivative.
    `"normalized_softmax"` (Zhai & Wu 2019), with the scale one over their temperature; the margin is not used:
        (1/B) Σ_i −log( exp(scale·s_iy) / Σ_c exp(scale·s_ic) ).
    `"proxy_anchor"` (Kim et al. 2020, equation 4), with α the scale and δ the margin, P⁺ the proxies with positives in
    the batch:
        (1/|P⁺|) Σ_{c ∈ P⁺} log(1 + Σ_{i: y = c} exp(−α(s_ic − δ))) + (1/C) Σ_c log(1 + Σ_{i: y ≠ c} exp(α(s_ic + δ))).

    The kernels never hold more of the `[B, C]` cosines than a strip of classes: the backward pass makes them anew.
    A zero row has cosine 0 with everything and gradient 0. Differentiable once, towards embeddings and proxies.

    Args:
        embeddings: `[B, D]`, B >= 1, of any length: only directions count.
        proxies: `[C, D]`, dtype and device as `embeddings`, of any length.
        labels: the class of each embedding, 0 to C − 1, int64 `[B]`.
        kind: one of the above.
        scale: above 0.
        margin: of ArcFace in radians, in [0, π).

    Returns:
        Scalar, in float32 for half-precision embeddings.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes do not fit, another kind, a number out of its range, or (on the CPU) a label that is no
            class. On CUDA such a label is a device-side assertion.
    """
    _check.tensor("embeddings", embeddings, rank=2)
    _check.tensor("proxies", proxies, dtypes=(embeddings.dtype,), rank=2)
    _check.tensor("labels", labels, dtypes=(torch.int64,), rank=1)
    if embeddings.shape[0] < 1:
        raise ValueError(f"embeddings: expected [B, D] with B >= 1, got {_check.describe(embeddings)}")
    device = embeddings.device
    if proxies.shape[0] < 1 or proxies.shape[1] != embeddings.shape[1] or proxies.device != device:
        raise ValueError(
            f"proxies: expected [C, D] with C >= 1 and D = {embeddings.shape[1]} on {device}, "
            f"got {_check.describe(proxies)}"
        )
    if labels.device != device:
        raise ValueError(f"labels: expected [B] on {device}, got {_check.describe(labels)}")
    _check.shape("labels", labels, embeddings.shape[:1], "[B]")
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}; got {kind!r}")
    if not 0 < scale < math.inf:
        raise ValueError(f"scale: expected a finite number above 0, got {scale}")
    if kind == "arcface" and not 0 <= margin < math.pi:
        raise ValueError(f"margin: expected an angle in [0, π), got {margin}")
    if not -math.inf < margin < math.inf:
        raise ValueError(f"margin: expected a finite number, got {margin}")
    # On CUDA the look would wait for the device; there the kernel asserts.
    if labels.is_cpu and not torch.compiler.is_compiling():
        lowest, highest = (int(bound) for bound in labels.aminmax())
        if lowest < 0 or highest >= proxies.shape[0]:
            raise ValueError(f"labels: expected 0 to {proxies.shape[0] - 1}, got {lowest} to {highest}")
    loss, _ = _proxy_loss(embeddings, proxies, labels, kind, float(scale), float(margin))
    result: Tensor = loss
    return result
