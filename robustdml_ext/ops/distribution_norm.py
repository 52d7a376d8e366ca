"""Batch normalization over K distributions in one pass: each segment of the batch with statistics of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._distribution_norm_autograd import (
    normalize_by_batch,
    normalize_by_constants,
    normalize_synchronized,
)
from robustdml_ext.ops._distribution_norm_operators import update_, values_per_channel


def _check_arguments(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    segments: Sequence[int],
    training: bool,
    residual: Tensor | None,
) -> None:
    _check.tensor("input", input)
    if not 2 <= input.dim() <= 4:
        raise ValueError(f"input: expected [N, C], [N, C, L] or [N, C, H, W], got {_check.describe(input)}")
    statistics_type = torch.promote_types(input.dtype, torch.float32)
    expected = [len(segments), input.shape[1]]
    for name, value in (
        ("weight", weight),
        ("bias", bias),
        ("running_mean", running_mean),
        ("running_var", running_var),
    ):
        if value is None:
            continue
        _check.tensor(name, value, dtypes=(statistics_type,))
        _check.shape(name, value, expected, "[K, C], K = len(segments)")
        if value.device != input.device:
            raise ValueError(f"{name}: expected it on {input.device} like the input, got {_check.describe(value)}")
    if any(size < 0 for size in segments) or sum(segments) != input.shape[0]:
        raise ValueError(
            f"segments: expected sizes >= 0 that add up to the batch, {input.shape[0]}; got {list(segments)}"
        )
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean, running_var: give both or neither")
    if not training and running_mean is None:
        raise ValueError("running_mean, running_var: needed where training is False")
    if residual is not None:
        _check.like("residual", residual, "input", input)


def distribution_norm(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    segments: Sequence[int],
    *,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    residual: Tensor | None = None,
    relu: bool = False,
    group: torch.distributed.ProcessGroup | None = None,
) -> Tensor:
    """Normalizes K consecutive segments of a batch, each with its own statistics and affine parameters.

    For distribution k and the rows of its segment:
        y = γ^k · (x − μ^k) / √(σ²^k + eps) + β^k  (+ residual)  (then ReLU)
    with μ^k, σ²^k per channel: of the segment itself in training, the running ones otherwise. This is Ioffe & Szegedy's
    normalization with the separate θ_b^k of MDProp's Algorithm 1, for all k in one pass; on each segment it equals
    `torch.nn.BatchNorm2d` to rounding. Statistics are computed in float32 (float64 for float64 input) by a stable
    pairwise method, in an order that does not depend on the number of threads. Differentiable twice.

    Args:
        input: x, `[N, C]`, `[N, C, L]` or `[N, C, H, W]`; contiguous and channels-last layouts are kept.
        weight, bias: γ and β, `[K, C]`, float32 (float64 for float64 input).
        running_mean, running_var: `[K, C]`, updated in place in training (the variance unbiased, as in PyTorch); a
            distribution whose segment is empty keeps its own. May be None in training.
        segments: K sizes that add up to N; 0 is allowed.
        training: use the segments' own statistics.
        momentum: weight of the new statistics in the running ones.
        eps: added to the variance.
        residual: added before the ReLU, same shape and dtype as `input`.
        relu: fuse max(·, 0).
        group: process group to compute the statistics over (training only); every process calls with K segments.

    Returns:
        y, with the shape, dtype and layout of `input`.

    Raises:
        TypeError: an argument is no tensor of the expected dtype.
        ValueError: shapes, devices or segments do not fit; or a training segment has one value per channel.
    """
    _check_arguments(input, weight, bias, running_mean, running_var, segments, training, residual)
    sizes = list(segments)
    if not training:
        assert running_mean is not None and running_var is not None
        return normalize_by_constants(input, residual, weight, bias, running_mean, running_var, sizes, eps, relu)
    if group is not None and torch.distributed.get_world_size(group) > 1:
        output, mean, variance, counts = normalize_synchronized(input, residual, weight, bias, sizes, eps, relu, group)
    else:
        counts = values_per_channel(input, sizes)
        _reject_single_values(counts, input)
        output, mean, variance = normalize_by_batch(input, residual, weight, bias, sizes, eps, relu)
    if running_mean is not None and running_var is not None:
        with torch.no_grad():
            update_(running_mean, running_var, mean, variance, counts, momentum)
    return output


def _reject_single_values(counts: Sequence[int], input: Tensor) -> None:
    for k, count in enumerate(counts):
        if count == 1:
            raise ValueError(
                f"segments: segment {k} has one value per channel (input of shape {list(input.shape)}); "
                "training needs more than one to normalize by"
            )
