"""A convolution and the norm layer behind it as one, of constant weights; on small maps, as a matrix product."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FoldedConvolution(nn.Module):
    """A convolution and the norm layer behind it, of one distribution at a time."""

    def __init__(self, convolution: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        assert isinstance(convolution, nn.Conv2d)
        # In tuples, which do not make them children: their weights are no parameters of the folded network.
        self._source: tuple[nn.Conv2d, Any] = (convolution, norm)
        self.context = getattr(norm, "context", None)
        self.distribution = 0
        self._constants: dict[int, tuple[Tensor, Tensor]] = {}
        self._matrices: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def forget(self) -> None:
        self._constants.clear()
        self._matrices.clear()

    def forward(self, maps: Tensor) -> Tensor:
        convolution = self._source[0]
        if self.distribution not in self._constants:
            self._constants[self.distribution] = self._fold()
        weight, bias = self._constants[self.distribution]
        if _sparse(convolution, maps):
            return self._as_product(maps, weight, bias)
        return F.conv2d(
            maps, weight, bias, convolution.stride, convolution.padding, convolution.dilation, convolution.groups
        )

    @torch.no_grad()
    def _fold(self) -> tuple[Tensor, Tensor]:
        """w·γ/√(σ² + ε) and (b − μ)·γ/√(σ² + ε) + β, computed in float64."""
        convolution, norm = self._source
        weight = convolution.weight.detach()

        def of(values: Tensor | None, otherwise: float) -> Tensor:
            if values is None:
                return torch.full(weight.shape[:1], otherwise, dtype=torch.float64, device=weight.device)
            return (values if values.dim() == 1 else values[self.distribution]).detach().double()

        scale = of(norm.weight, 1.0) / (of(norm.running_var, 1.0) + norm.eps).sqrt()
        shift = (of(convolution.bias, 0.0) - of(norm.running_mean, 0.0)) * scale + of(norm.bias, 0.0)
        folded = weight * scale.to(weight.dtype)[:, None, None, None]
        layout = torch.channels_last if weight.is_cpu else torch.contiguous_format
        # A copy, as a weight of one input channel has both layouts, and strides that say the slower one.
        return torch.empty_like(folded, memory_format=layout).copy_(folded), shift.to(weight.dtype)

    def _as_product(self, maps: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        key = (self.distribution, *maps.shape[2:])
        if key not in self._matrices:
            self._matrices[key] = _matrix(self._source[0], weight, bias, maps.shape[2], maps.shape[3])
        matrix, offset = self._matrices[key]
        height, width = _output_size(self._source[0], maps.shape[2], maps.shape[3])
        product = torch.addmm(offset, maps.permute(0, 2, 3, 1).flatten(1), matrix)
        return product.reshape(len(maps), height, width, -1).permute(0, 3, 1, 2)


def _sparse(convolution: nn.Conv2d, maps: Tensor) -> bool:
    """Whether at most half of the kernel's taps can meet the input map, so that a matrix product does less."""
    pixels, taps = maps.shape[2] * maps.shape[3], convolution.kernel_size[0] * convolution.kernel_size[1]
    return 2 * pixels <= taps and convolution.groups == 1 and not isinstance(convolution.padding, str)


def _output_size(convolution: nn.Conv2d, height: int, width: int) -> tuple[int, int]:
    sizes = []
    for axis, size in enumerate((height, width)):
        reach = convolution.dilation[axis] * (convolution.kernel_size[axis] - 1) + 1
        sizes.append((size + 2 * int(convolution.padding[axis]) - reach) // convolution.stride[axis] + 1)
    return sizes[0], sizes[1]


@torch.no_grad()
def _matrix(convolution: nn.Conv2d, weight: Tensor, bias: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """The convolution of maps `[B, H, W, C]` as a matrix `[H·W·C, H'·W'·C']`, and its offset."""
    rows, columns = _output_size(convolution, height, width)
    outputs, inputs = weight.shape[:2]
    matrix = weight.new_zeros(height * width, inputs, rows * columns, outputs)

    def tap(axis: int, before: int, after: int) -> int | None:
        offset = before - after * convolution.stride[axis] + int(convolution.padding[axis])
        index, rest = divmod(offset, convolution.dilation[axis])
        return index if rest == 0 and 0 <= index < convolution.kernel_size[axis] else None

    for i in range(height * width):
        for o in range(rows * columns):
            row = tap(0, i // width, o // columns)
            column = tap(1, i % width, o % columns)
            if row is not None and column is not None:
                matrix[i, :, o] = weight[:, :, row, column].T
    return matrix.reshape(height * width * inputs, -1), bias.repeat(rows * columns)
