"""`distribution_norm`: equal to `torch.nn.BatchNorm` on each segment, in every mode, layout, dtype and direction."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, sizes, values
from tolerance import assert_as_good_as
from torch import Tensor, nn

from robustdml_ext import ops
from robustdml_ext.ops import _distribution_norm_operators as operators


@st.composite
def norm_shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """`[N, C]` to `[N, C, H, W]`, planes below and above every block size."""
    spatial = draw(
        st.sampled_from([(), (1,), (7,), (33,), (2, 2), (1, 1), (5, 6), (4, 8), (9, 7), (16, 17), (45, 47), (64, 65)])
    )
    channels = draw(st.sampled_from([0, 1, 3, 8, 17, 64, 130]))
    batch = draw(sizes)
    while batch * channels * torch.Size(spatial).numel() > 80_000:
        batch //= 2
    return (batch, channels, *spatial)


@st.composite
def segmentations(draw: st.DrawFn, batch: int) -> list[int]:
    """Sizes of 1 to 4 segments, some of them empty, that add up to the batch."""
    cuts = sorted(draw(st.lists(st.integers(0, batch), max_size=3)))
    edges = [0, *cuts, batch]
    return [b - a for a, b in pairwise(edges)]


def reference_norms(weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, momentum: float) -> list[nn.Module]:
    """One plain float64 batch norm a distribution."""
    norms = []
    for k in range(len(weight)):
        norm = nn.BatchNorm1d(weight.shape[1], momentum=momentum).double()
        with torch.no_grad():
            norm.weight.copy_(weight[k])
            norm.bias.copy_(bias[k])
            norm.running_mean.copy_(mean[k])  # type: ignore[union-attr, operator]
            norm.running_var.copy_(variance[k])  # type: ignore[union-attr, operator]
        norms.append(norm)
    return norms


def run(
    x: Tensor, residual: Tensor | None, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor,
    segments: list[int], training: bool, relu: bool, grad: Tensor, by_norms: bool,
) -> dict[str, Tensor]:  # fmt: skip
    """Output, gradients and running statistics, by the operator or (in float64) by plain batch norms."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
    added = None if residual is None else residual.detach().clone().requires_grad_()
    mean, variance = mean.clone(), variance.clone()
    if by_norms:
        norms = reference_norms(weight, bias, mean, variance, 0.3)
        parts, start = [], 0
        for k, size in enumerate(segments):
            part = leaves[0][start : start + size]
            norms[k].train(training)
            if part.numel():
                values = part.flatten(2).transpose(1, 2).flatten(0, 1) if part.dim() > 2 else part
                normal = nn.functional.batch_norm(
                    values,
                    norms[k].running_mean,
                    norms[k].running_var,
                    leaves[1][k],
                    leaves[2][k],
                    training,
                    0.3,  # type: ignore[arg-type]
                )
                if part.dim() > 2:
                    normal = normal.reshape(size, -1, x.shape[1]).transpose(1, 2).reshape(part.shape)
                parts.append(normal)
            else:
                parts.append(part)
            start += size
        output = torch.cat(parts)
        output = output if added is None else output + added
        output = output.relu() if relu else output
        mean = torch.stack([n.running_mean for n in norms])  # type: ignore[misc]
        variance = torch.stack([n.running_var for n in norms])  # type: ignore[misc]
    else:
        output = ops.distribution_norm(
            leaves[0], leaves[1], leaves[2], mean, variance, segments, training=training, momentum=0.3,
            residual=added, relu=relu,
        )  # fmt: skip
    output.backward(grad)
    result = {"output": output.detach(), "running mean": mean, "running variance": variance}
    for name, leaf in zip(("grad input", "grad weight", "grad bias", "grad residual"), [*leaves, added], strict=True):
        if leaf is not None:
            result[name] = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return result


@given(st.data(), norm_shapes(), dtypes(), devices(), st.booleans(), st.booleans(), st.booleans(), seeds())
def test_each_segment_equals_a_batch_norm(
    data: st.DataObject, shape: tuple[int, ...], dtype: torch.dtype, device: str, training: bool, relu: bool,
    with_residual: bool, seed: int,
) -> None:  # fmt: skip
    segments = data.draw(segmentations(shape[0]))
    spatial = torch.Size(shape[2:]).numel()
    if training and 1 in [size * spatial for size in segments]:
        return  # has a test of its own
    layout = data.draw(st.sampled_from(["contiguous", "channels_last", "sliced", "transposed"]))
    offset = data.draw(st.sampled_from([0.0, 0.0, 30.0, 1000.0])) if dtype == torch.float32 else 0.0
    x = in_layout(values(shape, dtype, device, seed) * 2 + offset, layout)
    residual = values(shape, dtype, device, seed + 1) if with_residual else None
    wide = torch.promote_types(dtype, torch.float32)
    weight, bias, mean = (values((len(segments), shape[1]), wide, device, seed + 2 + i) for i in range(3))
    mean, variance = mean + offset, values((len(segments), shape[1]), wide, device, seed + 5).abs() + 0.5
    grad = values(shape, dtype, device, seed + 6)

    arguments = (weight, bias, mean, variance, segments, training, relu)
    actual = run(x, residual, *arguments, grad, False)
    exact_arguments = [t.double().cpu() if isinstance(t, Tensor) else t for t in (x, residual, *arguments, grad)]
    exact = run(*exact_arguments, True)  # type: ignore[arg-type]
    if relu:
        # A value that rounds to the other side of 0 is cut in one and not in the other: gradients are not comparable.
        close = (exact["output"] > 0).eq(actual["output"].cpu() > 0)
        if not close.all():
            return
    before = ops_off(x, residual, *arguments, grad)
    for name, value in actual.items():
        multiple = 4.0 if dtype in (torch.float16, torch.bfloat16) else 3.0
        # With two values a channel the three terms of dx cancel but for rounding; the roundings of a long sum grow
        # like the l2 norm of its terms, however small their sum comes out.
        terms = 0.0
        if name == "grad input" and grad.numel():
            terms = grad.abs().max().item()
        elif name in ("grad weight", "grad bias"):
            terms = grad.double().norm().item()
        assert_as_good_as(value, before[name], exact[name], multiple=multiple, terms=terms, what=name)
    assert actual["output"].dtype == dtype
    assert actual["output"].stride() == torch.empty_like(x).stride()


