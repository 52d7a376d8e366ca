"""Autograd formulas of `distribution_norm`: by its own batch, by constants, and synchronized over processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed
from torch import Tensor

from robustdml_ext.ops import _distribution_norm_operators as operators
from robustdml_ext.ops._distribution_norm_operators import by_segment, channel_sum, per_channel
from robustdml_ext.ops._registration import below_autograd, register_autograd


def _input_gradients(
    ctx: Any, grad_output: Tensor, counts: list[int], sums: Tensor | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Gradients towards (input, residual, weight, bias) from what the forward pass saved."""
    input, output, weight, mean, variance = ctx.saved_tensors
    wants_residual = ctx.has_residual and ctx.needs_input_grad[1]
    wants_parameters = ctx.needs_input_grad[2] or ctx.needs_input_grad[3]
    # Without a ReLU the residual's gradient is the output's own.
    grad_input, grad_residual, grad_weight, grad_bias = operators.backward(
        grad_output, input, output, weight, mean, variance, sums, counts, ctx.segments, ctx.eps,
        wants_parameters, wants_residual and output is not None,
    )  # fmt: skip
    return (
        grad_input,
        (grad_residual if output is not None else grad_output) if wants_residual else None,
        grad_weight if ctx.needs_input_grad[2] else None,
        grad_bias if ctx.needs_input_grad[3] else None,
    )


def _save(
    ctx: Any, input: Tensor, residual: Tensor | None, weight: Tensor, mean: Tensor, variance: Tensor, output: Tensor
) -> None:
    ctx.save_for_backward(input, output if ctx.relu else None, weight, mean, variance)
    ctx.has_residual = residual is not None


class _ByBatch(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor,
        segments: list[int], eps: float, relu: bool,
    ) -> Any:  # fmt: skip
        output, mean, variance = below_autograd(operators.batch, input, residual, weight, bias, segments, eps, relu)
        ctx.segments, ctx.eps, ctx.relu = segments, eps, relu
        _save(ctx, input, residual, weight, mean, variance, output)
        ctx.mark_non_differentiable(mean, variance)
        ctx.set_materialize_grads(False)
        return output, mean, variance

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor | None, *_: Tensor | None) -> Any:
        if grad_output is None:
            return (None,) * 7
        counts = operators.values_per_channel(ctx.saved_tensors[0], ctx.segments)
        return (*_input_gradients(ctx, grad_output, counts), None, None, None)


