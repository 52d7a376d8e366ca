"""What each of several runs at once has for itself: a GPU, or a share of the CPU's threads."""

from __future__ import annotations

import os
from dataclasses import dataclass

from robustdml_ext.recipes import Recipe


@dataclass(frozen=True)
class Lane:
    """What one run at a time has for itself.

    Attributes:
        device: for ``--device``; None: the recipe's.
        threads: of the CPU; None: PyTorch's choice.
    """

    device: str | None
    threads: int | None


def lanes_for(recipe: Recipe, jobs: int | None, gpus: int | None = None, cores: int | None = None) -> list[Lane]:
    """Return a lane for each run at a time.

    Args:
        recipe: of one of the runs, which all have one device.
        jobs: how many at once; None: one a GPU where there are several and none is named, else 1.
        gpus: of the machine; None: as many as PyTorch sees.
        cores: of the machine that this process may use; None: those there are.
    """
    spread = recipe.device in ("auto", "cuda")
    if gpus is None:
        import torch

        gpus = torch.cuda.device_count() if spread and torch.cuda.is_available() else 0
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if jobs is None:
        jobs = gpus if spread and gpus > 1 else 1
    threads = max(1, cores // jobs)
    if spread and gpus:
        return [Lane(f"cuda:{number % gpus}", threads) for number in range(jobs)]
    return [Lane(None, threads) for _ in range(jobs)]
