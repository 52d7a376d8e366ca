"""The validation split: seen classes that training does without, the same for every process and resume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext import data
from robustdml_ext.data import DataSplits, LabeledImages, hold_out
from robustdml_ext.data.sources import TensorSource
from robustdml_ext.data.transforms import Transform


def splits(labels: list[int], *, zero_shot: bool = True, augment: str = "none") -> DataSplits:
    """Image i is filled with i / 255, so that it can be told which images went where."""
    pixels = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 1, 4, 4).contiguous()
    names = [f"class {c}" for c in range(max(labels) + 1)]
    images = LabeledImages(TensorSource(pixels), torch.tensor(labels), names, Transform(4, augment))
    return DataSplits("made", images, images, 1, 4, zero_shot=zero_shot)


def members(images: LabeledImages) -> list[int]:
    return [round(float(image.mean()) * 255) for image in images.without_augmentation()]


@given(st.integers(4, 20), st.floats(0.01, 0.6), st.integers(0, 2**40))
def test_whole_classes_are_held_out(classes: int, share: float, seed: int) -> None:
    labels = [c for c in range(classes) for _ in range(1 + c % 3)]
    if classes - max(2, round(share * classes)) < 2:
        with pytest.raises(data.DataError, match="select_on 'last'"):
            hold_out(splits(labels), share, seed)
        return
    made = hold_out(splits(labels), share, seed)
    assert made.validation is not None
    assert set(made.train.class_names).isdisjoint(made.validation.class_names)
    assert len(made.validation.class_names) == max(2, round(share * classes))
    for images in (made.train, made.validation):
        assert sorted(set(images.labels.tolist())) == list(range(len(images.class_names)))
        for i, image in enumerate(members(images)):
            assert images.class_names[images.labels[i]] == f"class {labels[image]}"
    assert sorted(members(made.train) + members(made.validation)) == list(range(len(labels)))
    assert made.test is not made.train and len(made.test) == len(labels)
    again = hold_out(splits(labels), share, seed)
    assert again.validation is not None and again.validation.class_names == made.validation.class_names


def test_the_seed_draws_the_classes() -> None:
    drawn = set()
    for seed in range(6):
        made = hold_out(splits(list(range(40)) * 2), 0.2, seed)
        assert made.validation is not None
        drawn.add(tuple(made.validation.class_names))
    assert len(drawn) == 6


def test_of_shared_classes_images_are_held_out() -> None:
    labels = [0] * 10 + [1] * 5 + [2] + [3] * 2
    made = hold_out(splits(labels, zero_shot=False), 0.2, 3)
    assert made.validation is not None
    assert made.validation.labels.bincount(minlength=4).tolist() == [2, 1, 0, 1]
    assert made.train.labels.bincount(minlength=4).tolist() == [8, 4, 1, 1]
    assert made.train.class_names == made.validation.class_names == made.test.class_names
    assert sorted(members(made.train) + members(made.validation)) == list(range(len(labels)))


def test_an_official_validation_split_goes_first() -> None:
    official = splits([0, 0, 1, 1]).train
    given_splits = replace(splits([0, 0, 1, 1]), validation=official)
    assert hold_out(given_splits, 0.5, 0) is given_splits


def test_validation_images_are_not_augmented() -> None:
    made = hold_out(splits([0, 1, 2, 3], augment="crop-flip"), 0.5, 0)
    assert made.validation is not None
    assert made.train.transform.random and not made.validation.transform.random


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_share_out_of_range(share: float) -> None:
    with pytest.raises(ValueError, match="share must be between 0 and 1"):
        hold_out(splits([0, 1, 2, 3]), share, 0)


def test_files_are_held_out_with_their_paths(make_folder: Callable[..., Path]) -> None:
    root = make_folder({name: 3 for name in "abcdefghijkl"})
    loaded = data.load("folder", str(root))
    made = hold_out(loaded, 0.34, 1)
    assert made.validation is not None and made.validation.paths is not None and made.train.paths is not None
    folders = {path.parent.name for path in made.validation.paths}
    assert len(folders) == 2 and folders == set(made.validation.class_names)
    assert not folders & {path.parent.name for path in made.train.paths}
    assert made.test is loaded.test


def test_index_out_of_range_is_named() -> None:
    images = splits([0, 1]).train
    assert images.select([1, 0]).labels.tolist() == [1, 0]
    with pytest.raises(IndexError, match=r"0 \.\. 1, got 0 to 2"):
        images.select([0, 2])
