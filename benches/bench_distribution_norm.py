"""`distribution_norm` with K = 3 against one batch norm of the whole batch, and against chunk–norm–concatenate."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from robustdml_ext import ops

K = 3
SHAPES = {
    "336x64x56x56": (336, 64, 56, 56),
    "336x256x14x14": (336, 256, 14, 14),
    "336x32x8x8": (336, 32, 8, 8),
    "336x64x4x4": (336, 64, 4, 4),
}


@pytest.mark.parametrize("mode", ["training forward", "training forward+backward", "attack forward+backward"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("relu", [False, True], ids=["plain", "relu"])
@pytest.mark.parametrize("variant", ["ours", "one BatchNorm2d", "compiled BatchNorm2d", "chunk-norm-concatenate"])
def test_distribution_norm(
    variant: str, relu: bool, shape: str, layout: str, mode: str, measure: Callable[..., None], device: str
) -> None:
    size = SHAPES[shape]
    if device == "cpu" and variant == "compiled BatchNorm2d" and size[2] > 14:
        pytest.skip("the CPU's compiled batch norm is compared at the smaller sizes")
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.randn(size, device=device).contiguous(memory_format=format).requires_grad_()
    grad = torch.randn(size, device=device).contiguous(memory_format=format)
    training, channels = mode.startswith("training"), size[1]
    norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(K)).to(device).train(training)
    weight, bias = torch.ones(K, channels, device=device), torch.zeros(K, channels, device=device)
    mean, variance = torch.zeros(K, channels, device=device), torch.ones(K, channels, device=device)
    for parameter in (weight, bias, *norms.parameters()):
        parameter.requires_grad_(training)  # an attack asks for the images' gradient alone
    segments = [size[0] // K] * K

    def ours() -> Tensor:
        return ops.distribution_norm(x, weight, bias, mean, variance, segments, training=training, relu=relu)

    def one_norm(x: Tensor) -> Tensor:
        return norms[0](x).relu() if relu else norms[0](x)

    def chunks() -> Tensor:
        y = torch.cat([norm(part) for norm, part in zip(norms, x.split(segments), strict=True)])
        return y.relu() if relu else y

    compiled = torch.compile(one_norm, dynamic=False)
    forward: Callable[[], Tensor] = {
        "ours": ours,
        "one BatchNorm2d": lambda: one_norm(x),
        "compiled BatchNorm2d": lambda: compiled(x),
        "chunk-norm-concatenate": chunks,
    }[variant]

    def both() -> None:
        x.grad = None
        forward().backward(grad)

    def forward_only() -> None:
        with torch.no_grad():
            forward()

    # Least traffic: forward reads x and writes y; backward reads dy, x (and y behind a ReLU) and writes dx.
    least = 2 if mode.endswith("forward") else 5 + int(relu)
    group = f"distribution_norm K={K} {'relu ' if relu else ''}{mode}, {shape} {layout}"
    measure(group, variant, forward_only if mode.endswith("forward") else both, bytes=least * x.nbytes)
