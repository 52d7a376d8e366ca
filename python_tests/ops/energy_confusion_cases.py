"""Equation 3 of the energy confusion paper over all pairs of rows, and labels in every arrangement."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from strategies import seeds
from torch import Tensor

FORMS = [(False, "sum"), (True, "sum"), (False, "mean"), (True, "mean")]


def expectations(features: Tensor, labels: Tensor) -> Tensor:
    """E|X_I − X_J|² for every pair of classes, I = J too: equation 3 over all pairs of rows."""
    distances = (features[:, None] - features[None]).square().sum(2)
    member = (labels == labels.unique()[:, None]).to(features.dtype)
    member = member / member.sum(1, keepdim=True)
    return member @ distances @ member.T


def written_out(features: Tensor, labels: Tensor, pairs: Tensor | None, logarithmic: bool, reduction: str) -> Tensor:
    energies = expectations(features, labels)
    if pairs is None:
        pairs = torch.cartesian_prod(*[torch.arange(len(energies), device=labels.device)] * 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    chosen = energies[pairs[:, 0], pairs[:, 1]]
    chosen = chosen.log1p() if logarithmic else chosen
    return chosen.mean() if reduction == "mean" and len(pairs) else chosen.sum()


@st.composite
def labelings(draw: st.DrawFn, rows: int) -> Tensor:
    """One class, all distinct, or some; contiguous or scattered; values small, negative or far apart."""
    classes = draw(st.sampled_from([1, 2, 5, 17, 40, max(rows, 1)]))
    generator = torch.Generator().manual_seed(draw(seeds()))
    labels = torch.arange(rows) % classes if draw(st.booleans()) else torch.arange(rows) * classes // max(rows, 1)
    if draw(st.booleans()):
        labels = labels[torch.randperm(rows, generator=generator)]
    stretch, offset = draw(st.sampled_from([(1, 0), (-3, 7), (2**40 + 1, -(2**45)), (2**57, -(2**62))]))
    return labels * stretch + offset
