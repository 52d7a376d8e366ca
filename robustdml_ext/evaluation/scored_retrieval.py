"""Recall@k where a scorer says what is near: the prototypes paper's equation 6."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext.evaluation.inputs import Array, Labels, as_vectors
from robustdml_ext.evaluation.rankings import search
from robustdml_ext.evaluation.retrieval import as_depths
from robustdml_ext.evaluation.scorers import Scorer, all_scores, as_scorer
from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS

# Scores held at a time: 16 MB of float32, or those of as many queries as make up for a network's first layer, which is
# taken on all items anew for each block of queries; but never more than 128 MB.
BLOCK, QUERIES, MOST = 2**22, 512, 2**25
# Scores looked through at a time, as they stay in the cache.
CACHED = 2**18


def scored_recall_at_k(
    scorer: Scorer | nn.Module,
    embeddings: Array,
    labels: Labels,
    k: int | Sequence[int] = (1, 2, 4, 8),
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    *,
    exclude_self: bool | None = None,
    block: int | None = None,
) -> dict[int, float]:
    """The fraction of queries with an item of their own class among the k that score highest with them, for each k.

    k-arg max over the gallery of S(E(x'), E(x'')), equation 6 of the prototypes paper: the query x' is the scorer's
    first argument, the item its second. `embeddings` [N, D] with `labels` [N], `gallery` [M, D] with `gallery_labels`
    [M], `exclude_self`, and queries without another item of their class are as in `recall_at_k`, whose figures these
    are where the scorer is the cosine. Equal scores are ordered by the lower index; items that are equal bit for bit
    are scored once, so that they tie whatever the scorer rounds.

    `scorer` is one of `SCORERS`, any callable (queries, items) → scores, or a similarity network. It is given the
    embeddings in their own floating-point type on their device. Queries come in blocks, with all items, of at most
    `block` scores (or one query; default: 2^22 to 2^25 scores): the N x M scores are never held, and neither are
    lists of neighbors, as the number of items that come before the first right one says all.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, k < 1, block <
    1, or a scorer that gives no finite scores of its queries and items.
    """
    depths = as_depths(k)
    if block is not None and (isinstance(block, bool) or not isinstance(block, int) or block < 1):
        raise ValueError(f"block must be a positive whole number, got {block!r}")
    judge = as_scorer(scorer)
    task = search(embeddings, labels, gallery, gallery_labels, "cosine", exclude_self, "own")
    queries = as_vectors(embeddings)
    items = queries if gallery is None else as_vectors(gallery, "gallery").to(queries.device)
    item_labels = torch.from_numpy(task.item_labels).to(queries.device)
    query_labels = torch.from_numpy(task.labels).to(queries.device)
    distinct, places = _distinct(items)
    at_once = max(1, (block or min(max(BLOCK, QUERIES * len(items)), MOST)) // len(items))
    ahead = []
    for rows in torch.arange(len(queries), device=queries.device).split(at_once):
        scores = all_scores(judge, queries[rows], distinct)
        few = max(1, CACHED // len(items))
        for part, chosen in zip(scores.split(few), rows.split(few), strict=True):
            spread = part if places is None else part[:, places]
            own = chosen if task.exclude_self else None
            ahead.append(_items_ahead(spread, query_labels[chosen], item_labels, own))
    counts = torch.cat(ahead)
    return {depth: int((counts < depth).sum()) / len(queries) for depth in depths}


def _distinct(items: Tensor) -> tuple[Tensor, Tensor | None]:
    """The different rows, and for each item which of them it is; None where all rows differ already."""
    rows, places = torch.unique(items + 0.0, dim=0, return_inverse=True)  # -0.0 becomes 0.0
    return (items, None) if len(rows) == len(items) else (rows, places)


def _items_ahead(scores: Tensor, labels: Tensor, item_labels: Tensor, own: Tensor | None) -> Tensor:
    """[b]: how many items come before the first of the query's class, from scores [b, M]; `own` is left out."""
    right = labels[:, None] == item_labels
    if own is not None:
        scores = scores.scatter(1, own[:, None], -torch.inf)
        right.scatter_(1, own[:, None], False)
    # argmax takes the lowest of equal ones.
    best = scores.masked_fill(~right, -torch.inf).argmax(1, keepdim=True)
    value = scores.gather(1, best)
    before = (scores > value).sum(1)
    before += ((scores == value) & (torch.arange(len(item_labels), device=scores.device) < best)).sum(1)
    return torch.where(right.any(1), before, NONE_OF_THE_CLASS)
