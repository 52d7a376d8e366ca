"""What a few queries are answered with: the nearest items of the gallery, or those that an ensemble votes for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import rounded_cosines, unit
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.voting import members_of
from robustdml_ext.ops.neighbors import neighbors

NOTHING = -1


def answers(subject: Subject, embeddings: Tensor, rows: Tensor, count: int) -> Tensor:
    """Rows of the clean gallery that some queries are answered with, the first answer first, int64 `[n, count]`.

    Each query's own image is left out by its index. These are the nearest items by cosine in float64, as for
    `recall_at_k`; equally near ones come in the order of their index. Where the model's inference is a vote, place k
    holds the first answer at depth k (`voting_retrieval`) that does not stand before it, so that the first place is
    what Recall@1 counts. Places for which there is no item, and all places of a query that is not finite, hold −1.

    Args:
        subject: the model and its images.
        embeddings: of the queries as they are asked, clean or attacked, `[n, D]`.
        rows: which of the subject's queries they are, int64 `[n]`.
        count: how many answers, at least 1.
    """
    device = subject.measured_on
    gallery = subject.clean().gallery
    own = None if subject.own is None else subject.own[rows].to(device)
    if subject.voters is None:
        queries, items = (unit(part.to(device, torch.float64)) for part in (embeddings, gallery))
        return _nearest(queries, items, own, count)[1].cpu()
    asking, items_of = (members_of(part.to(device), subject.voters) for part in (embeddings, gallery))
    lists = [_nearest(queries, items, own, count) for queries, items in zip(asking, items_of, strict=True)]
    cosines, indices = (torch.stack(parts, 1).cpu() for parts in zip(*lists, strict=True))
    classes = subject.gallery_labels.tolist()
    found = [
        _voted(near, listed, classes, count) for near, listed in zip(cosines.tolist(), indices.tolist(), strict=True)
    ]
    return torch.tensor(found, dtype=torch.int64).reshape(len(rows), count)


def right(subject: Subject, embeddings: Tensor, rows: Tensor) -> Tensor:
    """Whether the first answer is of the query's class, bool `[n]`: what Recall@1 counts. Arguments as `answers`."""
    first = answers(subject, embeddings, rows, 1)[:, 0]
    hits: Tensor = (first != NOTHING) & (subject.gallery_labels[first] == subject.labels[rows])
    return hits


def cosines_to(subject: Subject, embeddings: Tensor, items: Tensor) -> Tensor:
    """Cosines of queries `[n, D]` to rows of the clean gallery `[n, k]`, float32; NaN where there is no such row.

    Of an ensemble that votes the cosine of the members' embeddings side by side, which is the mean of the members'.
    """
    found = unit(subject.clean().gallery[items.clamp_min(0)].double().flatten(0, 1)).unflatten(0, items.shape)
    similarity = (unit(embeddings.double())[:, None] * found).sum(2)
    known: Tensor = similarity.masked_fill(items == NOTHING, torch.nan).float()
    return known


def _nearest(queries: Tensor, items: Tensor, own: Tensor | None, count: int) -> tuple[Tensor, Tensor]:
    """Cosines and rows `[n, count]`, the nearest first; minus infinity and −1 where there is none."""
    # One more, in case the query itself is among them.
    distances, indices = neighbors(queries, items, count + (own is not None))
    cosines = rounded_cosines(1 - distances)
    if own is None:
        return cosines, indices
    keep = indices != own[:, None]
    keep[:, -1] &= ~keep.all(1)
    return cosines[keep].view(-1, count), indices[keep].view(-1, count)


def _voted(
    cosines: Sequence[Sequence[float]], indices: Sequence[Sequence[int]], classes: Sequence[int], count: int
) -> list[int]:
    """The answers to one query, from each member's list `[V, count]`."""
    chosen: list[int] = []
    for depth in range(1, count + 1):
        near: dict[int, float] = {}
        votes: dict[int, int] = {}
        for own_cosines, own_indices in zip(cosines, indices, strict=True):
            listed = [item for item in own_indices[:depth] if item != NOTHING]
            for item, cosine in zip(listed, own_cosines, strict=False):
                near[item] = max(near.get(item, cosine), cosine)
            for name in {classes[item] for item in listed}:  # of several items of a class, a member has one vote
                votes[name] = votes.get(name, 0) + 1
        new = [item for item in near if item not in chosen]
        best = min(new, key=lambda item: (-votes[classes[item]], -near[item], item), default=NOTHING)
        chosen.append(best)
    return chosen
