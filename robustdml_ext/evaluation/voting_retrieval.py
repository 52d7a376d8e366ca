"""Retrieval by voting: each member names the classes of what it finds, and items of the classes named most come first.

At depth k a member lists its k nearest items of the gallery, by cosine, and so names their classes. A class has as many
votes as there are members that name it, however many of a member's items are of it. The ensemble answers with k of the
listed items: those whose class has most votes; of equally many votes the item nearest to the query, which is to say of
the largest cosine in any member that lists it, then the first of the gallery. Recall@k is the share of queries with an
item of their class among the k answered.

At k = 1 that is EAT's rule, "select the label that appears most frequently", where the paper leaves open what becomes
of ties. The list of one member is its k nearest items, so that its vote is Recall@k as `recall_at_k` has it, and so is
that of members who are all alike; answers are k items, not k classes, so that figures of ensembles and of single models
compare.

Unlike a list of neighbors, answers do not grow with k: a class with one near vote at k = 1 may be outvoted by others
deeper down. An answer at a smaller one of the depths asked for therefore counts at the larger ones as well, and a query
is summed up by the first depth at which it is answered.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, Labels, rounded_cosines
from robustdml_ext.evaluation.rankings import BLOCK_ENTRIES, LIST_ENTRIES, search
from robustdml_ext.evaluation.voting import members_of
from robustdml_ext.ops.neighbors import MOST_NEIGHBORS, NONE_OF_THE_CLASS, neighbors

# Two places of the operator's lists may go to the query itself and to an item that has moved.
MOST_DEPTH = MOST_NEIGHBORS - 2


def voted_recall_at_k(
    embeddings: Array,
    labels: Labels,
    voters: Sequence[int],
    k: int | Sequence[int] = (1, 2, 4, 8),
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    *,
    exclude_self: bool | None = None,
) -> dict[int, float]:
    """Recall@k of an ensemble that votes, for each k: the share of queries whose class it answers at k or before.

    Args:
        embeddings: queries `[N, D_1 + … + D_V]`, the members' embeddings side by side, compared by cosine in float64.
        labels: their classes `[N]`.
        voters: the members' widths D_1, …, D_V.
        k: depths, at most 1,022 or, if that is more, as many as there are items to search.
        gallery, gallery_labels, exclude_self: as `recall_at_k`. A query without another item of its class is a miss.

    Raises:
        TypeError, ValueError: as `recall_at_k` and `voting.check_voters`; a depth that is too large.
    """
    depths = [k] if isinstance(k, int | np.integer) else list(k)
    if not depths or any(isinstance(d, bool) or not isinstance(d, int | np.integer) or d < 1 for d in depths):
        raise ValueError(f"k must be positive whole numbers, got {k!r}")
    task = search(embeddings, labels, gallery, gallery_labels, "cosine", exclude_self, "own")
    device, alone = task.queries.device, task.among_themselves
    ahead = voted_ahead(
        task.queries,
        torch.from_numpy(task.labels).to(device),
        None if alone else task.items,
        None if alone else torch.from_numpy(task.item_labels).to(device),
        task.exclude_self,
        voters,
        [int(depth) for depth in depths],
    )
    return {int(depth): int((ahead < depth).sum()) / len(ahead) for depth in depths}


def voted_ahead(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor | None,
    gallery_labels: Tensor | None,
    itself: bool,
    voters: Sequence[int],
    depths: Sequence[int],
) -> Tensor:
    """As `ranks.right_ahead`, by voting: one less than the first of `depths` that answers each query's class.

    So that Recall@k is the share below k for each of the depths. Int64 `[N]`, on the CPU; the largest int64, which is
    below no depth, where no depth answers it. A row that is not finite finds nothing and is named by nobody.

    Args:
        queries: `[N, D]`, the members' embeddings side by side, with their classes `labels` `[N]`.
        labels: int64.
        gallery: `[M, D]`, with `gallery_labels` `[M]`; None: the queries, each without itself.
        gallery_labels: given where the gallery is.
        itself: item i of the gallery is query i's own image, and left out for it.
        voters: the members' widths.
        depths: at which the ensemble is asked.

    Raises:
        TypeError, ValueError: as `voting.check_voters`; a depth that is too large.
    """
    places = _places(depths, len(queries if gallery is None else gallery))
    asking = members_of(queries, voters)
    asked = None if gallery is None else members_of(gallery, voters)
    labels, items = _compact(labels, labels if gallery_labels is None else gallery_labels)
    found = torch.empty_like(labels)
    for rows, cosines, indices in _lists(asking, asked, places, itself):
        found[rows] = _first_answer(labels[rows], items, indices, cosines, depths)
    return found.cpu()


def voted_ahead_with_moved(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor,
    gallery_labels: Tensor,
    itself: bool,
    candidates: Tensor,
    moved: Tensor,
    voters: Sequence[int],
    depths: Sequence[int],
) -> Tensor:
    """As `voted_ahead`, with one item of the gallery moved for each query alone.

    In every member's list of the clean gallery the item is taken out where it was, and put in where its new cosine
    belongs. Where the query or the moved item is not finite, the query is a miss.

    Args:
        candidates: the row of the gallery that is moved, int64 `[N]`.
        moved: what it has become, `[N, D]`.
        queries, labels, gallery, gallery_labels, itself, voters, depths: as `voted_ahead`.
    """
    places = _places(depths, len(gallery)) + 1
    asking, targets = members_of(queries, voters), members_of(moved, voters)
    near = torch.stack([(q * x).sum(1) for q, x in zip(asking, targets, strict=True)], 1)
    near = rounded_cosines(near.clamp_max(1.0))
    labels, items = _compact(labels, gallery_labels)
    found = torch.empty_like(labels)
    for rows, cosines, indices in _lists(asking, members_of(gallery, voters), places, itself):
        item = candidates[rows]
        cosines, indices = _inserted(*_without(cosines, indices, item), near[rows].nan_to_num(-torch.inf), item)
        found[rows] = _first_answer(labels[rows], items, indices, cosines, depths)
    return found.masked_fill(near.isnan().any(1), NONE_OF_THE_CLASS).cpu()


def _places(depths: Sequence[int], items: int) -> int:
    """How long the lists must be."""
    places = min(max(depths), items)
    if places > MOST_DEPTH:
        raise ValueError(f"k: expected depths of at most {MOST_DEPTH} where members vote, got {max(depths)}")
    return places


def _compact(labels: Tensor, item_labels: Tensor) -> tuple[Tensor, Tensor]:
    """Classes of queries and of items as numbers from 0, in their order; one more, at the end, is no item's."""
    classes = item_labels.unique()
    place = torch.searchsorted(classes, labels).clamp_max(len(classes) - 1)
    known = torch.where(classes[place] == labels, place, -1)
    numbers = torch.searchsorted(classes, item_labels)
    return known, torch.cat([numbers, numbers.new_tensor([len(classes)])])


