"""Hypothesis strategies that all operator tests draw from: shapes around every tile size, layouts, extreme values."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])


def seeds() -> st.SearchStrategy[int]:
    return st.integers(0, 2**31 - 1)


def dtypes() -> st.SearchStrategy[torch.dtype]:
    return st.sampled_from(FLOATS)


def devices() -> st.SearchStrategy[str]:
    return st.sampled_from(DEVICES)


# Off the vector widths and around the blocks that kernels cut their work into.
sizes = st.sampled_from([0, 1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65])


@st.composite
def image_shapes(draw: st.DrawFn, most_values: int = 60_000) -> tuple[int, ...]:
    """`[N]`, `[N, C]`, `[N, C, L]` or `[N, C, H, W]`, from empty to past every block size."""
    rank = draw(st.integers(1, 4))
    shape = [draw(sizes) for _ in range(rank)]
    if draw(st.booleans()) and rank > 1:
        shape[-1] = draw(st.sampled_from([127, 129, 2047, 2049, 4100]))
    while torch.Size(shape).numel() > most_values:
        shape[shape.index(max(shape))] //= 2
    return tuple(shape)


def values(shape: tuple[int, ...], dtype: torch.dtype, device: str, seed: int, spread: float = 1.0) -> Tensor:
    """Normal values, drawn in float64 on the CPU so that every device and dtype sees the same."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, dtype=torch.float64, generator=generator) * spread).to(device, dtype)


@st.composite
def layouts(draw: st.DrawFn) -> str:
    return draw(st.sampled_from(["contiguous", "channels_last", "sliced", "transposed", "expanded"]))


def in_layout(tensor: Tensor, layout: str) -> Tensor:
    """The same values at other strides; unchanged where the layout does not apply to the rank."""
    if layout == "channels_last" and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    if layout == "sliced":
        padded = tensor.new_zeros((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1))
        padded[..., 1::2] = tensor
        return padded[..., 1::2]
    if layout == "transposed" and tensor.dim() > 1:
        return tensor.transpose(0, -1).contiguous().transpose(0, -1)
    if layout == "expanded" and tensor.shape[0] > 0:
        # Stride 0 along the batch: only the first sample's values remain.
        return tensor[:1].expand(tensor.shape)
    return tensor
