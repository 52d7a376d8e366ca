"""Batches for the tests of pair losses, and what their equations, written as loops over scalars, share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Tensor, nn


@dataclass
class Batch:
    """Float64 embeddings with labels, a reference where drawn, and both to differentiate by."""

    embeddings: Tensor
    labels: Tensor
    reference: Tensor | None = None
    reference_labels: Tensor | None = None
    self_offset: int | None = None

    @property
    def inputs(self) -> list[Tensor]:
        return [self.embeddings] if self.reference is None else [self.embeddings, self.reference]

    def points(self, normalize: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Anchors and what they are compared with, row by row."""
        rows = [list(each) for each in self.inputs]
        if normalize:
            rows = [[row / row.square().sum().sqrt() for row in each] for each in rows]
        return rows[0], rows[-1]

    def anchors(self) -> Iterator[tuple[int, list[int], list[int]]]:
        """Each anchor's index, its positives P_i and its negatives N_i."""
        columns = (self.labels if self.reference_labels is None else self.reference_labels).tolist()
        offset = 0 if self.reference is None else self.self_offset
        for i, label in enumerate(self.labels.tolist()):
            others = [j for j in range(len(columns)) if offset is None or j != i + offset]
            yield i, [j for j in others if columns[j] == label], [j for j in others if columns[j] != label]


@st.composite
def batches(draw: st.DrawFn, references: bool = True) -> Batch:
    """A small batch, alone, against a memory, or against a gathered batch that holds it."""
    size, dim, classes = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 5))
    compared = draw(st.sampled_from(["batch", "memory", "gathered"])) if references else "batch"
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    spread = draw(st.sampled_from([0.3, 1.0]))
    total = size if compared == "batch" else size + 4
    x = spread * torch.randn(total, dim, dtype=torch.float64, generator=generator) + 0.3
    labels = torch.randint(classes, (total,), generator=generator)
    if compared == "batch":
        return Batch(x.requires_grad_(), labels)
    if compared == "memory":
        return Batch(x[:size].clone().requires_grad_(), labels[:size], x[size:].clone().requires_grad_(), labels[size:])
    return Batch(x[2 : 2 + size].clone().requires_grad_(), labels[2 : 2 + size], x.requires_grad_(), labels, 2)


def distance(a: Tensor, b: Tensor, squared: bool) -> Tensor:
    square = (a - b).square().sum()
    return square if squared else square.sqrt()


def hinge(value: Tensor) -> Tensor:
    return value if value.item() > 0 else 0 * value


def mean_of(terms: list[Tensor], reduction: str) -> Tensor:
    """Their sum, mean, or mean over those above 0; 0 of none."""
    total = sum(terms, torch.zeros((), dtype=torch.float64))
    if reduction == "sum":
        return total
    counted = terms if reduction == "mean" else [term for term in terms if term.item() > 0]
    return total / max(len(counted), 1)


def assert_is(loss: nn.Module, equation: Callable[[Batch], Tensor], batch: Batch) -> None:
    """The module's value and gradients are those of the equation."""
    actual = loss(batch.embeddings, batch.labels, batch.reference, batch.reference_labels, batch.self_offset)
    expected = equation(batch)
    torch.testing.assert_close(actual, expected.detach(), check_dtype=True)
    gradients = torch.autograd.grad(actual, batch.inputs, materialize_grads=True)
    if not expected.requires_grad:
        assert not any(gradient.any() for gradient in gradients)
        return
    correct = torch.autograd.grad(expected, batch.inputs, materialize_grads=True)
    for gradient, exact in zip(gradients, correct, strict=True):
        torch.testing.assert_close(gradient, exact, rtol=1e-6, atol=1e-9)


def assert_is_the_library_s(loss: nn.Module, library: Callable[..., Tensor], batch: Batch) -> None:
    """The module's value and gradients are pytorch-metric-learning's; `library` is called as its losses are."""
    keywords = {}
    if batch.reference is not None:
        keywords = {"ref_emb": batch.reference, "ref_labels": batch.reference_labels}
    expected = library(batch.embeddings, batch.labels, **keywords)
    assert_is(loss, lambda _: expected, batch)
