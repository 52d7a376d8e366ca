"""J_m of DAML: the four metric losses with synthetic negatives in place of the observed ones (equations 8 to 12)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.methods.tuples import draw_n_pairs, draw_pairs, draw_triplets
from robustdml_ext.models.generator import Tuples


class Synthetic(NamedTuple):
    """A batch with its synthetic negatives.

    embeddings: f, `[B, D]`, of labels int64 `[B]`.
    tuples: which rows the synthetic negatives were made of.
    negatives: f̃⁻, `[T, M, D]`.
    valid: `[T, M]`, which of them count; None: all.
    """

    embeddings: Tensor
    labels: Tensor
    tuples: Tuples
    negatives: Tensor
    valid: Tensor | None

    @property
    def anchor(self) -> Tensor:
        return self.embeddings[self.tuples.anchor]

    @property
    def positive(self) -> Tensor:
        return self.embeddings[self.tuples.positive]


def contrastive(batch: Synthetic, margin: float) -> Tensor:
    """Equation 8: Σ_i D(x_i⁺, x_i)² / N_i + Σ_j [γ − D(x̃_j⁻, x_j)²]₊ / N_j, over the ordered pairs of a class, and over
    the synthetic negatives that are still within γ.

    As printed the second term is [D² − γ]₊, which would draw far negatives nearer; Hadsell et al., whom the paper
    cites for it, have the sign as here.
    """
    same = batch.labels[:, None] == batch.labels
    anchor, positive = same.fill_diagonal_(False).nonzero(as_tuple=True)
    pull = squared_distance(batch.embeddings[anchor], batch.embeddings[positive])
    push = margin - squared_distance(batch.negatives, batch.anchor[:, None])
    return mean_of_active(pull, None) + mean_of_active(push.relu(), batch.valid)


def triplet(batch: Synthetic, margin: float) -> Tensor:
    """Equation 9: Σ [D(x⁺, x)² − D(x̃⁻, x)² + γ]₊, over the number of triplets that add something."""
    to_positive = squared_distance(batch.positive, batch.anchor)[:, None]
    to_negative = squared_distance(batch.negatives, batch.anchor[:, None])
    return mean_of_active((to_positive - to_negative + margin).relu(), batch.valid)


def lifted(batch: Synthetic, margin: float) -> Tensor:
    """Equations 10 and 11: 1/(2 N_i) Σ [J_ip]₊², J_ip over the synthetic negatives of both ends of a positive pair.

    J_ip = log(Σ exp(γ − D(x̃⁻, x)) + Σ exp(γ − D(x̃⁻, x⁺))) + D(x⁺, x): the smooth bound of Song et al., whom the paper
    refers to, in place of the maximum that it prints. Those of x⁺ are made with it as the anchor and x as the positive.
    """
    count = len(batch.embeddings)
    if not batch.negatives.numel():
        return batch.negatives.sum() + 0 * batch.embeddings.sum()
    near = margin - distance(batch.negatives, batch.anchor[:, None])
    if batch.valid is not None:
        near = near.masked_fill(~batch.valid, -torch.inf)
    of_anchor = near.logsumexp(1)
    number = batch.tuples.anchor * count + batch.tuples.positive  # tuples are sorted by it
    swapped = torch.searchsorted(number, batch.tuples.positive * count + batch.tuples.anchor)
    bound = torch.logaddexp(of_anchor, of_anchor[swapped]) + distance(batch.positive, batch.anchor)
    # A pair all of whose negatives are left out has a bound of −∞, and adds nothing.
    return bound.relu().square().mean() / 2


def npair(batch: Synthetic, margin: float) -> Tensor:
    """Equation 12: 1/C Σ_c log(1 + Σ_{c' ≠ c} exp(f_cᵀ f̃_{c'} − f_cᵀ f_c⁺)), over C − 1 synthetic negatives each.

    The sum over negatives is that of Sohn's N-pair loss, which the paper refers to. Knows no margin.
    """
    if not batch.negatives.numel():
        return batch.negatives.sum() + 0 * batch.embeddings.sum()
    to_positive = (batch.anchor * batch.positive).sum(-1, keepdim=True)
    exponents = torch.einsum("td,tmd->tm", batch.anchor, batch.negatives) - to_positive
    if batch.valid is not None:
        exponents = exponents.masked_fill(~batch.valid, -torch.inf)
    return F.softplus(exponents.logsumexp(1)).mean()


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """D(a, b)² of rows `[…, D]`."""
    return (a - b).square().sum(-1)


def distance(a: Tensor, b: Tensor) -> Tensor:
    """D(a, b), whose slope at 0 is taken as 0."""
    square = squared_distance(a, b)
    above = square > 0
    return torch.where(above, torch.where(above, square, 1).sqrt(), 0)


def mean_of_active(terms: Tensor, valid: Tensor | None) -> Tensor:
    """Their sum over the number of those above 0; 0 of none, NaN where one is."""
    if valid is not None:
        terms = torch.where(valid, terms, 0)
    return terms.sum() / (terms != 0).sum().clamp(min=1)


class Form(NamedTuple):
    """How a metric loss chooses the generator's inputs, and what it makes of the synthetic negatives.

    negatives: how many each of its inputs has in the paper; None: all that there are.
    """

    draw: Callable[[Tensor, int | None, torch.Generator], Tuples]
    loss: Callable[[Synthetic, float], Tensor]
    negatives: int | None


FORMS = {
    "contrastive": Form(draw_pairs, contrastive, 1),
    "triplet": Form(draw_triplets, triplet, 1),
    "lifted": Form(draw_triplets, lifted, None),
    "npair": Form(draw_n_pairs, npair, None),
}
