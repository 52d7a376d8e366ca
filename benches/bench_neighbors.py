"""Top-k and recall without lists, against faiss, the plain reference and the bare product, on the same threads."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustdml_ext.ops._neighbors_reference import neighbors_reference
from robustdml_ext.ops.neighbors import items_ahead, nearest_centroid, neighbors

DEPTHS = (1, 10, 100, 1000)
# The test half of Stanford Online Products, with its images per class.
SIZES = [(8_192, 128), (60_502, 128)]


def search(rows: Tensor, k: int, metric: str) -> object:
    """faiss, whose lists begin with self."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    array = rows.cpu().numpy()
    index = faiss.IndexFlatIP(rows.shape[1]) if metric == "cosine" else faiss.IndexFlatL2(rows.shape[1])
    index.add(array)
    return index.search(array, k)


def product(rows: Tensor) -> None:
    """The bare N x N product, a strip at a time."""
    for strip in rows.split(1024):
        strip @ rows.T


def hits(rows: Tensor, labels: Tensor, metric: str) -> list[Tensor]:
    ahead = items_ahead(rows, labels, distance=metric)
    return [ahead < depth for depth in DEPTHS]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("job", ["k=1", "k=10", "k=1000", "hits"])
@pytest.mark.parametrize("size", SIZES, ids=["8192x128", "60502x128"])
@pytest.mark.parametrize("variant", ["ours", "ours float64", "faiss", "reference", "product"])
def test_neighbors(
    variant: str, size: tuple[int, int], job: str, metric: str, measure: Callable[..., None], device: str
) -> None:
    count, width = size
    large = count > 10_000
    # Beyond a few seconds a round there is nothing to learn.
    if large and device == "cpu" and (variant == "reference" or job == "k=1000" or metric == "euclidean"):
        pytest.skip("takes too long for a bench")
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(count, width, generator=generator)).to(device)
    labels = (torch.arange(count) // 5)[torch.randperm(count, generator=generator)].to(device)
    k = max(DEPTHS) if job == "hits" else int(job.removeprefix("k="))
    group = f"neighbors, N={count} D={width}, {metric}, {job if job != 'hits' else 'hits at 1/10/100/1000'}"
    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: hits(rows, labels, metric) if job == "hits" else neighbors(rows, None, k, metric),
        "ours float64": lambda: hits(rows.double(), labels, metric),
        "faiss": lambda: search(rows, k, metric),
        "reference": lambda: neighbors_reference(rows, None, k, metric, True),
        "product": lambda: product(rows),
    }
    if variant == "ours float64" and job != "hits":
        pytest.skip("what the evaluation takes is the hits")
    if variant == "faiss" and large and k == 1000:
        pytest.skip("minutes for all rounds")
    measure(group, variant, functions[variant])


@pytest.mark.parametrize("variant", ["ours", "cdist"])
def test_nearest_centroid(variant: str, measure: Callable[..., None], device: str) -> None:
    points, centroids = torch.randn(20_000, 128, device=device), torch.randn(1_000, 128, device=device)
    functions: dict[str, Callable[[], object]] = {
        "ours": lambda: nearest_centroid(points, centroids),
        "cdist": lambda: torch.cdist(points, centroids).min(1),
    }
    measure("nearest centroid, N=20000 C=1000 D=128", variant, functions[variant])
