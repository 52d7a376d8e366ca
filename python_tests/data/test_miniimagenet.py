from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from python_tests.data.layouts import write_miniimagenet_folders, write_miniimagenet_lists
from robustdml_ext import data
from robustdml_ext.data.sets import miniimagenet

Write = Callable[..., Path]
both = pytest.mark.parametrize("write", [write_miniimagenet_folders, write_miniimagenet_lists])


@both
def test_official_splits(tmp_path: Path, write: Write) -> None:
    splits = data.load("miniimagenet", write(tmp_path), image_size=16)
    assert splits.protocol == "official" and splits.zero_shot and splits.validation is not None
    assert splits.train.class_names == ["n01532829", "n01558993"] and splits.train.labels.tolist() == [0] * 3 + [1] * 3
    assert splits.validation.class_names == ["n01855672"] and splits.validation.labels.tolist() == [0] * 3
    assert splits.test.class_names == ["n01930112", "n01981276"] and splits.test.labels.tolist() == [0] * 3 + [1] * 3


def test_both_layouts_have_the_same_images(tmp_path: Path) -> None:
    folders = data.load("miniimagenet", write_miniimagenet_folders(tmp_path / "a"), image_size=16, augment="none")
    lists = data.load("miniimagenet", write_miniimagenet_lists(tmp_path / "b"), image_size=16, augment="none")
    assert torch.equal(folders.train.batch(range(6))[0], lists.train.batch(range(6))[0])


def test_folders_count_where_both_are_there(tmp_path: Path) -> None:
    write_miniimagenet_folders(write_miniimagenet_lists(tmp_path), images=2)
    assert len(data.load("miniimagenet", tmp_path, image_size=16).train) == 4


@both
def test_a_missing_part_is_named(tmp_path: Path, write: Write) -> None:
    listed = write is write_miniimagenet_lists
    write(tmp_path)
    (tmp_path / "val.csv").unlink() if listed else shutil.rmtree(tmp_path / "val")
    with pytest.raises(data.DataError, match="lacks val.csv" if listed else "lacks val/"):
        data.load("miniimagenet", tmp_path)


def test_lists_without_their_images(tmp_path: Path) -> None:
    shutil.rmtree(write_miniimagenet_lists(tmp_path) / "images")
    with pytest.raises(data.DataError, match="15 of the 15 listed images are missing"):
        data.load("miniimagenet", tmp_path)


@pytest.mark.parametrize(
    ("number", "line", "message"),
    [
        (1, "file,class", "expected the header 'filename,label', found 'file,class'"),
        (3, "n0153282900000005.jpg", "expected 'filename,label'"),
        (3, "n0153282900000005.jpg,", "expected 'filename,label'"),
        (3, "a.jpg,n01532829,more", "expected 'filename,label'"),
        (3, "../a.jpg,n01532829", "leads out of"),
        (3, "/a.jpg,n01532829", "leads out of"),
    ],
)
def test_malformed_line_names_file_and_number(tmp_path: Path, number: int, line: str, message: str) -> None:
    file = write_miniimagenet_lists(tmp_path) / "val.csv"
    lines = file.read_text().splitlines()
    lines[number - 1] = line
    file.write_text("\n".join(lines))
    with pytest.raises(data.DataError, match=rf"val\.csv, line {number}: .*{message}"):
        data.load("miniimagenet", tmp_path)


@pytest.mark.parametrize(("text", "message"), [("", "an empty file"), ("filename,label\n", "lists no images")])
def test_empty_list(tmp_path: Path, text: str, message: str) -> None:
    (write_miniimagenet_lists(tmp_path) / "test.csv").write_text(text)
    with pytest.raises(data.DataError, match=rf"test\.csv.*{message}"):
        data.load("miniimagenet", tmp_path)


def test_a_class_in_two_parts(tmp_path: Path) -> None:
    write_miniimagenet_folders(tmp_path)
    shutil.copytree(tmp_path / "train" / "n01532829", tmp_path / "val" / "n01532829")
    with pytest.raises(data.DataError, match="class n01532829 is in both train and val"):
        data.load("miniimagenet", tmp_path)


def test_empty_folders(tmp_path: Path) -> None:
    write_miniimagenet_folders(tmp_path)
    (tmp_path / "train" / "n09999999").mkdir()
    with pytest.raises(data.DataError, match="n09999999 has no image in it"):
        data.load("miniimagenet", tmp_path)
    shutil.rmtree(tmp_path / "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(data.DataError, match=r"no class folders in .*train"):
        data.load("miniimagenet", tmp_path)


@both
def test_counts_of_parts_and_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Write) -> None:
    assert {part: 600 * classes for part, classes in miniimagenet.CLASSES.items()} == {
        "train": 38_400, "validation": 9_600, "test": 12_000,
    }  # fmt: skip
    write(tmp_path)
    monkeypatch.setattr(miniimagenet, "CLASSES", {"train": 2, "validation": 1, "test": 2})
    monkeypatch.setattr(miniimagenet, "IMAGES_OF_A_CLASS", 4)
    with pytest.raises(data.DataError) as error:
        data.load("miniimagenet", tmp_path)
    assert "val has 3 images, -1 against the published 4" in str(error.value)
    assert "class n01930112 has 3 images, -1 against the published 4" in str(error.value)
    monkeypatch.setattr(miniimagenet, "IMAGES_OF_A_CLASS", 3)
    assert len(data.load("miniimagenet", tmp_path, check_counts=True).train) == 6
