"""Which rows the generator's inputs are made of."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.methods.synthetic_losses import FORMS
from robustdml_ext.models.generator import Tuples

labelings = st.lists(st.integers(-2, 4), min_size=0, max_size=14).map(
    lambda found: torch.tensor(found, dtype=torch.int64)
)


def chosen(tuples: Tuples, row: int) -> list[int]:
    negatives = tuples.negatives[row]
    return (negatives if tuples.valid is None else negatives[tuples.valid[row]]).tolist()


@given(labelings, st.sampled_from([None, 1, 2, 5]), st.integers(0, 99), st.sampled_from(["contrastive", "triplet"]))
def test_pairs_and_triplets(labels: Tensor, count: int | None, seed: int, form: str) -> None:
    tuples = FORMS[form].draw(labels, count, torch.Generator().manual_seed(seed))
    numbers = labels.tolist()
    pairs = list(zip(tuples.anchor.tolist(), tuples.positive.tolist(), strict=True))
    if form == "contrastive":
        assert pairs == [(i, i) for i in range(len(numbers))]
    else:
        every = [
            (i, j) for i in range(len(numbers)) for j in range(len(numbers)) if i != j and numbers[i] == numbers[j]
        ]
        assert pairs == every
    for row, (anchor, _) in enumerate(pairs):
        others = [j for j in range(len(numbers)) if numbers[j] != numbers[anchor]]
        found = chosen(tuples, row)
        assert len(set(found)) == len(found) == (len(others) if count is None else min(count, len(others)))
        assert set(found) <= set(others)


@given(labelings, st.sampled_from([None, 1, 3]), st.integers(0, 99))
def test_n_pairs(labels: Tensor, count: int | None, seed: int) -> None:
    """Each image in one pair at most; ⌊K/2⌋ pairs a class; negatives are the positives of other classes' pairs."""
    tuples = FORMS["npair"].draw(labels, count, torch.Generator().manual_seed(seed))
    anchors, positives, numbers = tuples.anchor.tolist(), tuples.positive.tolist(), labels.tolist()
    assert len(set(anchors + positives)) == 2 * len(anchors)
    for label in set(numbers):
        own = [row for row, anchor in enumerate(anchors) if numbers[anchor] == label]
        assert len(own) == numbers.count(label) // 2
        assert all(numbers[positives[row]] == label for row in own)
    sets: list[set[int]] = []
    for row, anchor in enumerate(anchors):
        found = chosen(tuples, row)
        assert set(found) <= set(positives) and all(numbers[j] != numbers[anchor] for j in found)
        assert len({numbers[j] for j in found}) == len(found)  # one of each of the other classes
        sets.append(set(found))
    if count is None and len({numbers.count(label) for label in set(numbers)}) == 1:
        assert all(len(found) == len(set(numbers)) - 1 for found in sets)


def test_the_papers_batch() -> None:
    """64 classes of two images: 64 anchors, one positive each, and 63 synthetic negatives for each pair."""
    labels = torch.arange(64).repeat_interleave(2)
    tuples = FORMS["npair"].draw(labels, None, torch.Generator())
    assert tuples.negatives.shape == (64, 63) and tuples.valid is None
    tuples = FORMS["triplet"].draw(labels, 1, torch.Generator())
    assert tuples.negatives.shape == (128, 1) and tuples.valid is None


def test_draws_are_the_generators() -> None:
    labels = torch.arange(20) % 5
    for form, each in FORMS.items():
        one, again, other = (each.draw(labels, 2, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
        assert torch.equal(one.negatives, again.negatives) and torch.equal(one.anchor, again.anchor), form
        assert not torch.equal(one.negatives, other.negatives), form