def _lists(
    queries: Sequence[Tensor], gallery: Sequence[Tensor] | None, places: int, itself: bool
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """(rows `[b]`, cosines and indices `[b, V, places]`, nearest first) for a block of queries at a time."""
    count, device = len(queries[0]), queries[0].device
    rows = torch.arange(count, device=device)
    items = list(queries if gallery is None else gallery)
    each = places * len(queries)
    if count * each <= LIST_ENTRIES:
        # All together, as each pair's product is then computed once, or self is left out by the operator.
        searched: list[Tensor | None] = [None] * len(queries) if gallery is None else list(gallery)
        found = [
            neighbors(q, x, places, exclude_self=itself and x is not None)
            for q, x in zip(queries, searched, strict=True)
        ]
        yield from _in_blocks(rows, *_stacked(found))
        return
    for block in rows.split(max(1, LIST_ENTRIES // each)):
        found = [neighbors(q[block], x, places + itself) for q, x in zip(queries, items, strict=True)]
        cosines, indices = _stacked(found)
        if itself:
            cosines, indices = _without(cosines, indices, block)
        yield from _in_blocks(block, cosines, indices)


def _in_blocks(rows: Tensor, cosines: Tensor, indices: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    at_once = max(1, BLOCK_ENTRIES // indices[0].numel())
    return zip(rows.split(at_once), cosines.split(at_once), indices.split(at_once), strict=True)


def _stacked(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    cosines = rounded_cosines(1 - torch.stack([distances for distances, _ in found], 1))
    return cosines, torch.stack([indices for _, indices in found], 1)


def _without(cosines: Tensor, indices: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """`[b, V, p]` → `[b, V, p - 1]`: without one item a query or, where it is not listed, without the last place."""
    keep = indices != item[:, None, None]
    keep[..., -1] &= ~keep.all(2)
    shape = (*indices.shape[:2], indices.shape[2] - 1)
    return cosines[keep].view(shape), indices[keep].view(shape)


def _inserted(cosines: Tensor, indices: Tensor, near: Tensor, item: Tensor) -> tuple[Tensor, Tensor]:
    """`[b, V, p]` → `[b, V, p + 1]`: with one more item a query, at cosines `near` `[b, V]`, where it belongs."""
    value, index = near[:, :, None], item[:, None, None]
    place = ((cosines > value) | ((cosines == value) & (indices < index))).sum(2, keepdim=True)
    order = torch.arange(indices.shape[2] + 1, device=indices.device).expand(*indices.shape[:2], -1)
    # Those behind it come one place later.
    source = (order - (order > place).long()).clamp_max(max(indices.shape[2] - 1, 0))
    here = order == place
    if not indices.shape[2]:
        return value, index.expand_as(value).contiguous()
    return torch.where(here, value, cosines.gather(2, source)), torch.where(here, index, indices.gather(2, source))


def _first_answer(labels: Tensor, classes: Tensor, indices: Tensor, cosines: Tensor, depths: Sequence[int]) -> Tensor:
    """One less than the first depth at which the class of each query is answered, int64 `[b]`.

    Args:
        labels: `[b]`, from 0; -1 for a class that no item has.
        classes: of all items, and one more at the end, above all others.
        indices: each member's nearest items `[b, V, p]`; -1 where there is none.
        cosines: of these items, minus infinity where there is none.
        depths: at which the ensemble is asked.
    """
    found = torch.full_like(labels, NONE_OF_THE_CLASS)
    waiting = torch.arange(len(labels), device=labels.device)
    for depth in sorted(set(depths)):
        listed, near = indices[waiting, :, :depth], cosines[waiting, :, :depth]
        right = _ahead(labels[waiting], classes, listed, near) < depth
        found[waiting[right]] = depth - 1
        waiting = waiting[~right]
    return found


def _ahead(labels: Tensor, classes: Tensor, indices: Tensor, cosines: Tensor) -> Tensor:
    """How many listed items come before the first one of each query's class, int64 `[b]`; the largest int64 for none.

    Counted, so that the answers need not be put in order.
    """
    named, votes = _votes(classes, indices, cosines)
    row, item, near = _items(indices, cosines)
    number = len(classes)
    name = classes[item]
    voted = votes[torch.searchsorted(named, row * number + name)]

    right = name == labels[row]
    nobody = torch.full_like(labels, NONE_OF_THE_CLASS)
    best = near.new_full(labels.shape, -torch.inf).scatter_reduce_(0, row[right], near[right], "amax")
    first = right & (near == best[row])
    place = nobody.clone().scatter_reduce_(0, row[first], item[first], "amin")
    mine = torch.zeros_like(labels).scatter_reduce_(0, row[right], voted[right], "amax")

    least, bound = mine[row], best[row]
    closer = (near > bound) | ((near == bound) & (item < place[row]))
    before = (voted > least) | ((voted == least) & closer)
    return torch.where(mine > 0, torch.zeros_like(labels).index_add_(0, row, before.long()), nobody)


def _votes(classes: Tensor, indices: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor]:
    """Of each class named for a query: the query's row · (number of classes) + class, rising, and the votes."""
    voters = indices.shape[1]
    voter = torch.arange(voters, device=indices.device)[:, None]
    ballots, order = (classes[indices] * voters + voter).flatten(1).sort(dim=1)
    cast = cosines.flatten(1).gather(1, order) > -torch.inf
    cast[:, 1:] &= ballots[:, 1:] != ballots[:, :-1]  # of several items of a class, a member has one vote
    at = cast.flatten().nonzero()[:, 0]
    row = at // cast.shape[1]
    named, votes = (row * len(classes) + ballots.flatten()[at] // voters).unique_consecutive(return_counts=True)
    return named, votes


def _items(indices: Tensor, cosines: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every item that is listed for a query, once: the query's row, the item, and the largest of its cosines."""
    items, order = indices.flatten(1).sort(dim=1)
    near = cosines.flatten(1).gather(1, order)
    at = (near > -torch.inf).flatten().nonzero()[:, 0]
    row, items, near = at // near.shape[1], items.flatten()[at], near.flatten()[at]
    start = torch.ones_like(row, dtype=torch.bool)
    start[1:] = (row[1:] != row[:-1]) | (items[1:] != items[:-1])
    group = start.cumsum(0) - 1
    largest = near.new_full((int(start.sum()),), -torch.inf).scatter_reduce_(0, group, near, "amax")
    return row[start], items[start], largest