class _ByConstants(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor,
        mean: Tensor, variance: Tensor, segments: list[int], eps: float, relu: bool,
    ) -> Any:  # fmt: skip
        output = below_autograd(operators.apply, input, residual, weight, bias, mean, variance, segments, eps, relu)
        ctx.segments, ctx.eps, ctx.relu = segments, eps, relu
        _save(ctx, input, residual, weight, mean, variance, output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (*_input_gradients(ctx, gradients[0], []), None, None, None, None, None)


class _Backward(torch.autograd.Function):
    """The gradient's own gradient, from the formula in plain PyTorch: second derivatives are rare, not hot."""

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        grad_output, input, output, weight, mean, variance, sums, counts, segments, eps, _, residual = arguments
        if sums is not None:
            raise NotImplementedError("second derivatives are not available where statistics span processes")
        ctx.save_for_backward(grad_output, input, output, weight, mean, variance)
        ctx.counts, ctx.segments, ctx.eps, ctx.residual = counts, segments, eps, residual
        ctx.set_materialize_grads(False)
        return below_autograd(operators.backward, *arguments)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        grad_output, input, output, weight, mean, variance = ctx.saved_tensors
        with torch.enable_grad():
            leaves = [t.detach().requires_grad_() for t in (grad_output, input, weight)]
            results = _differentiable_backward(
                leaves[0], leaves[1], leaves[2], output, mean, variance, ctx.counts, ctx.segments, ctx.eps
            )
            pairs = [(r, g) for r, g in zip(results, gradients, strict=True) if g is not None and g.numel()]
            found = torch.autograd.grad(
                [r for r, _ in pairs], leaves, [g.to(r.dtype) for r, g in pairs], allow_unused=True
            )
        return found[0], found[1], None, found[2], *[None] * 8


def _differentiable_backward(
    grad_output: Tensor, input: Tensor, weight: Tensor, output: Tensor | None, mean: Tensor, variance: Tensor,
    counts: Sequence[int], segments: Sequence[int], eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """`backward_reference` out of place, and with the batch statistics as functions of the input."""
    dtype = operators.statistics_type(input)
    parts: list[list[Tensor]] = [[], [], [], []]
    for k, (dy, x, y) in enumerate(by_segment(segments, grad_output, input, output)):
        assert dy is not None and x is not None
        gradient = dy.to(dtype) if y is None else dy.to(dtype).masked_fill(y <= 0, 0.0)
        values = x.to(dtype)
        mu, sigma2 = mean[k], variance[k]
        if counts and counts[k]:
            mu = channel_sum(values) / counts[k]
            sigma2 = channel_sum((values - per_channel(mu, x)).square()) / counts[k]
        inverse = torch.rsqrt(sigma2 + eps)
        normalized = (values - per_channel(mu, x)) * per_channel(inverse, x)
        sum_gradient, sum_product = channel_sum(gradient), channel_sum(gradient * normalized)
        flow = gradient
        if counts and counts[k]:
            flow = flow - per_channel(sum_gradient / counts[k], x)
            flow = flow - normalized * per_channel(sum_product / counts[k], x)
        grad_input = (flow * per_channel(weight[k] * inverse, x)).to(input.dtype)
        for part, value in zip(parts, (grad_input, gradient.to(input.dtype), sum_product, sum_gradient), strict=True):
            part.append(value)
    return torch.cat(parts[0]), torch.cat(parts[1]), torch.stack(parts[2]), torch.stack(parts[3])


register_autograd(operators.batch, _ByBatch)
register_autograd(operators.apply, _ByConstants)
register_autograd(operators.backward, _Backward)


class _Synchronized(torch.autograd.Function):
    """Statistics over all processes of a group: one gather forwards, one sum backwards."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor,
        segments: list[int], eps: float, relu: bool, group: torch.distributed.ProcessGroup,
    ) -> Any:  # fmt: skip
        own_mean, own_variance = operators.statistics(input, segments)
        mean, variance, counts = _combine_statistics(
            own_mean, own_variance, operators.values_per_channel(input, segments), group
        )
        output = operators.apply(input, residual, weight, bias, mean, variance, segments, eps, relu)
        ctx.segments, ctx.eps, ctx.relu, ctx.group, ctx.counts = segments, eps, relu, group, counts
        _save(ctx, input, residual, weight, mean, variance, output)
        ctx.mark_non_differentiable(mean, variance)
        return output, mean, variance, counts

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_output: Tensor, *_: Tensor | None) -> Any:
        input, output, _weight, mean, variance = ctx.saved_tensors
        own_sums = operators.sums(grad_output, input, output, mean, variance, ctx.segments, ctx.eps)
        all_sums = own_sums.clone()
        torch.distributed.all_reduce(all_sums, group=ctx.group)
        grad_input, grad_residual = _input_gradients(ctx, grad_output, ctx.counts, all_sums)[:2]
        # Parameters get this process's share: the training loop adds the shares up, as for every other parameter.
        grad_weight = own_sums[1] if ctx.needs_input_grad[2] else None
        grad_bias = own_sums[0] if ctx.needs_input_grad[3] else None
        return grad_input, grad_residual, grad_weight, grad_bias, None, None, None, None


def _combine_statistics(
    mean: Tensor, variance: Tensor, counts: Sequence[int], group: torch.distributed.ProcessGroup
) -> tuple[Tensor, Tensor, list[int]]:
    """Mean and biased variance of the union of all processes' segments (Chan et al.'s parallel update)."""
    own_counts = torch.tensor(counts, dtype=torch.float64, device=mean.device)[:, None].expand_as(mean)
    own = torch.stack([own_counts, mean.double(), variance.double()])
    gathered = torch.empty((torch.distributed.get_world_size(group), *own.shape), dtype=own.dtype, device=own.device)
    torch.distributed.all_gather_into_tensor(gathered.flatten(0, 1), own.contiguous(), group=group)
    n, mu, sigma2 = gathered.unbind(1)
    total = n.sum(0)
    safe = total.clamp(min=1)
    mean_all = (n * mu).sum(0) / safe
    variance_all = (n * (sigma2 + (mu - mean_all).square())).sum(0) / safe
    variance_all = torch.where(total > 0, variance_all, 1.0)
    totals = [int(count) for count in total[:, 0].tolist()] if total.shape[1] else list(counts)
    return mean_all.to(mean.dtype), variance_all.to(mean.dtype), totals


def normalize_by_batch(
    input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, segments: list[int], eps: float, relu: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, mean, variance), by the segments' own statistics."""
    result: tuple[Tensor, Tensor, Tensor] = operators.batch(input, residual, weight, bias, segments, eps, relu)
    return result


def normalize_by_constants(
    input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
    segments: list[int], eps: float, relu: bool,
) -> Tensor:  # fmt: skip
    """Output by given statistics, through which no gradient flows."""
    result: Tensor = operators.apply(input, residual, weight, bias, mean, variance, segments, eps, relu)
    return result


def normalize_synchronized(
    input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, segments: list[int], eps: float, relu: bool,
    group: torch.distributed.ProcessGroup,
) -> tuple[Tensor, Tensor, Tensor, list[int]]:  # fmt: skip
    """(output, mean, variance, counts) over all processes of the group."""
    result: tuple[Tensor, Tensor, Tensor, list[int]] = _Synchronized.apply(
        input, residual, weight, bias, segments, eps, relu, group
    )
    return result
