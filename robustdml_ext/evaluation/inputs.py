"""The checks every figure begins with, and unit vectors that survive any scale."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Array: TypeAlias = Tensor | npt.NDArray[np.generic]
Labels: TypeAlias = Array | Sequence[int]

DISTANCES = ("cosine", "euclidean")
BACKENDS = ("own", "faiss")
# Cosines are rounded to this part of 1, far above what the order of a sum changes, so that equal rows are equally near.
_GRID = 2.0**-46


def as_matrix(embeddings: Array, name: str = "embeddings") -> Tensor:
    """`embeddings` [N, D] as a float64 tensor on its device.

    Float64 because a trained embedding may be so crowded that float32 similarities near 1 are all noise, and
    because no precision setting of the caller (TF32, bfloat16 matrix products) then has a say in a published
    figure.

    Raises: TypeError where it is no array of numbers; ValueError for the wrong shape or for values that are
    not finite.
    """
    matrix = _as_tensor(embeddings, name)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise ValueError(f"{name} must be a non-empty matrix [N, D], got shape {list(matrix.shape)}")
    if matrix.device.type == "mps":  # has no float64
        matrix = matrix.cpu()
    matrix = matrix.to(torch.float64)
    finite = matrix.isfinite()
    if not finite.all():
        rows = torch.nonzero(~finite.all(1)).flatten()
        raise ValueError(
            f"{name} must be finite; {len(rows)} of {len(matrix)} rows hold NaN or infinity, "
            f"the first is row {int(rows[0])}"
        )
    return matrix


def as_vectors(embeddings: Array, name: str = "embeddings") -> Tensor:
    """`embeddings` [N, D] on their device in their own floating-point type: what a learned score reads.

    Whole numbers become float64.

    Raises: as `as_matrix`.
    """
    matrix = as_matrix(embeddings, name)
    if isinstance(embeddings, torch.Tensor):
        return embeddings.detach() if embeddings.is_floating_point() else matrix
    # float16 and float32 stay what they are; types that torch lacks are float64 already.
    return matrix.to({"float16": torch.float16, "float32": torch.float32}.get(embeddings.dtype.name, torch.float64))


def _as_tensor(numbers: Array, name: str) -> Tensor:
    """Real numbers of any type as a tensor. A read-only or strided array is copied rather than warned about."""
    if isinstance(numbers, torch.Tensor):
        tensor = numbers.detach()
        if tensor.dtype == torch.bool or tensor.is_complex():
            raise TypeError(f"{name} must hold real numbers, got {tensor.dtype}")
        return tensor
    if not isinstance(numbers, np.ndarray):
        raise TypeError(f"{name} must be a torch tensor or a NumPy array, got {type(numbers).__name__}")
    if numbers.dtype.kind not in "iuf":
        raise TypeError(f"{name} must hold real numbers, got {numbers.dtype}")
    return torch.from_numpy(np.require(numbers, np.float64, ["C", "W"]))


def as_numbers(numbers: Array | Sequence[float], name: str) -> npt.NDArray[np.float64]:
    """`numbers` [N], also a list, as float64 on the CPU.

    Raises: TypeError where they are no real numbers; ValueError for the wrong shape or values that are not finite.
    """
    array = numbers if isinstance(numbers, torch.Tensor | np.ndarray) else np.asarray(numbers)
    row = _as_tensor(array, name).cpu().to(torch.float64).numpy()
    if row.ndim != 1 or not len(row):
        raise ValueError(f"{name} must be a non-empty row of numbers [N], got shape {list(row.shape)}")
    if not np.isfinite(row).all():
        wrong = np.flatnonzero(~np.isfinite(row))
        raise ValueError(
            f"{name} must be finite; {len(wrong)} of {len(row)} are NaN or infinite, the first is at index {wrong[0]}"
        )
    return row


def as_labels(labels: Labels, count: int, name: str = "labels") -> npt.NDArray[np.int64]:
    """`labels` [N] as int64. Raises: TypeError where they are no integers; ValueError for the wrong shape."""
    if not isinstance(labels, torch.Tensor | np.ndarray | list | tuple):
        raise TypeError(f"{name} must be a torch tensor, a NumPy array or a list, got {type(labels).__name__}")
    numbers = labels.detach().cpu().numpy() if isinstance(labels, torch.Tensor) else np.asarray(labels)
    if not np.issubdtype(numbers.dtype, np.integer):
        raise TypeError(f"{name} must be integers, got {numbers.dtype}")
    if numbers.shape != (count,):
        raise ValueError(f"{name} must have shape [{count}], one for each embedding; got {list(numbers.shape)}")
    return numbers.astype(np.int64)


def unit(matrix: Tensor) -> Tensor:
    """Rows of length 1; a zero row stays zero, at cosine distance 1 from everything."""
    largest = matrix.abs().amax(1, keepdim=True)
    # Before any square is taken, so that none overflows or vanishes; afterwards lengths are at least 1, or 0.
    matrix = matrix / torch.where(largest > 0, largest, 1.0)
    return matrix / matrix.square().sum(1, keepdim=True).sqrt().clamp_min(1.0)


def rounded_cosines(cosines: Tensor) -> Tensor:
    """Float64 cosines, in place, rounded so that the order in which products were added leaves no trace."""
    return cosines.div_(_GRID).round_().mul_(_GRID)


def scale_to_one(largest: float) -> float:
    """A power of two that brings entries up to `largest` to about 1: no overflow later, no rounding now."""
    return math.ldexp(1.0, -min(max(math.frexp(largest)[1], -1000), 1000))


def one_of(name: str, value: str, names: Sequence[str]) -> None:
    """Raises: ValueError for a value that is not among `names`."""
    if value not in names:
        raise ValueError(f"{name} must be one of {', '.join(names)}, got {value!r}")


def check_distance(distance: str) -> None:
    """Raises: ValueError for a distance that is not offered."""
    one_of("distance", distance, DISTANCES)
