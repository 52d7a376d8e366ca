"""Recall@k: is one of the query's k nearest neighbors of its class? Equations 8 and 9 of MDProp."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, as_labels, as_matrix, check_distance, scale_to_one, unit

BLOCK_ELEMENTS = 2**22  # scores held at a time: 32 MB


def recall_at_k(
    embeddings: Array,
    labels: Array,
    k: int | Sequence[int] = (1, 2, 4, 8),
    gallery: Array | None = None,
    gallery_labels: Array | None = None,
    distance: str = "cosine",
    *,
    exclude_self: bool | None = None,
) -> dict[int, float]:
    """The fraction of queries with an item of their own class among their k nearest, for each k.

    `embeddings` [N, D] with `labels` [N] are the queries. `gallery` [M, D] with `gallery_labels` [M] is
    searched; the default is the queries themselves, each without itself (left out by its index, so that a
    duplicate counts). `exclude_self` leaves item i out for query i of a given gallery too, for example when
    the queries are attacked copies of the gallery's images. Equal distances are ordered by the lower index. A
    query without another item of its class cannot be answered and counts as a miss.

    Needs memory for a block of rows of the N x M distances at a time.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, or k <
    1.
    """
    depths = [k] if isinstance(k, int) else list(k)
    if not depths or any(isinstance(d, bool) or not isinstance(d, int) or d < 1 for d in depths):
        raise ValueError(f"k must be positive whole numbers, got {k!r}")
    check_distance(distance)
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery and gallery_labels must be given together")
    queries = as_matrix(embeddings)
    query_labels = as_labels(labels, len(queries))
    if gallery is None or gallery_labels is None:
        items, item_labels = queries, query_labels
        exclude_self = True if exclude_self is None else exclude_self
    else:
        items = as_matrix(gallery, "gallery").to(queries.device)
        item_labels = as_labels(gallery_labels, len(items), "gallery_labels")
        if items.shape[1] != queries.shape[1]:
            raise ValueError(f"gallery must have the queries' {queries.shape[1]} dimensions, got {items.shape[1]}")
        if exclude_self and len(items) != len(queries):
            raise ValueError(f"exclude_self needs a gallery of the queries' length {len(queries)}, got {len(items)}")
    ahead = _items_ahead(queries, query_labels, items, item_labels, distance, bool(exclude_self))
    return {depth: float((ahead < depth).mean()) for depth in depths}


def _items_ahead(
    queries: Tensor,
    query_labels: npt.NDArray[np.int64],
    items: Tensor,
    item_labels: npt.NDArray[np.int64],
    distance: str,
    exclude_self: bool,
) -> npt.NDArray[np.float64]:
    """[N]: how many items come before the nearest one of the query's class; infinity where there is none.

    Recall at every depth follows from this count, and it needs no sorting: the nearest item of the class is
    found among the class alone, then the items in front of it are counted.
    """
    device, count = queries.device, len(items)
    if distance == "cosine":
        queries, items = unit(queries), unit(items)
        offset = torch.zeros(count, dtype=torch.float64, device=device)
    else:
        largest = float(torch.maximum(queries.abs().max(), items.abs().max()))
        scale = scale_to_one(largest)  # a power of two, so that equal distances stay equal
        queries, items = queries * scale, items * scale
        offset = items.square().sum(1) / -2
    copies, originals = (torch.from_numpy(side).to(device) for side in _duplicates(items))

    codes = np.unique(np.concatenate([query_labels, item_labels]), return_inverse=True)[1]
    query_codes, item_codes = torch.from_numpy(codes).to(device).tensor_split([len(queries)])
    by_class = torch.argsort(item_codes, stable=True)
    sizes = torch.bincount(item_codes, minlength=int(codes.max()) + 1)
    first = sizes.cumsum(0) - sizes
    position = torch.arange(count, device=device)

    ahead = torch.full((len(queries),), math.inf, dtype=torch.float64, device=device)
    rows_at_once = max(1, BLOCK_ELEMENTS // count)
    for start in range(0, len(queries), rows_at_once):
        rows = torch.arange(start, min(start + rows_at_once, len(queries)), device=device)
        # Orders as the distance does: the cosine, or x·y - |y|²/2, which is (|x|² - |x - y|²)/2.
        scores = torch.addmm(offset, queries[rows], items.T)
        scores[:, copies] = scores[:, originals]
        if exclude_self:
            scores[rows - start, rows] = -math.inf
        own = query_codes[rows]
        steps = torch.arange(int(sizes[own].max()), device=device)
        members = by_class[(first[own][:, None] + steps).clamp_max(count - 1)]
        matches = scores.gather(1, members).masked_fill_(steps >= sizes[own][:, None], -math.inf)
        if not len(steps):
            continue
        best = matches.amax(1, keepdim=True)
        nearest = torch.where(matches == best, members, count).amin(1, keepdim=True)
        closer = (scores > best).sum(1, dtype=torch.int32)  # half the traffic of the default int64
        tied = torch.nonzero((scores == best).sum(1, dtype=torch.int32) > 1).flatten()
        closer[tied] += ((scores[tied] == best[tied]) & (position < nearest[tied])).sum(1, dtype=torch.int32)
        ahead[rows] = torch.where(best[:, 0] > -math.inf, closer.to(torch.float64), math.inf)
    return ahead.cpu().numpy()


def _duplicates(items: Tensor) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Indices of rows that repeat an earlier row bit for bit, and of that earlier row.

    A matrix product may round the same dot product differently at the edge of a tile; equal vectors then
    would not tie.
    """
    rows = np.ascontiguousarray((items + 0.0).cpu().numpy())  # -0.0 becomes 0.0
    keys = rows.view(np.dtype((np.void, rows.shape[1] * rows.itemsize)))[:, 0]
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    original = first[inverse.reshape(-1)]
    copies = np.flatnonzero(original != np.arange(len(rows)))
    return copies, original[copies]
