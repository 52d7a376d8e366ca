from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from python_tests.data.images import truncate, write_image
from robustdml_ext import data

MakeFolder = Callable[..., Path]


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_augmentation_is_a_function_of_the_key(make_folder: MakeFolder, cache: str) -> None:
    root = make_folder({"a": 3, "b": 3}, "RGB", (40, 30))
    train = data.load("folder", str(root), augment="crop-flip", image_size=16, cache=cache).train
    state = torch.get_rng_state()
    first, _ = train.batch([0, 1, 0], keys=[5, 6, 7])
    assert torch.equal(torch.get_rng_state(), state)
    again, _ = train.batch([2, 0, 1], keys=[1, 5, 6])
    assert torch.equal(first[0], again[1]) and torch.equal(first[1], again[2])
    assert not torch.equal(first[0], first[2])
    assert first.shape == (3, 3, 16, 16) and first.min() >= 0 and first.max() <= 1
    torch.manual_seed(1)
    drawn, _ = train.batch([0, 0])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("height,width", [(300, 400), (100, 400), (28, 28)])
def test_crops_are_distributed_as_torchvisions(height: int, width: int) -> None:
    from torchvision.transforms import v2

    from robustdml_ext.data.transforms import random_resized_crop_box

    count = 3000
    boxes = torch.tensor([random_resized_crop_box(height, width, key) for key in range(count)]).double()
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 0] + boxes[:, 2] <= height).all() and (boxes[:, 1] + boxes[:, 3] <= width).all()
    assert abs(boxes[:, 4].mean() - 0.5) < 0.04
    torch.manual_seed(0)
    crop, image = v2.RandomResizedCrop(8), torch.zeros(1, height, width)
    drawn = [crop.make_params([image]) for _ in range(count)]
    for column, name in enumerate(("top", "left", "height", "width")):
        theirs = torch.tensor([params[name] for params in drawn]).double()
        ours = boxes[:, column].contiguous()
        grid = torch.arange(max(height, width) + 1).double()
        distance = (torch.searchsorted(ours.sort()[0], grid) - torch.searchsorted(theirs.sort()[0], grid)).abs()
        assert distance.max() / count < 0.05, name  # Kolmogorov-Smirnov; 0.05 is p = 0.001


@pytest.mark.parametrize("height,width", [(1, 1), (10, 1000), (1000, 10)])
def test_crops_of_extreme_shapes_fit(height: int, width: int) -> None:
    from robustdml_ext.data.transforms import random_resized_crop_box

    for key in range(200):
        top, left, crop_height, crop_width, _ = random_resized_crop_box(height, width, key)
        assert 0 <= top <= height - crop_height < height and 0 <= left <= width - crop_width < width


def test_evaluation_is_not_augmented(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3}, "RGB", (40, 30))
    augmented = data.load("folder", str(root), augment="crop-flip").train
    plain = data.load("folder", str(root), augment="none").train
    assert torch.equal(torch.cat([x for x, _ in augmented.iterate(2)]), plain.batch(range(3))[0])


def test_cache_changes_no_pixel(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 3, "b": 3}, "RGB", (40, 30))
    write_image(root / "a" / "other.png", 9, "RGB", (17, 50))
    for settings in ({"image_size": 16}, {"image_size": 64, "augment": "none"}, {"image_size": 64}):
        kept, read = (data.load("folder", str(root), cache=c, **settings).train for c in ("memory", "none"))
        for _ in range(2):
            assert torch.equal(kept.batch(range(4), keys=range(4))[0], read.batch(range(4), keys=range(4))[0])


def test_cached_images_are_read_once(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    train = data.load("folder", str(root)).train
    before = train.batch([0, 1])[0]
    for path in (root / "a").iterdir():
        path.unlink()
    assert torch.equal(train.batch([0, 1])[0], before)


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_truncated_jpeg_is_named(sop_folder: Path, cache: str) -> None:
    truncate(sop_folder / "bicycle_final" / "1001_1.JPG")
    train = data.load("sop", str(sop_folder), cache=cache).train
    with pytest.raises(data.DataError, match=r"1001_1\.JPG cannot be decoded"):
        train.batch([0, 1])


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_damaged_files_are_named(sop_folder: Path, content: bytes) -> None:
    (sop_folder / "bicycle_final" / "1001_1.JPG").write_bytes(content)
    with pytest.raises(data.DataError, match=r"1001_1\.JPG"):
        data.load("sop", str(sop_folder)).train.batch([1])


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_skip_takes_the_next_of_the_class(sop_folder: Path, cache: str) -> None:
    truncate(sop_folder / "bicycle_final" / "1001_1.JPG")
    (sop_folder / "bicycle_final" / "1001_2.JPG").unlink()
    train = data.load("sop", str(sop_folder), image_size=16, on_broken="skip", cache=cache).train
    with pytest.warns(UserWarning) as caught:
        images, labels = train.batch([0, 1, 2, 3, 4])
    assert sorted("1001_1" in str(w.message) for w in caught) == [False, True] and len(caught) == 2
    assert labels.tolist() == [0, 0, 0, 0, 1]
    assert torch.equal(images[1], images[3]) and torch.equal(images[2], images[3])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(train.batch([2])[0][0], images[3])


def test_a_class_without_a_readable_image_never_lends_its_label(sop_folder: Path) -> None:
    for i in range(4):
        truncate(sop_folder / "bicycle_final" / f"1003_{i}.JPG")
    train = data.load("sop", str(sop_folder), image_size=16, on_broken="skip").train
    with pytest.warns(UserWarning, match="1003_"):
        images, labels = train.batch([8, 9, 0, 1])
    assert labels.tolist() == [0, 0, 0, 0]
    assert torch.equal(images[0], images[2]) and torch.equal(images[1], images[3])


@pytest.mark.parametrize("cache", ["none", "memory"])
def test_evaluation_leaves_broken_images_out(sop_folder: Path, cache: str) -> None:
    for name in ("1004_1", "1005_0", "1005_1"):
        truncate(sop_folder / ("cabinet_final" if "4_" in name else "bicycle_final") / f"{name}.JPG")
    test = data.load("sop", str(sop_folder), image_size=16, on_broken="skip", cache=cache).test
    with pytest.warns(UserWarning):
        batches = list(test.iterate(2))
    assert [labels.tolist() for _, labels in batches] == [[0], [0, 0], [1, 1]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(len(labels) for _, labels in test.iterate(3)) == 5


def test_nothing_readable(sop_folder: Path) -> None:
    for path in sop_folder.glob("*_final/*.JPG"):
        truncate(path)
    train = data.load("sop", str(sop_folder), on_broken="skip").train
    with pytest.raises(data.DataError, match="none of the 12 images can be read"):
        train.batch([0])


def test_select_classes() -> None:
    train = data.load("digits").train
    held_out = train.select_classes([4, 1])
    assert held_out.class_names == ["4", "1"]
    kept = torch.nonzero((train.labels == 4) | (train.labels == 1)).flatten()
    images, labels = held_out.batch(range(len(held_out)))
    assert torch.equal(images, train.batch(kept.tolist())[0])
    assert torch.equal(labels == 0, train.labels[kept] == 4)
    for classes in ([0, 0], [5], [-1]):
        with pytest.raises(ValueError, match="classes must be distinct"):
            train.select_classes(classes)
