"""Pair and triplet losses with their gradient, against pytorch-metric-learning, the plain form and its compilation.

pytest benches/bench_pair_loss.py                                   times, and peak memory where it is told apart
python benches/bench_pair_loss.py VARIANT KIND B D CLASS_SIZE       peak memory of one step alone, in MiB
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from robustdml_ext.ops._pair_loss_reference import pair_loss_reference
from robustdml_ext.ops.pair_loss import pair_loss

# parameters, normalize, squared, reduction: what the losses of this package default to.
SETTINGS: dict[str, tuple[tuple[float, ...], bool, bool, str]] = {
    "multi_similarity": ((2, 40, 0.5, 0.1), True, False, "mean"),
    "triplet_all": ((0.1,), True, True, "nonzero"),
    "triplet_semihard": ((0.1,), True, True, "nonzero"),
    "triplet_hardest": ((0.1,), True, True, "nonzero"),
    "contrastive": ((0, 1, 1), True, False, "nonzero"),
    "binomial": ((2, 0.5, 25), True, False, "mean"),
    "npair": ((), False, False, "mean"),
    "lifted": ((1, 0), True, False, "mean"),
}


def ours(embeddings: Tensor, labels: Tensor, kind: str) -> Tensor:
    parameters, normalize, squared, reduction = SETTINGS[kind]
    return pair_loss(
        embeddings, labels, kind, parameters=parameters, normalize=normalize, squared=squared, reduction=reduction
    )


def plain(embeddings: Tensor, labels: Tensor, kind: str) -> Tensor:
    """The loss by its equation on the whole [B, B] matrix, differentiated by autograd."""
    return pair_loss_reference(embeddings, labels, None, None, -1, kind, *SETTINGS[kind])[0]


def library_loss(kind: str) -> Callable[[Tensor, Tensor], Tensor]:
    """pytorch-metric-learning's loss, with the miner that makes it the same."""
    losses = importlib.import_module("pytorch_metric_learning.losses")
    miners = importlib.import_module("pytorch_metric_learning.miners")
    lp = importlib.import_module("pytorch_metric_learning.distances").LpDistance(power=2)
    loss, miner = {
        "multi_similarity": lambda: (losses.MultiSimilarityLoss(2, 40, 0.5), miners.MultiSimilarityMiner(0.1)),
        "contrastive": lambda: (losses.ContrastiveLoss(), None),
        "triplet_all": lambda: (losses.TripletMarginLoss(0.1, distance=lp), None),
        "triplet_semihard": lambda: (
            losses.TripletMarginLoss(0.1, distance=lp),
            miners.TripletMarginMiner(0.1, "semihard", distance=lp),
        ),
        "triplet_hardest": lambda: (losses.TripletMarginLoss(0.1, distance=lp), miners.BatchHardMiner(distance=lp)),
    }[kind]()

    def value(embeddings: Tensor, labels: Tensor) -> Tensor:
        mined = None if miner is None else miner(embeddings, labels)
        return loss(embeddings, labels, mined)  # type: ignore[no-any-return]

    return value


