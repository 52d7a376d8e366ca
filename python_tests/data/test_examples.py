"""Examples of new classes: every image of a folder of class folders, read as test images are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from python_tests.data.images import truncate, write_image
from robustdml_ext import data
from robustdml_ext.data import DataError
from robustdml_ext.data.sets.folder import load_examples

MakeFolder = Callable[..., Path]


def test_all_classes_are_in_one_split_by_name(make_folder: MakeFolder) -> None:
    root = make_folder({"owl": 2, "cat": 1, "ant": 3})
    images = load_examples(root, 12, 1)
    assert images.class_names == ["ant", "cat", "owl"] and images.labels.tolist() == [0, 0, 0, 1, 2, 2]
    for row, path in ((0, "ant/00.png"), (3, "cat/00.png"), (5, "owl/01.png")):
        expected = torch.from_numpy(np.array(Image.open(root / path))).float()[None] / 255
        assert torch.equal(images[row], expected)
    assert load_examples(str(root), 12, 1).labels.tolist() == images.labels.tolist()


@pytest.mark.parametrize("augment", ["default", "none", "crop-flip", "resize-crop-flip"])
@pytest.mark.parametrize("size", [16, 80])
def test_they_are_read_as_test_images_are(make_folder: MakeFolder, augment: str, size: int) -> None:
    root = make_folder({"a": 1, "b": 2}, "RGB", (100, 90))
    examples = load_examples(root, size, 3, augment=augment)
    tested = data.load("folder", str(root), image_size=size, channels=3, augment=augment).test
    assert tested.class_names == ["b"] and examples[0].shape == (3, size, size)
    assert torch.equal(examples[1], tested[0]) and torch.equal(examples[2], tested[1])
    assert torch.equal(examples[1], examples[1])  # nothing is drawn


def test_channels_are_the_models(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1}, "RGB")
    assert load_examples(root, 12, 1)[0].shape == (1, 12, 12) and load_examples(root, 12, 3)[0].shape == (3, 12, 12)


def test_what_is_missing_or_broken_is_said(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere does not exist\. Expected in it: a folder for each class"):
        load_examples(tmp_path / "nowhere", 12, 1)
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match="no class folders with images"):
        load_examples(tmp_path / "bare", 12, 1)
    root = make_folder({"a": 2, "b": 1})
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="empty have no images"):
        load_examples(root, 12, 1)
    (root / "empty").rmdir()
    write_image(root / "b" / "half.png", 7, "L", (64, 64))
    truncate(root / "b" / "half.png")
    images = load_examples(root, 12, 1)
    with pytest.raises(DataError, match=r"half\.png"):
        images[3]
