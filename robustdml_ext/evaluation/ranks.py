"""Who is ahead of whom: ranks of chosen items, in blocks of queries, so that no [N, M] tensor is ever held.

A row that holds NaN or infinity is found by nobody and finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustdml_ext.attacks import normalized_rank
from robustdml_ext.evaluation.inputs import rounded_cosines, unit
from robustdml_ext.evaluation.subject import broken, without_broken
from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS, items_ahead

_BLOCK = 4_000_000  # similarities held at a time


def right_ahead(
    queries: Tensor, labels: Tensor, gallery: Tensor | None, gallery_labels: Tensor | None, itself: bool
) -> Tensor:
    """How many items come before each query's nearest right one, int64 `[N]`: Recall@k is the share below k.

    In cosine distance and float64, as `recall_at_k`.

    Args:
        queries: `[N, D]`, with their classes `labels` `[N]`.
        gallery: `[M, D]`, with `gallery_labels` `[M]`; None: the queries, each without itself.
        gallery_labels: given where the gallery is.
        itself: item i of the gallery is query i's own image, and left out for it.
    """
    items = None if gallery is None else _directions(gallery)
    found = items_ahead(
        _directions(queries), labels, items, gallery_labels, exclude_self=itself and gallery is not None
    )
    return found.cpu()


def nearest_right(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    own: Tensor | None,
    count: int,
    device: torch.device,
) -> Tensor:
    """Rows int64 `[N, count]` of each query's nearest right items, the nearest first.

    A query with fewer than `count` right items has its nearest other ones behind them.

    Args:
        queries: `[N, D]`, with their classes `labels` `[N]`.
        gallery: `[M, D]`, with `gallery_labels` `[M]`.
        gallery_labels: classes of the gallery's items.
        own: each query's own row of the gallery, which it is not looked for; None where it is not in there.
        count: how many, fewer than M.
        device: where this is computed. What is given, and comes back, is on the CPU.
    """
    found = []
    labels, gallery_labels = labels.to(device), gallery_labels.to(device)
    for rows, cosines in _blocks(queries, gallery, own, device):
        right = labels[rows, None] == gallery_labels
        # A cosine is at most 1 in size, so that every right item comes before every wrong one.
        found.append((cosines + 4 * right).topk(count, dim=1).indices.cpu())
    return torch.cat(found)


def normalized_ranks(
    queries: Tensor, gallery: Tensor, candidates: Tensor, own: Tensor | None, device: torch.device, *, raised: bool
) -> Tensor:
    """The mean of `attacks.normalized_rank` over each query's candidates, float64 `[N]`: 0 (first) to 1 (last).

    A candidate that is not finite is last. A query that is not finite has what its attacker wants.

    Args:
        queries: `[N, D]`.
        gallery: `[M, D]`.
        candidates: rows of the gallery, int64 `[N, C]`.
        own: each query's own row of the gallery, left out; None where it is not in there.
        device: where this is computed. What is given, and comes back, is on the CPU.
        raised: the attacker wants 0; otherwise 1.
    """
    there = None if own is None else own.to(device)
    ranks = normalized_rank(queries.to(device), gallery.to(device), candidates.to(device), there).cpu()
    return ranks.masked_fill(broken(gallery)[candidates], 1.0).mean(1).masked_fill(broken(queries), float(not raised))


def ahead_with_moved(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    own: Tensor | None,
    candidates: Tensor,
    moved: Tensor,
    device: torch.device,
    *,
    raised: bool,
) -> tuple[Tensor, Tensor]:
    """As `right_ahead` and `normalized_ranks`, with one item of the gallery moved for each query alone.

    Where the query or the moved item is not finite, the query is a miss and the rank is what the attacker wants.

    Args:
        queries: `[N, D]`, with their classes `labels` `[N]`.
        gallery: `[M, D]`, clean, with `gallery_labels` `[M]`.
        gallery_labels: classes of the gallery's items.
        own: each query's own row of the gallery, left out; None where it is not in there.
        candidates: the row that is moved, int64 `[N]`.
        moved: what it has become, `[N, D]`.
        device: where this is computed. What is given, and comes back, is on the CPU.
        raised: the attacker wants rank 0; otherwise 1.

    Returns:
        Items ahead of the nearest right one, int64 `[N]`, and the moved item's normalized rank, float64 `[N]`.
    """
    others = max(len(gallery) - 1 - (own is not None), 1)
    index = torch.arange(len(gallery), device=device)
    labels, gallery_labels, lost = labels.to(device), gallery_labels.to(device), broken(queries) | broken(moved)
    ahead, ranks = [], []
    for rows, cosines in _blocks(queries, gallery, own, device):
        candidate = candidates[rows].to(device)
        directions = [_directions(without_broken(x[rows]).to(device)) for x in (queries, moved)]
        value = rounded_cosines((directions[0] * directions[1]).sum(1, keepdim=True))
        cosines.scatter_(1, candidate[:, None], value)
        ranks.append((_before(cosines, value, candidate, index) / others).cpu())
        right = (labels[rows, None] == gallery_labels) & (cosines > -torch.inf)
        # argmax takes the lowest of equal ones
        best = cosines.masked_fill(~right, -torch.inf).argmax(1)
        count = _before(cosines, cosines.gather(1, best[:, None]), best, index).long()
        ahead.append(torch.where(right.any(1), count, NONE_OF_THE_CLASS).cpu())
    misses = torch.cat(ahead).masked_fill(lost, NONE_OF_THE_CLASS)
    return misses, torch.cat(ranks).masked_fill(lost, float(not raised))


def _before(cosines: Tensor, value: Tensor, item: Tensor, index: Tensor) -> Tensor:
    """How many of a row's items come before one: those nearer, and those as near of a lower index."""
    return ((cosines > value) | ((cosines == value) & (index < item[:, None]))).sum(1).double()


def _directions(embeddings: Tensor) -> Tensor:
    return unit(embeddings.detach().double())


def _blocks(
    queries: Tensor, gallery: Tensor, own: Tensor | None, device: torch.device
) -> Iterator[tuple[slice, Tensor]]:
    """Cosines `[b, M]` of b queries at a time, those with themselves and with broken items at minus infinity."""
    items = _directions(without_broken(gallery).to(device))
    lost = broken(gallery).to(device)
    size = max(1, _BLOCK // len(items))
    for first in range(0, len(queries), size):
        rows = slice(first, min(first + size, len(queries)))
        cosines = rounded_cosines(_directions(without_broken(queries[rows]).to(device)) @ items.T)
        cosines.masked_fill_(lost, -torch.inf)
        if own is not None:
            cosines.scatter_(1, own[rows, None].to(device), -torch.inf)
        yield rows, cosines
