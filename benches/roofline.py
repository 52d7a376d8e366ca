"""What this machine can do, measured in the same run as what is held against it."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def best_seconds(function: Callable[[], object], device: str, *, repeats: int = 15) -> float:
    """Shortest of several runs: what the machine does when nobody disturbs it."""
    best = float("inf")
    for _ in range(repeats + 2):
        synchronize(device)
        start = time.perf_counter()
        function()
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return best


def copy_bandwidth(device: str) -> float:
    """Bytes a second, read and written, of a copy far larger than any cache."""
    source = torch.rand((256 if device == "cuda" else 48) << 20, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / best_seconds(lambda: target.copy_(source), device)


def gemm_rate(device: str, dtype: torch.dtype = torch.float32) -> float:
    """Operations a second of a large square matrix product."""
    size = 8192 if device == "cuda" else 1536
    a, b = (torch.rand(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / best_seconds(lambda: a @ b, device, repeats=5)
