"""A whole evaluation at the size of Stanford Online Products, and k-means alone, against faiss and scikit-learn.

The embeddings are random clustered unit vectors: classes of about five points around random directions, at a noise
that leaves about 0.83 of Recall@1. faiss searches lists of 1000 neighbors and runs its own k-means on all points;
scikit-learn scores the clusters. It has no density, so that π_ratio is in our time alone.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from robustdml_ext.evaluation.kmeans import fit_kmeans
from robustdml_ext.evaluation.retrieval import recall_at_k
from robustdml_ext.evaluation.suite import evaluate

DEPTHS = (1, 10, 100, 1000)
COUNT, WIDTH, CLASSES = 60_502, 128, 11_316
NOISE = 0.12
SIZES = {"60502x128, 11316 clusters": (COUNT, WIDTH, CLASSES, NOISE), "5924x512, 100 clusters": (5_924, 512, 100, 0.1)}
GROUP = f"evaluation, N={COUNT} D={WIDTH}, {CLASSES} classes: R@1/10/100/1000, k-means, NMI, F1"
EVALUATIONS = ("ours", "faiss and scikit-learn")


def clustered(count: int, width: int, classes: int, noise: float) -> tuple[Tensor, Tensor]:
    """Unit vectors [N, D] around a random direction a class, and labels [N]; every class has a point."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator))
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count - classes,), generator=generator)])
    labels = labels[torch.randperm(count, generator=generator)]
    rows = centers[labels] + noise * torch.randn(count, width, generator=generator)
    return torch.nn.functional.normalize(rows), labels


def ours(rows: Tensor, labels: Tensor) -> dict[str, float]:
    return evaluate(rows, labels, recall_at=DEPTHS)


def theirs(rows: Tensor, labels: Tensor) -> dict[str, float]:
    import faiss
    from sklearn.metrics import normalized_mutual_info_score
    from sklearn.metrics.cluster import pair_confusion_matrix

    faiss.omp_set_num_threads(torch.get_num_threads())
    points, classes = rows.cpu().numpy(), labels.cpu().numpy()
    index = faiss.IndexFlatIP(points.shape[1])
    index.add(points)
    places = np.full(len(points), np.iinfo(np.int64).max)
    for start in range(0, len(points), 8192):  # all lists at once would be 700 MB
        rows_here = np.arange(start, min(start + 8192, len(points)))
        found = index.search(points[rows_here], max(DEPTHS) + 1)[1]
        hits = (classes[found] == classes[rows_here, None]) & (found != rows_here[:, None])
        places[rows_here] = np.where(hits.any(1), hits.argmax(1), places[rows_here])
    # Self is at place 0.
    figures = {f"recall@{depth}": float((places <= depth).mean()) for depth in DEPTHS}
    fit = fit_kmeans(rows, len(np.unique(classes)), seed=0, backend="faiss")
    clusters = fit.assignment.cpu().numpy()
    figures["nmi"] = float(normalized_mutual_info_score(classes, clusters))
    (_, false_positive), (false_negative, positive) = pair_confusion_matrix(classes, clusters)
    figures["f1"] = float(2 * positive / (2 * positive + false_positive + false_negative))
    return figures


def run_evaluation(variant: str, device: str) -> dict[str, float]:
    rows, labels = clustered(COUNT, WIDTH, CLASSES, NOISE)
    return (ours if variant == "ours" else theirs)(rows.to(device), labels.to(device))


@pytest.mark.parametrize("variant", EVALUATIONS)
def test_evaluation(variant: str, measure: Callable[..., None], device: str) -> None:
    rows, labels = (tensor.to(device) for tensor in clustered(COUNT, WIDTH, CLASSES, NOISE))
    figures: dict[str, float] = {}
    job = ours if variant == "ours" else theirs
    measure(GROUP, variant, lambda: figures.update(job(rows, labels)))
    print(f"\n{variant}: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))


@pytest.mark.parametrize("variant", EVALUATIONS)
def test_evaluation_peak_memory(variant: str, benchmark: Any, keep_peak: Callable[..., None], device: str) -> None:
    """The largest a process of its own becomes that makes the embeddings and evaluates them, libraries included."""
    # The package may be a checkout that is not installed: the child looks for it where this process does.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result: list[float] = []

    def job() -> None:
        command = [sys.executable, __file__, variant, device]
        run = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        result.append(float(run.stdout))

    benchmark.group = f"{GROUP}: peak memory of the process"
    benchmark.pedantic(job, rounds=1, iterations=1)
    keep_peak(benchmark.group, variant, result[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_recall_by_precision(dtype: torch.dtype, measure: Callable[..., None], device: str) -> None:
    """What float64, in which all of our figures are taken, costs the largest part of the evaluation."""
    from robustdml_ext.ops.neighbors import items_ahead

    rows, labels = (tensor.to(device) for tensor in clustered(COUNT, WIDTH, CLASSES, NOISE))
    group = f"recall at 1/10/100/1000, N={COUNT} D={WIDTH}"
    if dtype == torch.float64:
        measure(group, "ours", lambda: recall_at_k(rows, labels, DEPTHS))
    else:
        measure(group, "in float32", lambda: items_ahead(rows, labels))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", ["ours", "ours, k-means++", "faiss"])
def test_kmeans(variant: str, size: str, measure: Callable[..., None], device: str) -> None:
    count, width, classes, noise = SIZES[size]
    rows = clustered(count, width, classes, noise)[0].to(device)
    settings = {
        "ours": {},
        "ours, k-means++": {"init": "k-means++"},
        "faiss": {"backend": "faiss"},
    }[variant]
    if variant == "faiss":
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
    ends: list[tuple[float, int]] = []

    def job() -> None:
        # Another seed each round, as a lucky start ends early; the same ones for every variant.
        fit = fit_kmeans(rows, classes, seed=len(ends) % 3, **settings)  # type: ignore[arg-type]
        ends.append((fit.objective, fit.iterations))

    measure(f"k-means, {size}, at most 20 iterations", variant, job)
    first = ends[:3]
    print(f"\n{variant}, {size}: objective {np.mean([x[0] for x in first]):.2f}, iterations {[x[1] for x in first]}")


def peak_mib() -> float:
    """The largest this process has been. The system's own `ru_maxrss` counts the process that started it as well."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    run_evaluation(sys.argv[1], sys.argv[2])
    print(peak_mib())
