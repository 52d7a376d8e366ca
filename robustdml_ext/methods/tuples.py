"""The inputs of the hard negative generator, chosen from the labels of a batch (Algorithm 1 of DAML, line 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdml_ext.models.generator import Tuples


def draw_pairs(labels: Tensor, count: int | None, generator: torch.Generator) -> Tuples:
    """For contrastive embeddings: each row as the anchor of pairs of two classes, x⁺ = x.

    Args:
        labels: int64 `[B]`.
        count: negatives of each row, drawn at random without repetition; None: all rows of other classes.
        generator: of the draws.
    """
    anchor = torch.arange(len(labels), device=labels.device)
    return Tuples(anchor, anchor, *_draw(labels[:, None] != labels, count, generator))


def draw_triplets(labels: Tensor, count: int | None, generator: torch.Generator) -> Tuples:
    """For triplets and the lifted structure: all ordered pairs (x, x⁺) of a class, x ≠ x⁺, with negatives as above."""
    same = labels[:, None] == labels
    anchor, positive = same.fill_diagonal_(False).nonzero(as_tuple=True)
    return Tuples(anchor, positive, *_draw(labels[anchor][:, None] != labels, count, generator))


def draw_n_pairs(labels: Tensor, count: int | None, generator: torch.Generator) -> Tuples:
    """For the N-pair loss: one anchor x_c and one positive x_c⁺ of each class; negatives are other classes' positives.

    A batch with more than two images of a class holds several such sets, of different images: with K images of each of
    C classes ⌊K/2⌋ sets of C pairs, each with C − 1 negatives.

    Args:
        labels: int64 `[B]`.
        count: as `draw_pairs`, of the C − 1; None: all of them.
        generator: of the draws, which image is whose pair too.
    """
    shuffled = torch.randperm(len(labels), generator=generator, device=generator.device).to(labels.device)
    order = shuffled[labels[shuffled].argsort(stable=True)]
    sorted_labels = labels[order]
    within = torch.arange(len(labels), device=labels.device) - torch.searchsorted(sorted_labels, sorted_labels)
    followed = torch.zeros_like(order, dtype=torch.bool)
    followed[:-1] = sorted_labels[1:] == sorted_labels[:-1]
    (first,) = ((within % 2 == 0) & followed).nonzero(as_tuple=True)
    anchor, positive = order[first], order[first + 1]
    classes, rounds = sorted_labels[first], within[first]
    negatives, valid = _draw((classes[:, None] != classes) & (rounds[:, None] == rounds), count, generator)
    return Tuples(anchor, positive, positive[negatives], valid)


def _draw(allowed: Tensor, count: int | None, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
    """`count` of each row's allowed columns `[T, B]`, at random: `[T, M]`, and which of them are there, if not all."""
    if not allowed.numel():
        return torch.zeros(len(allowed), 0, dtype=torch.int64, device=allowed.device), None
    numbers = allowed.sum(1)
    fewest, most = torch.stack(numbers.aminmax()).tolist()  # one look, as each waits for the device
    wanted = most if count is None else min(count, most)
    if count is None:
        chosen = allowed.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :wanted]
    else:
        keys = torch.rand(allowed.shape, generator=generator, device=generator.device).to(allowed.device)
        chosen = keys.masked_fill_(~allowed, -1).topk(wanted, dim=1).indices
    if fewest >= wanted:
        return chosen, None
    return chosen, torch.arange(wanted, device=allowed.device) < numbers[:, None]