def ops_off(x: Tensor, residual: Tensor | None, *rest: object) -> dict[str, Tensor]:
    """The references themselves in the same precision: what plain PyTorch errs."""
    weight, bias, mean, variance, segments, training, relu, grad = rest
    mean, variance = mean.clone(), variance.clone()  # type: ignore[attr-defined]
    if training:
        output, mu, sigma2 = operators.batch_reference(x, residual, weight, bias, segments, 1e-5, relu)  # type: ignore[arg-type]
        counts = operators.values_per_channel(x, segments)  # type: ignore[arg-type]
        operators.update_reference_(mean, variance, mu, sigma2, counts, 0.3)
    else:
        output = operators.apply_reference(x, residual, weight, bias, mean, variance, segments, 1e-5, relu)  # type: ignore[arg-type]
        mu, sigma2, counts = mean, variance, []
    grads = operators.backward_reference(
        grad,
        x,
        output if relu else None,
        weight,
        mu,
        sigma2,
        None,
        counts,
        segments,
        1e-5,
        True,
        True,  # type: ignore[arg-type]
    )
    names = ("grad input", "grad residual", "grad weight", "grad bias")
    return {
        "output": output, "running mean": mean, "running variance": variance, **dict(zip(names, grads, strict=True)),
    }  # fmt: skip


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("shape", [(7, 3), (7, 3, 2, 2), (6, 2, 6, 7)])
@pytest.mark.parametrize("device", DEVICES)
def test_derivatives(shape: tuple[int, ...], relu: bool, training: bool, device: str) -> None:
    x, residual = (values(shape, torch.float64, device, s).requires_grad_() for s in (0, 1))
    weight, bias = (values((3, shape[1]), torch.float64, device, s).requires_grad_() for s in (2, 3))
    mean, variance = values((3, shape[1]), torch.float64, device, 4), torch.ones(3, shape[1], device=device).double()

    def norm(x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor) -> Tensor:
        return ops.distribution_norm(
            x, weight, bias, mean.clone(), variance.clone(), [shape[0] - 3, 0, 3], training=training,
            residual=residual, relu=relu,
        )  # fmt: skip

    inputs = (x, weight, bias, residual)
    assert torch.autograd.gradcheck(norm, inputs)
    assert torch.autograd.gradgradcheck(norm, inputs)


def test_second_derivative_is_batch_norms() -> None:
    x = values((6, 3, 4, 4), torch.float64, "cpu", 0).requires_grad_()
    plain = nn.BatchNorm2d(3).double()
    grads = []
    for ours in (True, False):
        output = (
            ops.distribution_norm(x, plain.weight[None], plain.bias[None], None, None, [6], training=True)
            if ours
            else plain(x)
        )
        first = torch.autograd.grad(output.pow(3).sum(), x, create_graph=True)[0]
        grads.append(torch.autograd.grad(first.square().sum(), x)[0])
    assert torch.allclose(*grads, rtol=1e-9)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", [(4, 2), (4, 2, 3, 3), (4, 2, 9, 9)])
def test_nan_and_infinity_stay_in_their_channel_and_segment(shape: tuple[int, ...], device: str) -> None:
    x = values(shape, torch.float32, device, 0)
    x[0, 0] = torch.nan
    output = ops.distribution_norm(
        x,
        torch.ones(2, 2, device=device),
        torch.zeros(2, 2, device=device),
        None,
        None,
        [2, 2],
        training=True,
        relu=True,
    )
    assert output[:2, 0].isnan().all() and output[:2, 1].isfinite().all() and output[2:].isfinite().all()


@pytest.mark.parametrize("shape", [(6, 2), (6, 2, 2, 2), (6, 2, 8, 8)])
@pytest.mark.parametrize("device", DEVICES)
def test_constant_input_and_empty_segments(shape: tuple[int, ...], device: str) -> None:
    x = torch.full(shape, 1e4, device=device)
    mean, variance = torch.zeros(3, 2, device=device), torch.ones(3, 2, device=device)
    bias = torch.tensor([[1.0, 2.0]] * 3, device=device)
    output = ops.distribution_norm(x, torch.ones(3, 2, device=device), bias, mean, variance, [2, 0, 4], training=True)
    assert torch.equal(output.flatten(2).amax(0).flatten(1).amax(1) if x.dim() > 2 else output.amax(0), bias[0])
    assert torch.equal(mean[1], torch.zeros(2, device=device)) and torch.equal(
        variance[1], torch.ones(2, device=device)
    )
    assert torch.allclose(mean[0], torch.full((2,), 1e3, device=device))
