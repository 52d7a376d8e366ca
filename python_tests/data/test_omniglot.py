from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from python_tests.data.layouts import write_omniglot
from robustdml_ext import data
from robustdml_ext.data.sets import omniglot


def test_background_trains_and_evaluation_tests(tmp_path: Path) -> None:
    splits = data.load("omniglot", write_omniglot(tmp_path))
    assert splits.train.class_names == [f"{a}/character{c:02d}" for a in ("Greek", "Latin") for c in (1, 2)]
    assert splits.train.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert splits.test.class_names == ["Tengwar/character01", "Tengwar/character02"]
    assert splits.protocol == "background-evaluation" and splits.zero_shot and splits.validation is None


def test_one_bit_drawings_are_black_and_white(tmp_path: Path) -> None:
    folder = write_omniglot(tmp_path)
    train = data.load("omniglot", folder, image_size=105).train
    file = folder / "images_background" / "Greek" / "character01" / "0001_01.png"
    with Image.open(file) as drawing:
        assert drawing.mode == "1" and drawing.size == (105, 105)
        expected = torch.from_numpy(np.array(drawing).astype(np.float32))[None]
    assert torch.equal(train[0], expected) and set(train[0].unique().tolist()) == {0.0, 1.0}
    image, target = omniglot.Omniglot(folder)[0]
    assert (image.mode, image.size, target) == ("L", (105, 105), 0)


def test_drawings_are_not_cropped_unless_asked_for(tmp_path: Path) -> None:
    folder = write_omniglot(tmp_path)
    assert not data.load("omniglot", folder, image_size=105).train.transform.random
    assert data.load("omniglot", folder, image_size=105, augment="crop-flip").train.transform.random
    assert data.load("omniglot", folder, channels=3).test[0].shape == (3, 28, 28)


@pytest.mark.parametrize("part", ["images_background", "images_evaluation"])
def test_a_missing_part_is_named(tmp_path: Path, part: str) -> None:
    shutil.rmtree(write_omniglot(tmp_path) / part)
    with pytest.raises(data.DataError, match=f"lacks {part}/.*github.com/brendenlake/omniglot"):
        data.load("omniglot", tmp_path)


def test_empty_folders(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    (tmp_path / "images_evaluation" / "Tengwar" / "character03").mkdir()
    with pytest.raises(data.DataError, match="character03 has no image in it"):
        data.load("omniglot", tmp_path)
    shutil.rmtree(tmp_path / "images_evaluation" / "Tengwar")
    with pytest.raises(data.DataError, match=r"no folders as Greek/character01 in .*images_evaluation"):
        data.load("omniglot", tmp_path)


def test_an_alphabet_in_both_parts(tmp_path: Path) -> None:
    write_omniglot(tmp_path)
    shutil.copytree(tmp_path / "images_evaluation" / "Tengwar", tmp_path / "images_background" / "Tengwar")
    with pytest.raises(data.DataError, match="class Tengwar/character01 is in both images_background and"):
        data.load("omniglot", tmp_path)


def test_published_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(omniglot.CLASSES.values()) == 1_623 and 20 * 1_623 == 32_460
    write_omniglot(tmp_path)
    (tmp_path / "images_background" / "Latin" / "character02" / "0004_03.png").unlink()
    monkeypatch.setattr(omniglot, "CLASSES", {"train": 4, "test": 2})
    monkeypatch.setattr(omniglot, "DRAWINGS_OF_A_CLASS", 3)
    with pytest.raises(data.DataError) as error:
        data.load("omniglot", tmp_path)
    assert "images_background has 11 images, -1 against the published 12" in str(error.value)
    assert "Latin/character02 has 2 images, -1 against the published 3" in str(error.value)
    assert "Greek" not in str(error.value).split(" Get ")[0]
