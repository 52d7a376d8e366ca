"""Argument checks whose messages a person reads: the argument's name, what came, what was expected."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATING = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def describe(value: object) -> str:
    """A short description of a value for an error message."""
    if isinstance(value, Tensor):
        return f"a {value.dtype} tensor of shape {list(value.shape)} on {value.device}"
    return f"{value!r} ({type(value).__name__})"


def tensor(name: str, value: object, *, dtypes: Sequence[torch.dtype] = FLOATING, rank: int | None = None) -> None:
    """Checks that `value` is a tensor of one of `dtypes` and, where given, of `rank`."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {describe(value)}")
    if value.dtype not in dtypes:
        expected = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name}: expected dtype {expected}, got {describe(value)}")
    if rank is not None and value.dim() != rank:
        raise ValueError(f"{name}: expected {rank} dimension(s), got {describe(value)}")


def like(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Checks that `value` has the shape, dtype and device of `other`."""
    tensor(name, value, dtypes=(other.dtype,))
    if value.shape != other.shape or value.device != other.device:
        raise ValueError(f"{name}: expected it like {other_name}, {describe(other)}; got {describe(value)}")


def shape(name: str, value: Tensor, expected: Sequence[int], meaning: str) -> None:
    """Checks the shape of a tensor; `meaning` spells the expected one in the caller's symbols."""
    if list(value.shape) != list(expected):
        raise ValueError(f"{name}: expected shape {meaning} = {list(expected)}, got {describe(value)}")
