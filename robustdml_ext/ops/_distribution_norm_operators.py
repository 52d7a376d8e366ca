"""The operators behind `distribution_norm`, each with its reference in plain PyTorch.

    distribution_norm            statistics of each segment, then normalize           (training, one process)
    distribution_norm_statistics the statistics alone                                 (training, many processes)
    distribution_norm_apply      normalize with statistics that are given             (inference; many processes)
    distribution_norm_sums       Σ dy and Σ dy·x̂ per distribution and channel          (backward, many processes)
    distribution_norm_backward   gradients of all of them
    distribution_norm_update_    running statistics, in place

Throughout: input `[N, C, ...]`; weight, bias, mean, variance `[K, C]`; the variance is biased; `segments` are K sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from robustdml_ext.ops._registration import define


def values_per_channel(input: Tensor, segments: Sequence[int]) -> list[int]:
    """How many values each channel has in each segment."""
    spatial = 1
    for size in input.shape[2:]:
        spatial *= size
    return [size * spatial for size in segments]


def statistics_type(input: Tensor) -> torch.dtype:
    """float32 for half precision and float32 input, float64 for float64."""
    return torch.promote_types(input.dtype, torch.float32)


def by_segment(segments: Sequence[int], *tensors: Tensor | None) -> Iterator[list[Tensor | None]]:
    """The K slices of tensors `[N, ...]`."""
    start = 0
    for size in segments:
        yield [None if tensor is None else tensor[start : start + size] for tensor in tensors]
        start += size


def per_channel(row: Tensor, input: Tensor) -> Tensor:
    """A row `[C]` shaped to broadcast over `[N, C, ...]`."""
    return row.reshape([1, -1] + [1] * (input.dim() - 2))


def channel_sum(values: Tensor) -> Tensor:
    """Sum over all but the channels: `[N, C, ...]` → `[C]`."""
    return values.sum([d for d in range(values.dim()) if d != 1])


def statistics_reference(input: Tensor, segments: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `[K, C]` of each segment; 0 and 1 where it is empty."""
    means, variances = [], []
    for (part,) in by_segment(segments, input):
        assert part is not None
        values = part.to(statistics_type(input))
        count = values.numel() // max(values.shape[1], 1) if values.numel() else 0
        if count == 0:
            means.append(values.new_zeros(input.shape[1]))
            variances.append(values.new_ones(input.shape[1]))
            continue
        mean = channel_sum(values) / count
        means.append(mean)
        variances.append(channel_sum((values - per_channel(mean, values)).square()) / count)
    if not means:
        return tuple(input.new_empty(0, input.shape[1], dtype=statistics_type(input)) for _ in range(2))  # type: ignore[return-value]
    return torch.stack(means), torch.stack(variances)


def apply_reference(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    mean: Tensor,
    variance: Tensor,
    segments: Sequence[int],
    eps: float,
    relu: bool,
) -> Tensor:
    """γ·(x − μ)/√(σ² + eps) + β (+ residual) (then ReLU), segment by segment."""
    output = torch.empty_like(input)
    start = 0
    for k, (part, added) in enumerate(by_segment(segments, input, residual)):
        assert part is not None
        compute = part.to(statistics_type(input))
        scale = weight[k] * torch.rsqrt(variance[k] + eps)
        result = (compute - per_channel(mean[k], part)) * per_channel(scale, part) + per_channel(bias[k], part)
        if added is not None:
            result = result + added.to(result.dtype)
        output[start : start + segments[k]] = (result.relu() if relu else result).to(input.dtype)
        start += segments[k]
    return output


