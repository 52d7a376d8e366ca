"""Recall@k: is one of the query's k nearest neighbors of its class? Equations 8 and 9 of MDProp."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from robustdml_ext.evaluation.inputs import Array, as_labels, as_matrix, check_distance
from robustdml_ext.ops.neighbors import items_ahead


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

    In float64, which takes twice the time of float32 on a CPU: embeddings may be so crowded that float32 distances are
    all rounding, and a published figure should not depend on it. The N x M distances are never held: memory is
    O((N + M) D).

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
    same = items is queries and exclude_self
    ahead = items_ahead(
        queries,
        torch.from_numpy(query_labels).to(queries.device),
        None if same else items,
        None if same else torch.from_numpy(item_labels).to(queries.device),
        distance,
        exclude_self=bool(exclude_self) and not same,
    )
    return {depth: int((ahead < depth).sum()) / len(queries) for depth in depths}
