"""What queries find in the clean gallery, clean and attacked: pictures for whoever wants to see what a recall means."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robustdml_ext.evaluation.answers import NOTHING, answers, cosines_to
from robustdml_ext.evaluation.attacked_images import AttackedImages, places_in
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.threats import GALLERY


@dataclass(frozen=True)
class RetrievalSheets:
    """K queries with their first answers. All tensors are on the CPU; pixels are in [0, 1].

    Attributes:
        rows: which of the subject's queries, int64 `[K]`.
        labels: their classes, int64 `[K]`.
        random: bool `[K]`: drawn among all queries (True), or among those that the attack broke (False).
        clean: the query, float32 `[K, C, H, W]`.
        attacked: the same under attack.
        clean_items: rows of the gallery that the clean query finds, the first answer first, int64 `[K, top]`; −1 where
            there is none.
        attacked_items: those that the attacked query finds.
        clean_labels: classes of the items, int64 `[K, top]`; −1 where there is none.
        attacked_labels: likewise.
        clean_similarity: cosines to the items, float32 `[K, top]`; NaN where there is none.
        attacked_similarity: likewise.
        clean_pictures: the items' pixels, float32 `[K, top, C, H, W]`; 0.5 where there is none.
        attacked_pictures: likewise.
        drawn_from: how many queries were attacked to find these.
        right: how many of those found their class first when clean.
        broken: how many of these no longer did when attacked.
    """

    rows: Tensor
    labels: Tensor
    random: Tensor
    clean: Tensor
    attacked: Tensor
    clean_items: Tensor
    attacked_items: Tensor
    clean_labels: Tensor
    attacked_labels: Tensor
    clean_similarity: Tensor
    attacked_similarity: Tensor
    clean_pictures: Tensor
    attacked_pictures: Tensor
    drawn_from: int
    right: int
    broken: int


def sheet_rows(count: int, most: int = 512, seed: int = 0) -> Tensor:
    """Draws at most so many of `count` queries to attack, int64, ascending; a function of the arguments alone.

    Raises:
        ValueError: a number out of its range.
    """
    if count < 1 or most < 1 or seed < 0:
        raise ValueError(f"count, most, seed: expected at least 1, 1 and 0; got {count}, {most} and {seed}")
    drawn = np.random.default_rng([seed, 0x5E7]).permutation(count)[:most]
    return torch.from_numpy(np.sort(drawn))


def retrieval_sheets(
    subject: Subject, images: AttackedImages, *, queries: int = 8, top: int = 5, seed: int = 0
) -> RetrievalSheets:
    """Draws queries among attacked images, and looks up what they find in the clean gallery, clean and attacked.

    First come `queries` of them at random, or all, then up to as many of the others that the attack broke: whose first
    answer was right and is wrong. So that what is shown as typical was not chosen. Each query's own image is left out
    by its index; a separate gallery is searched whole. The answers are those that Recall@1 counts; those of an ensemble
    that votes are what its members elect (`answers`), and need not be the nearest by the cosine beside them.

    Args:
        subject: the model and its images; read once more, for the pictures.
        images: attacked queries of it with their pixels (`attack_images`), which are drawn among.
        queries: how many of each kind, at least 1.
        top: how many answers, at least 1.
        seed: of the draw.

    Raises:
        ValueError: a number out of its range, or no attacked pixels to draw among.
    """
    if queries < 1 or top < 1 or seed < 0:
        raise ValueError(f"queries, top, seed: expected at least 1, 1 and 0; got {queries}, {top} and {seed}")
    if not len(images.kept):
        raise ValueError("images: expected attacked images with their pixels, got none")
    pool = images.kept
    clean, attacked = subject.clean().queries[pool], images.embeddings_of(pool)
    before, after = (answers(subject, embeddings, pool, top) for embeddings in (clean, attacked))
    labels = subject.labels[pool]
    first_before, first_after = (_labels_of(subject, items[:, 0]) == labels for items in (before, after))
    broken = first_before & ~first_after
    order = torch.from_numpy(np.random.default_rng([seed, 0xB0]).permutation(len(pool)))
    at_random, others = order[:queries], order[queries:]
    chosen = torch.cat([at_random, others[broken[others]][:queries]])
    found = [items[chosen] for items in (before, after)]
    pictures = _pictures(subject, torch.cat(found), images.clean.shape[1:])
    similarity = [
        cosines_to(subject, embeddings[chosen], items)
        for embeddings, items in zip((clean, attacked), found, strict=True)
    ]
    return RetrievalSheets(
        rows=pool[chosen],
        labels=labels[chosen],
        random=torch.arange(len(chosen)) < len(at_random),
        clean=images.clean[chosen],
        attacked=images.attacked[chosen],
        clean_items=found[0],
        attacked_items=found[1],
        clean_labels=_labels_of(subject, found[0]),
        attacked_labels=_labels_of(subject, found[1]),
        clean_similarity=similarity[0],
        attacked_similarity=similarity[1],
        clean_pictures=pictures[: len(chosen)],
        attacked_pictures=pictures[len(chosen) :],
        drawn_from=len(pool),
        right=int(first_before.sum()),
        broken=int(broken.sum()),
    )


def _labels_of(subject: Subject, items: Tensor) -> Tensor:
    """Classes of rows of the gallery, −1 where there is no row."""
    return subject.gallery_labels[items.clamp_min(0)].masked_fill(items == NOTHING, NOTHING)


def _pictures(subject: Subject, items: Tensor, shape: torch.Size) -> Tensor:
    """Pixels `[K, top, C, H, W]` of rows of the gallery `[K, top]`; gray where there is no row."""
    wanted = items[items != NOTHING].unique()
    found = torch.full((len(wanted), *shape), 0.5)
    left = len(wanted)
    for pixels, _, rows in subject.batches(GALLERY):
        here = torch.isin(rows, wanted)
        if here.any():
            found[places_in(wanted, rows[here], "items")] = pixels[here.to(pixels.device)].float().cpu()
            left -= int(here.sum())
        if not left:
            break
    found = torch.cat([found, torch.full((1, *shape), 0.5)])
    places = torch.searchsorted(wanted, items.clamp_min(0)).masked_fill(items == NOTHING, len(wanted))
    return found[places.clamp_max(len(wanted))]