def step(variant: str, kind: str, batch: int, width: int, class_size: int, device: str) -> Callable[[], object]:
    """Value and gradient of one batch, as a job to run."""
    torch.manual_seed(0)
    embeddings = torch.randn(batch, width, device=device, requires_grad=True)
    if not SETTINGS[kind][1]:
        embeddings = (embeddings.detach() / width**0.25).requires_grad_()  # similarities of about 1
    labels = (torch.randperm(batch) // class_size).to(device)
    if variant == "bare GEMMs":
        x, weights = embeddings.detach(), torch.randn(batch, batch, device=device)
        return lambda: (x @ x.T, weights @ x)
    function: Callable[..., Tensor]
    if variant == "pytorch-metric-learning":
        library = library_loss(kind)
        return lambda: torch.autograd.grad(library(embeddings, labels), embeddings)
    function = {"ours": ours, "plain": plain, "compiled plain": torch.compile(plain, dynamic=False)}[variant]
    return lambda: torch.autograd.grad(function(embeddings, labels, kind), embeddings)


VARIANTS = ["ours", "plain", "compiled plain", "pytorch-metric-learning", "bare GEMMs"]


def left_out(variant: str, kind: str, batch: int, class_size: int, device: str) -> str | None:
    """Why a variant is not run, where it is not."""
    if variant == "pytorch-metric-learning":
        if kind in ("npair", "lifted"):
            return "it holds a matrix of positive pairs times negative pairs: 100 GB"
        if kind == "binomial":
            return "it has no such loss"
        if batch > 4096 or (kind.startswith("triplet") and batch * batch * class_size > 2**26):
            return "more than 4 GB, and several seconds a round"
    if variant == "compiled plain" and kind in ("triplet_all", "triplet_semihard"):
        return "loops over anchors, where the form without a loop holds B³ numbers"
    if variant in ("plain", "compiled plain") and (batch > 4096 or (kind == "triplet_all" and class_size > 16)):
        return "more than 4 GB or 2 s a round"
    return None


def measured(
    variant: str, kind: str, batch: int, width: int, class_size: int, measure: Callable[..., None], device: str
) -> None:
    reason = left_out(variant, kind, batch, class_size, device)
    if reason:
        pytest.skip(reason)
    if variant == "pytorch-metric-learning":
        pytest.importorskip("pytorch_metric_learning")
    torch.compiler.reset()
    job = step(variant, kind, batch, width, class_size, device)
    measure(f"{kind} forward and backward, B={batch} D={width}, classes of {class_size}", variant, job)


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("batch", [112, 512, 2048, 4096, 8192])
@pytest.mark.parametrize("variant", VARIANTS)
def test_multi_similarity(variant: str, batch: int, width: int, measure: Callable[..., None], device: str) -> None:
    measured(variant, "multi_similarity", batch, width, 4, measure, device)


@pytest.mark.parametrize("class_size", [4, 16, 64])
@pytest.mark.parametrize("variant", VARIANTS)
def test_all_triplets(variant: str, class_size: int, measure: Callable[..., None], device: str) -> None:
    measured(variant, "triplet_all", 1024, 128, class_size, measure, device)


@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize("kind", ["contrastive", "binomial", "npair", "lifted", "triplet_hardest"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_other_losses(variant: str, kind: str, width: int, measure: Callable[..., None], device: str) -> None:
    measured(variant, kind, 2048, width, 4, measure, device)


@pytest.mark.parametrize(
    ("kind", "batch", "class_size"),
    [
        ("multi_similarity", 4096, 4),
        ("multi_similarity", 65_536, 4),
        ("triplet_all", 1024, 16),
        ("contrastive", 2048, 4),
    ],
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_peak_memory(
    variant: str, kind: str, batch: int, class_size: int, benchmark: Any, keep_peak: Callable[..., None], device: str
) -> None:
    """What a step adds to the memory of a process of its own."""
    reason = left_out(variant, kind, batch, class_size, device)
    if reason or (batch > 8192 and variant != "ours"):
        pytest.skip(reason or "not in memory")
    command = [sys.executable, __file__, variant, kind, str(batch), "128", str(class_size), device]
    result: list[float] = []

    # The package may be a checkout that is not installed: the child looks for it where this process does.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}

    def job() -> None:
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        result.append(float(run.stdout))

    benchmark.group = f"{kind} forward and backward, B={batch} D=128, classes of {class_size}: peak memory"
    benchmark.pedantic(job, rounds=1, iterations=1)
    keep_peak(benchmark.group, variant, result[0])


def peak_mib(variant: str, kind: str, batch: int, width: int, class_size: int, device: str) -> float:
    """What a step, already compiled, adds to the peak: of the process on the CPU (Linux), of the allocator on CUDA."""
    job = step(variant, kind, batch, width, class_size, device)
    job()
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = resident("VmRSS")
    job()
    return resident("VmHWM") - before


def resident(field: str) -> float:
    """A size out of the process's own status, in MiB."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    arguments = sys.argv[1:]
    print(peak_mib(*arguments[:2], *map(int, arguments[2:5]), *arguments[5:] or ["cpu"]))  # type: ignore[arg-type]
