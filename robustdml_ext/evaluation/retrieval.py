"""Recall@k, MAP@R and R-precision: what a search among the embeddings finds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, Labels
from robustdml_ext.evaluation.rankings import Search, ranked, search
from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS, items_ahead


def recall_at_k(
    embeddings: Array,
    labels: Labels,
    k: int | Sequence[int] = (1, 2, 4, 8),
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    distance: str = "cosine",
    *,
    exclude_self: bool | None = None,
    backend: str = "own",
) -> dict[int, float]:
    """The fraction of queries with an item of their own class among their k nearest, for each k.

    Equations 8 and 9 of MDProp. `embeddings` [N, D] with `labels` [N] are the queries. `gallery` [M, D] with
    `gallery_labels` [M] is searched; the default is the queries themselves, each without itself (left out by its
    index, so that a duplicate counts). `exclude_self` leaves item i out for query i of a given gallery too, for
    example when the queries are attacked copies of the gallery's images. Equal distances are ordered by the lower
    index. A query without another item of its class cannot be answered and counts as a miss;
    pytorch-metric-learning's precision_at_1 leaves such queries out instead.

    In float64, which takes twice the time of float32 on a CPU: embeddings may be so crowded that float32 distances are
    all rounding, and a published figure should not depend on it. The N x M distances are never held: memory is
    O((N + M) D). `backend="faiss"` searches with faiss's exact index instead, in float32, where equal distances come
    in no particular order.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, or k <
    1; ImportError for a backend that is not installed.
    """
    depths = as_depths(k)
    task = search(embeddings, labels, gallery, gallery_labels, distance, exclude_self, backend)
    ahead = _items_ahead(task) if backend == "own" else _first_hits(task, max(depths))
    return {depth: int((ahead < depth).sum()) / len(task.queries) for depth in depths}


def as_depths(k: int | Sequence[int]) -> list[int]:
    """The depths of lists that recall is asked at. Raises: ValueError where they are not positive whole numbers."""
    depths = [k] if isinstance(k, int | np.integer) else list(k)
    if not depths or any(isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1 for d in depths):
        raise ValueError(f"k must be positive whole numbers, got {k!r}")
    return [int(depth) for depth in depths]


def _items_ahead(task: Search) -> Tensor:
    device, alone = task.queries.device, task.among_themselves
    return items_ahead(
        task.queries,
        torch.from_numpy(task.labels).to(device),
        None if alone else task.items,
        None if alone else torch.from_numpy(task.item_labels).to(device),
        task.distance,
        exclude_self=task.exclude_self and not alone,
    )


def _first_hits(task: Search, depth: int) -> Tensor:
    """[N]: at which place of its list each query finds its class first, counted from 0."""
    first = torch.full((len(task.queries),), NONE_OF_THE_CLASS)
    for rows, hits in _hits(task, np.full(len(task.queries), depth)):
        first[rows] = torch.where(hits.any(1), hits.int().argmax(1), NONE_OF_THE_CLASS)
    return first


def _hits(task: Search, depths: npt.NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """(query numbers [b], bool [b, k] on the CPU: whether each of the nearest items is of the query's class)."""
    labels, item_labels = torch.from_numpy(task.labels), torch.from_numpy(task.item_labels)
    for rows, indices in ranked(task, depths):
        rows, indices = rows.cpu(), indices.cpu()
        found = item_labels[indices.clamp_min(0)] == labels[rows][:, None]
        yield rows, found.logical_and_(indices >= 0)


def ranking_scores(
    embeddings: Array,
    labels: Labels,
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    distance: str = "cosine",
    *,
    exclude_self: bool | None = None,
    backend: str = "own",
) -> dict[str, float]:
    """{"map@r": MAP@R, "r_precision": R-precision}, both in [0, 1] and from one search.

    Musgrave, Belongie and Lim, "A Metric Learning Reality Check" (2020), section 3.2. R is the number of items of
    the query's class that it can find: the gallery's, without the query itself where that is left out. R-precision
    is the fraction r / R of them among its R nearest; MAP@R is 1 / R times the sum over i = 1 .. R of P(i), the
    precision among its i nearest, where the i-th is of its class, and of 0 where it is not. Each is the mean over
    the queries.

    For a query with R = 0 neither has a value (0 / 0): such queries are left out, as pytorch-metric-learning leaves
    them out, though `recall_at_k` counts them as misses; where all are, both figures are NaN. Queries, gallery,
    `exclude_self`, `backend` and ties are as in `recall_at_k`. (The mAP figures in the code of Roth et al. are others:
    they count the query itself into R, and one of them looks at lists of 1,000.)

    Any R: lists longer than `ops.neighbors` makes are merged from its lists of parts of the items, with the same
    products; only where two distances round to the same number although their products do not can the order be
    another than one list's. Memory: O((N + M) D), and lists in blocks of 600 MB at most.

    Raises: as `recall_at_k`.
    """
    task = search(embeddings, labels, gallery, gallery_labels, distance, exclude_self, backend)
    relevant = task.relevant()
    answerable = int((relevant > 0).sum())
    if not answerable:
        return {"map@r": math.nan, "r_precision": math.nan}
    wanted = torch.from_numpy(relevant)
    average = precision = 0.0
    for rows, hits in _hits(task, relevant):
        r = wanted[rows][:, None]
        place = torch.arange(1, hits.shape[1] + 1)
        hits &= place <= r
        right = hits.cumsum(1, dtype=torch.float64)
        precision += float((right[:, -1:] / r).sum())
        average += float((right.div_(place).mul_(hits).sum(1, keepdim=True) / r).sum())
    return {"map@r": average / answerable, "r_precision": precision / answerable}
