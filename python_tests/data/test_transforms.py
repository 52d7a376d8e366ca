"""Augmentation resize-crop-flip: a random part of the whole image resized to a square, and its center for tests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from python_tests.data.images import write_image
from robustdml_ext import data
from robustdml_ext.data import EpochLoader, LabeledImages, evaluation_batches, hold_out
from robustdml_ext.data.cache import cached_source
from robustdml_ext.data.sources import FileSource, TensorSource
from robustdml_ext.data.transforms import Transform, random_place

AUGMENT = "resize-crop-flip"
MakeFolder = Callable[..., Path]


def _image(height: int, width: int, seed: int = 0, channels: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def _whole(image: Tensor, size: int) -> Tensor:
    """The image resized to the square, to compare with."""
    side = round(size * 256 / 227)
    return torch.as_tensor(F.resize(image, [side, side], antialias=True))


def test_the_papers_sizes() -> None:
    transform = Transform(227, AUGMENT)
    assert transform.fixed(_image(300, 500)).shape == (3, 256, 256)
    assert transform.finish(transform.fixed(_image(300, 500)), 1).shape == (3, 227, 227)


@given(
    size=st.integers(2, 48), height=st.integers(1, 80), width=st.integers(1, 80), key=st.integers(0, 2**62),
    seed=st.integers(0, 9),
)  # fmt: skip
def test_a_training_image_is_a_part_of_the_resized_whole(
    size: int, height: int, width: int, key: int, seed: int
) -> None:
    image, transform = _image(height, width, seed), Transform(size, AUGMENT)
    whole = _whole(image, size)
    assert torch.equal(transform.fixed(image), whole)
    top, left, flip = random_place(whole.shape[-1] - size, key)
    expected = whole[:, top : top + size, left : left + size]
    found = transform.cropped(transform.fixed(image), key)
    assert found.shape == (3, size, size) and torch.equal(found, expected.flip(-1) if flip else expected)
    assert torch.equal(transform.finish(whole, key), found.float() / 255)


@given(size=st.integers(2, 48), height=st.integers(1, 80), width=st.integers(1, 80), center_crop=st.booleans())
def test_a_test_image_is_the_center_of_the_resized_whole(size: int, height: int, width: int, center_crop: bool) -> None:
    image = _image(height, width)
    plain = replace(Transform(size, AUGMENT, center_crop=center_crop), augment="none")
    assert not plain.random
    found, whole = plain.fixed(image), _whole(image, size)
    room = whole.shape[-1] - size
    first = round(room / 2)
    assert torch.equal(found, whole[:, first : first + size, first : first + size])
    assert torch.equal(plain.fixed(whole), found)  # out of a cache


def test_places_are_even_and_flips_half() -> None:
    draws = [random_place(3, key) for key in range(6400)]
    places = Counter((top, left) for top, left, _ in draws)
    assert set(places) == {(top, left) for top in range(4) for left in range(4)}
    assert all(300 < count < 500 for count in places.values())
    assert 3000 < sum(flip for _, _, flip in draws) < 3400
    # A flip tells nothing of the place.
    assert 1400 < sum(flip for top, _, flip in draws if top < 2) < 1800
    assert random_place(0, 5)[:2] == (0, 0)


def test_memory_holds_the_squares(make_folder: MakeFolder) -> None:
    root = str(make_folder({name: 3 for name in "abcd"}, "RGB", (50, 20)))
    kept, read = (
        data.load("folder", root, image_size=16, augment=AUGMENT, cache=cache).train for cache in ("memory", "none")
    )
    keys = list(range(6))
    assert torch.equal(kept.batch(keys, keys=keys)[0], read.batch(keys, keys=keys)[0])
    assert isinstance(kept._memory, Tensor) and kept._memory.shape == (6, 3, 18, 18)
    assert torch.equal(kept.without_augmentation().batch(keys)[0], read.without_augmentation().batch(keys)[0])
    whole = LabeledImages(TensorSource(torch.stack([_image(30, 40, i) for i in range(6)])), kept.labels, ["a", "b"],
                          Transform(16, AUGMENT))  # fmt: skip
    expected = [whole.transform.finish(_whole(_image(30, 40, i), 16), i) for i in keys]
    assert torch.equal(whole.batch(keys, keys=keys)[0], torch.stack(expected))


def test_a_cache_on_disk_holds_the_squares(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for i, path in enumerate(paths):
        write_image(path, i, "RGB", (20 + 11 * i, 60))
    source, transform = FileSource(paths, 3), Transform(32, AUGMENT, center_crop=True)
    cached = cached_source(source, tmp_path / "cache", transform)
    assert all(torch.equal(cached.read(i), _whole(source.read(i), 32)) for i in range(5))
    labels = torch.tensor([0, 1, 0, 1, 0])
    with_cache, without = (LabeledImages(each, labels, ["a", "b"], transform) for each in (cached, source))
    keys = list(range(5))
    assert torch.equal(with_cache.batch(keys, keys=keys)[0], without.batch(keys, keys=keys)[0])
    for one, other in zip(evaluation_batches(with_cache, 2), evaluation_batches(without, 2), strict=True):
        assert torch.equal(one[0], other[0])
    # Another rule has a file of its own; the same one without augmentation has not.
    for rule in (Transform(32, center_crop=True), Transform(32), replace(transform, augment="none")):
        cached_source(source, tmp_path / "cache", rule)
    assert len(list((tmp_path / "cache").glob("*.cache"))) == 3


@pytest.mark.parametrize("cache", ["none", "memory", "default"])
def test_all_splits_of_a_data_set_are_resized_alike(sop_folder: Path, cache: str) -> None:
    splits = data.load("sop", str(sop_folder), image_size=64, augment=AUGMENT, cache=cache)
    source = FileSource(splits.test.paths or [], 3)
    whole = _whole(source.read(3), 64)
    assert torch.equal(splits.test[3], whole[:, 4:68, 4:68].float() / 255) and whole.shape[-1] == 72
    plan = [[0, 4, 8], [1, 5, 9]]
    first, again = (list(EpochLoader(splits.train, seed=3, num_workers=n).epoch(plan, 1)) for n in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first[0] + first[1], again[0] + again[1], strict=True))
    assert first[0][0].shape == (3, 3, 64, 64)


def test_digits_too() -> None:
    splits = data.load("digits", augment=AUGMENT)
    assert splits.train.transform == Transform(8, AUGMENT)
    assert splits.test.transform == Transform(8, resize_square=True)
    validation = hold_out(splits, 0.4, 0).validation
    assert validation is not None and validation.transform == splits.test.transform
    assert splits.test[0].shape == (1, 8, 8)
    assert not torch.equal(splits.test[0], data.load("digits").test[0])


def test_other_augmentations_are_as_before() -> None:
    image = _image(40, 90)
    assert torch.equal(Transform(16, "crop-flip", center_crop=True).fixed(image), image)
    assert Transform(16, center_crop=True).resized(image).shape == (3, 18, 40)
    assert Transform(16).resized(image).shape == (3, 16, 16)
    with pytest.raises(ValueError, match="crop-flip, resize-crop-flip, none, got 'flip'"):
        Transform(16, "flip")