def batch_reference(
    input: Tensor,
    residual: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    segments: Sequence[int],
    eps: float,
    relu: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalizes by the segments' own statistics; returns (output, mean, variance)."""
    mean, variance = statistics_reference(input, segments)
    return apply_reference(input, residual, weight, bias, mean, variance, segments, eps, relu), mean, variance


def _masked(grad_output: Tensor, output: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The gradient behind the ReLU (`output` is None where there was none)."""
    gradient = grad_output.to(dtype)
    return gradient if output is None else gradient.masked_fill(output <= 0, 0.0)


def sums_reference(
    grad_output: Tensor,
    input: Tensor,
    output: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    segments: Sequence[int],
    eps: float,
) -> Tensor:
    """Σ dy and Σ dy·x̂ over each segment's values: `[2, K, C]`; the gradients of β and γ."""
    sums: list[Tensor] = []
    for k, (dy, x, y) in enumerate(by_segment(segments, grad_output, input, output)):
        assert dy is not None and x is not None
        gradient = _masked(dy, y, statistics_type(input))
        centered = x.to(gradient.dtype) - per_channel(mean[k], x)
        normalized = centered * per_channel(torch.rsqrt(variance[k] + eps), x)
        sums.append(torch.stack([channel_sum(gradient), channel_sum(gradient * normalized)]))
    if not sums:
        return mean.new_empty(2, 0, input.shape[1])
    return torch.stack(sums, dim=1)


def backward_reference(
    grad_output: Tensor,
    input: Tensor,
    output: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    sums: Tensor | None,
    counts: Sequence[int],
    segments: Sequence[int],
    eps: float,
    parameters: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients towards (input, residual, weight, bias); those not asked for are empty.

    dx = γ/√(σ² + eps) · (dy − (Σ dy)/n − x̂·(Σ dy·x̂)/n), the last two terms only where the statistics depend on x.

    Args:
        output: the forward's result where a ReLU was fused, to know where it cut.
        sums: Σ dy, Σ dy·x̂ `[2, K, C]` where they are known already (over all processes).
        counts: n of each distribution, over all processes; empty where the statistics are constants.
        parameters: gradients of weight and bias are wanted.
        residual: the gradient of the residual is wanted.
    """
    dtype = statistics_type(input)
    if sums is None and (counts or parameters):
        sums = sums_reference(grad_output, input, output, mean, variance, segments, eps)
    grad_input = torch.empty_like(input)
    grad_residual = torch.empty_like(input) if residual else input.new_empty(0)
    start = 0
    for k, (dy, x, y) in enumerate(by_segment(segments, grad_output, input, output)):
        assert dy is not None and x is not None
        rows = slice(start, start + segments[k])
        gradient = _masked(dy, y, dtype)
        if residual:
            grad_residual[rows] = gradient.to(input.dtype)
        inverse = torch.rsqrt(variance[k] + eps)
        if counts and counts[k]:
            assert sums is not None
            normalized = (x.to(dtype) - per_channel(mean[k], x)) * per_channel(inverse, x)
            gradient = gradient - per_channel(sums[0, k] / counts[k], x)
            gradient = gradient - normalized * per_channel(sums[1, k] / counts[k], x)
        grad_input[rows] = (gradient * per_channel(weight[k] * inverse, x)).to(input.dtype)
        start += segments[k]
    if not parameters:
        return grad_input, grad_residual, mean.new_empty(0), mean.new_empty(0)
    assert sums is not None
    return grad_input, grad_residual, sums[1].clone(), sums[0].clone()


def update_reference_(
    running_mean: Tensor, running_var: Tensor, mean: Tensor, variance: Tensor, counts: Sequence[int], momentum: float
) -> None:
    """running ← (1 − momentum)·running + momentum·batch, the variance made unbiased; skips empty segments."""
    for k, count in enumerate(counts):
        if count > 0:
            unbiased = variance[k] * (count / max(count - 1, 1))
            running_mean[k].mul_(1 - momentum).add_(mean[k], alpha=momentum)
            running_var[k].mul_(1 - momentum).add_(unbiased, alpha=momentum)


def _fake_statistics(input: Tensor, segments: Sequence[int]) -> tuple[Tensor, Tensor]:
    shape = (len(segments), input.shape[1])
    return input.new_empty(shape, dtype=statistics_type(input)), input.new_empty(shape, dtype=statistics_type(input))


def _fake_batch(
    input: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, segments: Sequence[int], *_: object
) -> tuple[Tensor, Tensor, Tensor]:
    return (torch.empty_like(input), *_fake_statistics(input, segments))


def _fake_backward(
    grad_output: Tensor,
    input: Tensor,
    output: Tensor | None,
    weight: Tensor,
    mean: Tensor,
    variance: Tensor,
    sums: Tensor | None,
    counts: Sequence[int],
    segments: Sequence[int],
    eps: float,
    parameters: bool,
    residual: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def parameter() -> Tensor:
        return torch.empty_like(mean) if parameters else mean.new_empty(0)

    grad_residual = torch.empty_like(input) if residual else input.new_empty(0)
    return torch.empty_like(input), grad_residual, parameter(), parameter()


batch = define(
    "distribution_norm(Tensor input, Tensor? residual, Tensor weight, Tensor bias, int[] segments, float eps, "
    "bool relu) -> (Tensor, Tensor, Tensor)",
    batch_reference,
    _fake_batch,
)
statistics = define(
    "distribution_norm_statistics(Tensor input, int[] segments) -> (Tensor, Tensor)",
    statistics_reference,
    _fake_statistics,
)
apply = define(
    "distribution_norm_apply(Tensor input, Tensor? residual, Tensor weight, Tensor bias, Tensor mean, "
    "Tensor variance, int[] segments, float eps, bool relu) -> Tensor",
    apply_reference,
    lambda input, *arguments: torch.empty_like(input),
)
sums = define(
    "distribution_norm_sums(Tensor grad_output, Tensor input, Tensor? output, Tensor mean, Tensor variance, "
    "int[] segments, float eps) -> Tensor",
    sums_reference,
    lambda grad_output, input, output, mean, *arguments: mean.new_empty(2, *mean.shape),
)
backward = define(
    "distribution_norm_backward(Tensor grad_output, Tensor input, Tensor? output, Tensor weight, Tensor mean, "
    "Tensor variance, Tensor? sums, int[] counts, int[] segments, float eps, bool parameters, bool residual) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    backward_reference,
    _fake_backward,
)
update_ = define(
    "distribution_norm_update_(Tensor(a!) running_mean, Tensor(b!) running_var, Tensor mean, Tensor variance, "
    "int[] counts, float momentum) -> ()",
    update_reference_,
    lambda *arguments: None,
)
