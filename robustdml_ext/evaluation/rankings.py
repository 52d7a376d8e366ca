"""Who lies nearest to whom, as deep as each query asks, in blocks: what every retrieval figure reads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import (
    BACKENDS,
    Array,
    Labels,
    as_labels,
    as_matrix,
    check_distance,
    one_of,
    scale_to_one,
    unit,
)
from robustdml_ext.ops.neighbors import MOST_NEIGHBORS, neighbors

# Places of the lists that grow at one time: about 600 MB while the operator fills them.
LIST_ENTRIES = 2**24
# Places handed out at one time, and candidates sorted at one time.
BLOCK_ENTRIES = 2**21
# Queries of lists so long are asked together: a list costs what its length costs.
LENGTHS = (16, 64, 256, MOST_NEIGHBORS)


@dataclass(frozen=True)
class Search:
    """Queries, the items searched, and whether query i may find item i.

    Attributes:
        queries: float64 [N, D].
        labels: int64 [N].
        items: float64 [M, D]; the queries themselves where there is no gallery.
        item_labels: int64 [M].
        distance: "cosine" or "euclidean".
        exclude_self: item i is left out for query i.
        backend: "own" or "faiss".
    """

    queries: Tensor
    labels: npt.NDArray[np.int64]
    items: Tensor
    item_labels: npt.NDArray[np.int64]
    distance: str
    exclude_self: bool
    backend: str

    @property
    def among_themselves(self) -> bool:
        """The queries are searched, each without itself: each pair need be looked at only once."""
        return self.items is self.queries and self.exclude_self

    def relevant(self) -> npt.NDArray[np.int64]:
        """R, int64 [N]: how many items of its class each query could find, itself left out where it is left out."""
        classes, sizes = np.unique(self.item_labels, return_counts=True)
        place = np.searchsorted(classes, self.labels).clip(max=len(classes) - 1)
        found = np.where(classes[place] == self.labels, sizes[place], 0)
        return found - (self.item_labels == self.labels) if self.exclude_self else found


def search(
    embeddings: Array,
    labels: Labels,
    gallery: Array | None,
    gallery_labels: Labels | None,
    distance: str,
    exclude_self: bool | None,
    backend: str,
) -> Search:
    """The arguments of a retrieval figure, checked. Raises: TypeError, ValueError naming the one that is wrong."""
    check_distance(distance)
    one_of("backend", backend, BACKENDS)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together")
    queries = as_matrix(embeddings)
    query_labels = as_labels(labels, len(queries))
    if gallery is None or gallery_labels is None:
        return Search(queries, query_labels, queries, query_labels, distance, exclude_self is not False, backend)
    items = as_matrix(gallery, "gallery").to(queries.device)
    item_labels = as_labels(gallery_labels, len(items), "gallery_labels")
    if items.shape[1] != queries.shape[1]:
        raise ValueError(f"gallery must have the queries' {queries.shape[1]} dimensions, got {items.shape[1]}")
    if exclude_self and len(items) != len(queries):
        raise ValueError(f"exclude_self needs a gallery of the queries' length {len(queries)}, got {len(items)}")
    return Search(queries, query_labels, items, item_labels, distance, bool(exclude_self), backend)


def ranked(task: Search, depths: npt.NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """(query numbers [b], their nearest items [b, k]) in blocks, nearest first, with k at least what each asked for.

    `depths` [N]: how many items each query asks for; who asks for none gets no list. Places past the last item
    hold -1. With the own backend items at equal distances come in the order of their index, distances being those
    of `ops.neighbors` in float64, for lists of any length: longer ones than that operator makes are merged from
    its lists of parts of the items.
    """
    device = task.queries.device
    depths = np.minimum(depths, len(task.items) - task.exclude_self)
    if task.backend == "faiss":
        yield from _in_blocks(_faiss_lists(task, depths))
        return
    asking = depths > 0
    shorter = 0
    for length in LENGTHS:
        # Of the longest lists one place is kept for the query itself.
        longest = length - (length == MOST_NEIGHBORS and task.exclude_self)
        rows = np.flatnonzero(asking & (depths > shorter) & (depths <= longest))
        shorter = longest
        if len(rows):
            yield from _in_blocks(_lists(task, torch.from_numpy(rows).to(device), int(depths[rows].max())))
    rows = np.flatnonzero(asking & (depths > shorter))
    if len(rows):
        yield from _merged_lists(task, torch.from_numpy(rows).to(device), torch.from_numpy(depths).to(device))


def _in_blocks(lists: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    for rows, indices in lists:
        at_once = max(1, BLOCK_ENTRIES // indices.shape[1])
        yield from zip(rows.split(at_once), indices.split(at_once), strict=True)


def _lists(task: Search, rows: Tensor, depth: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Lists no longer than the operator makes them."""
    count = len(task.queries)
    if len(rows) * 2 > count and count * depth <= LIST_ENTRIES:
        # All of them together, as each pair's product is then computed once, or self is left out by the operator.
        gallery = None if task.among_themselves else task.items
        excluded = task.exclude_self and gallery is not None
        indices = neighbors(task.queries, gallery, depth, task.distance, exclude_self=excluded)[1]
        yield rows, indices[rows]
        return
    for block in rows.split(max(1, LIST_ENTRIES // depth)):
        # One more, in case the query itself is among them.
        places = min(depth + task.exclude_self, MOST_NEIGHBORS)
        indices = neighbors(task.queries[block], task.items, places, task.distance)[1]
        yield block, _without_self(indices, block) if task.exclude_self else indices


def _without_self(indices: Tensor, rows: Tensor) -> Tensor:
    """[b, k] → [b, k - 1]: without the query itself or, where it is not among them, without the last."""
    keep = indices != rows[:, None]
    keep[keep.all(1), -1] = False
    return indices[keep].view(len(rows), indices.shape[1] - 1)


def _merged_lists(task: Search, rows: Tensor, depths: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Longer lists: the items are dealt out at random, each part gives its nearest, and these are sorted together.

    Random parts hold about equally many of a query's nearest, so that lists a little longer than that do.
    Whether they did is checked: no part's list may end before the last place of the merged one. Who fails is asked
    again with parts that are listed whole.
    """
    count, device = len(task.items), task.queries.device
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(device)
    whole = -(-count // MOST_NEIGHBORS)
    needed = int(depths[rows].max()) + task.exclude_self
    parts = min(whole, -(-5 * needed // (4 * MOST_NEIGHBORS)))
    while len(rows):
        # In the order of their index, so that a part's own ties are in order.
        shares = [share.sort().values for share in torch.tensor_split(order, parts)]
        places = [min(len(share), MOST_NEIGHBORS) for share in shares]
        galleries = [task.items[share] for share in shares]
        failed = []
        for block in rows.split(max(1, BLOCK_ENTRIES // sum(places))):
            lists = [
                neighbors(task.queries[block], gallery, k, task.distance)
                for gallery, k in zip(galleries, places, strict=True)
            ]
            indices = [share[found] for share, (_, found) in zip(shares, lists, strict=True)]
            distances, merged = _sorted(torch.cat([d for d, _ in lists], 1), torch.cat(indices, 1))
            last = (depths[block] + task.exclude_self - 1)[:, None]
            edge, edge_index = distances.gather(1, last)[:, 0], merged.gather(1, last)[:, 0]
            reached = torch.ones_like(block, dtype=torch.bool)
            for share, (near, _), found in zip(shares, lists, indices, strict=True):
                if len(share) > near.shape[1]:
                    end, end_index = near[:, -1], found[:, -1]
                    reached &= (end > edge) | ((end == edge) & (end_index >= edge_index))
            failed.append(block[~reached])
            block, merged = block[reached], merged[reached, :needed]
            if len(block):
                yield block, _without_self(merged, block) if task.exclude_self else merged
        rows, parts = torch.cat(failed), whole


def _sorted(distances: Tensor, indices: Tensor) -> tuple[Tensor, Tensor]:
    """Rows in the order (distance, index)."""
    ordered, order = distances.sort(1)
    merged = indices.gather(1, order)
    tied = (ordered[:, 1:] == ordered[:, :-1]).any(1)
    if tied.any():
        by_index, order = indices[tied].sort(1)
        ordered[tied], order = distances[tied].gather(1, order).sort(dim=1, stable=True)
        merged[tied] = by_index.gather(1, order)
    return ordered, merged


def _faiss_lists(task: Search, depths: npt.NDArray[np.int64]) -> Iterator[tuple[Tensor, Tensor]]:
    """Lists of faiss's exact index, in float32; equal and nearly equal distances come as they come."""
    try:
        import faiss
    except ImportError as error:
        raise ImportError("backend='faiss' needs faiss, which is not installed: pip install faiss-cpu") from error
    asking = np.flatnonzero(depths > 0)
    if not len(asking):
        return
    if task.distance == "cosine":
        queries, items = unit(task.queries), unit(task.items)
    else:
        # Squares of float32 overflow beyond 1e19 and vanish below 1e-23; a power of two changes nothing else.
        scale = scale_to_one(max(float(rows.abs().max()) for rows in (task.queries, task.items)))
        queries, items = task.queries * scale, task.items * scale
    measure = faiss.METRIC_INNER_PRODUCT if task.distance == "cosine" else faiss.METRIC_L2
    index = faiss.IndexFlat(items.shape[1], measure)
    queries, items = queries.cpu().float(), items.cpu().float()
    index.add(items.numpy())
    depth = int(depths.max()) + task.exclude_self
    for rows in torch.from_numpy(asking).split(max(1, BLOCK_ENTRIES // depth)):
        indices = torch.from_numpy(index.search(queries[rows].numpy(), depth)[1])
        if task.exclude_self:
            indices = _without_self(indices, rows)
        yield rows.to(task.queries.device), indices.to(task.queries.device)
