"""Targets: of other classes, distinct where that is possible, uniform, and the same for the same seed."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext.attacks import sample_targets

labels_of_bank = st.lists(st.integers(-3, 5), min_size=2, max_size=40).filter(lambda labels: len(set(labels)) > 1)


@given(candidates=labels_of_bank, count=st.integers(1, 12), seed=st.integers(0, 1000), data=st.data())
def test_other_classes_and_distinct(candidates: list[int], count: int, seed: int, data: st.DataObject) -> None:
    labels = data.draw(st.lists(st.sampled_from([*candidates, 9]), max_size=20))
    bank, own = torch.tensor(candidates), torch.tensor(labels, dtype=torch.int64)

    def draw() -> torch.Tensor:
        return sample_targets(own, count, candidates=bank, generator=torch.Generator().manual_seed(seed))

    targets = draw()
    assert targets.shape == (len(labels), count) and targets.dtype == torch.int64
    for label, row in zip(labels, targets.tolist(), strict=True):
        assert all(0 <= target < len(candidates) and candidates[target] != label for target in row)
        if len(candidates) - candidates.count(label) >= count:
            assert len(set(row)) == count
    assert torch.equal(targets, draw())


@pytest.mark.parametrize("count", [1, 3, 7])
def test_uniform_over_the_others(count: int) -> None:
    # Class 1 sits in the middle of the bank: what is drawn for it has a gap there.
    candidates = torch.tensor([0, 1, 2, 1, 0, 3, 2, 1, 3])
    rows = 30_000
    targets = sample_targets(
        torch.ones(rows, dtype=torch.int64),
        count,
        candidates=candidates,
        generator=torch.Generator().manual_seed(0),
    )
    frequency = torch.bincount(targets.flatten(), minlength=9) / (rows * count)
    expected = (candidates != 1).double() / 6
    # Seven of six with repetition; five standard deviations of the frequency.
    assert (frequency - expected).abs().max() < 5 * (1 / 6 / (rows * count)) ** 0.5
    if count == 3:
        sets = {tuple(row) for row in targets.sort(1).values.tolist()}
        assert len(sets) == 20  # all 6-choose-3 of them


def test_rows_do_not_repeat_each_other() -> None:
    targets = sample_targets(torch.zeros(100, dtype=torch.int64), 2, candidates=torch.arange(1000))
    assert len({tuple(row) for row in targets.tolist()}) > 95


def test_no_loop_over_the_bank() -> None:
    candidates = torch.arange(60_000) // 5
    start = time.perf_counter()
    sample_targets(candidates, 5, candidates=candidates, generator=torch.Generator().manual_seed(0))
    assert time.perf_counter() - start < 2


def test_errors_name_the_argument() -> None:
    one = torch.zeros(4, dtype=torch.int64)
    with pytest.raises(ValueError, match="no other class than 0"):
        sample_targets(one, 1, candidates=one)
    with pytest.raises(ValueError, match="no other class than 7"):
        sample_targets(torch.tensor([1, 7]), 1, candidates=torch.tensor([7, 7]))
    with pytest.raises(ValueError, match="count"):
        sample_targets(one, 0, candidates=torch.arange(4))
    with pytest.raises(TypeError, match="labels"):
        sample_targets(one.float(), 1, candidates=torch.arange(4))
    with pytest.raises(ValueError, match="candidates"):
        sample_targets(one, 1, candidates=torch.zeros(2, 2, dtype=torch.int64))
