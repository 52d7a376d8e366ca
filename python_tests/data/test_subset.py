"""Some images of every class, and their batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext import data
from robustdml_ext.data import choose_evenly, evaluation_batches
from robustdml_ext.data.sources import FileSource


@given(
    counts=st.lists(st.integers(1, 30), min_size=1, max_size=12), most=st.integers(2, 150), seed=st.integers(0, 2**40)
)
def test_every_class_gives_alike(counts: list[int], most: int, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed % 2**32))]
    chosen = choose_evenly(labels, most, seed)
    assert chosen == sorted(set(chosen)) == choose_evenly(labels, most, seed)
    if len(labels) <= most:
        assert chosen == list(range(len(labels)))
        return
    found = np.bincount(labels[chosen].numpy(), minlength=len(counts))
    if sum(min(count, 2) for count in counts) > most:  # too many classes
        assert set(found) <= {0, 2} and found.sum() == 2 * min(most // 2, sum(count > 1 for count in counts))
        return
    assert found.sum() == most
    level = found.max()
    # Whoever is more than one image short of the fullest class has no more to give.
    assert all(have >= level - 1 or have == count for have, count in zip(found, counts, strict=True))


def test_another_seed_chooses_others_and_every_image_can_be_chosen() -> None:
    labels = torch.arange(4).repeat(25)
    draws = [choose_evenly(labels, 21, seed) for seed in range(60)]
    assert len({tuple(draw) for draw in draws}) == 60
    assert set().union(*draws) == set(range(100))
    assert {tuple(np.sort(np.bincount(labels[draw]))) for draw in draws} == {(5, 5, 5, 6)}
    with pytest.raises(ValueError, match="got 1"):
        choose_evenly(labels, 1, 0)


@pytest.mark.parametrize("workers", [0, 1])
def test_batches_of_chosen_images(make_folder: Callable[..., Path], workers: int) -> None:
    train = data.load("folder", str(make_folder({name: 4 for name in "abcdef"}, "RGB")), augment="crop-flip").train
    chosen = [1, 2, 5, 8, 11]
    batches = evaluation_batches(train, 2, num_workers=workers, indices=chosen)
    assert len(batches) == 3
    images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert torch.equal(labels, train.labels[chosen])
    assert torch.equal(images, train.without_augmentation().batch(chosen)[0])


@pytest.mark.parametrize("augment", ["crop-flip", "none"])
def test_images_in_memory_are_not_decoded_again_without_augmentation(
    make_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, augment: str
) -> None:
    root = str(make_folder({name: 4 for name in "abcdef"}, "RGB", (24, 20)))
    expected = data.load("folder", root, cache="none").train.batch(range(12))[0]
    read: list[int] = []
    plain_read = FileSource.read
    monkeypatch.setattr(FileSource, "read", lambda self, i: read.append(i) or plain_read(self, i))  # type: ignore[func-returns-value]
    train = data.load("folder", root, augment=augment, cache="memory").train
    train.batch(range(12), keys=range(12))
    for _ in range(2):
        found = torch.cat([images for images, _ in evaluation_batches(train, 5)])
        assert torch.equal(found, expected)
    assert sorted(read) == list(range(12))
    parts = train.without_augmentation().select([3, 7])
    assert torch.equal(parts.batch([1])[0], expected[[7]]) and parts.paths == [train.paths[3], train.paths[7]]  # type: ignore[index]
