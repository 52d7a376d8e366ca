from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from python_tests.data.images import write_image
from robustdml_ext import data
from robustdml_ext.data.sets import ClassFolders

MakeFolder = Callable[..., Path]


def test_first_half_of_the_sorted_names_trains(make_folder: MakeFolder) -> None:
    splits = data.load("folder", str(make_folder({"d": 2, "b": 3, "a": 1, "c": 2, "e": 1})))
    assert splits.train.class_names == ["a", "b"] and splits.test.class_names == ["c", "d", "e"]
    assert splits.train.labels.tolist() == [0, 1, 1, 1]
    assert splits.test.labels.tolist() == [0, 0, 1, 1, 2]
    assert (splits.channels, splits.image_size) == (1, 12)


def test_pixels_are_the_files(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 1})
    for cache in ("memory", "none"):
        train = data.load("folder", str(root), cache=cache).train
        expected = torch.from_numpy(np.array(Image.open(root / "a" / "01.png"))).float()[None] / 255
        assert torch.equal(train[1], expected)


@pytest.mark.parametrize("mode,channels", [("L", 1), ("RGB", 3)])
def test_small_images_keep_size_and_channels(make_folder: MakeFolder, mode: str, channels: int) -> None:
    splits = data.load("folder", str(make_folder({"a": 1, "b": 1}, mode, (28, 28))))
    assert (splits.channels, splits.image_size) == (channels, 28)
    assert not splits.train.transform.random and splits.train.cache


def test_one_large_or_one_colored_image_decides(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    write_image(root / "b" / "color.png", 0, "RGB", (12, 12))
    assert data.load("folder", str(root)).channels == 3
    write_image(root / "b" / "large.png", 0, "L", (65, 12))
    splits = data.load("folder", str(root))
    assert (splits.channels, splits.image_size) == (3, 224)
    assert splits.train.transform.augment == "crop-flip" and splits.test.transform.augment == "none"
    assert not splits.train.cache


def test_image_size_and_channels_override(make_folder: MakeFolder) -> None:
    splits = data.load("folder", str(make_folder({"a": 1, "b": 1})), image_size=20, channels=3)
    assert splits.test[0].shape == (3, 20, 20) and (splits.channels, splits.image_size) == (3, 20)


def test_hidden_and_other_files_are_passed_over(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 2})
    (root / "a" / "notes.txt").write_text("no image")
    (root / "a" / "._00.png").write_bytes(b"resource fork")
    (root / "a" / "nested.png").mkdir()
    (root / ".cache").mkdir()
    (root / "README").write_text("no class")
    write_image(root / "b" / "SHOUT.PNG", 1, "L", (12, 12))
    splits = data.load("folder", str(root))
    assert len(splits.train) == 2 and len(splits.test) == 3


def test_names_beyond_ascii_in_either_spelling(make_folder: MakeFolder, tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "Möwe")
    root = make_folder({decomposed: 1, "Ente": 2, "燕": 3})
    splits = data.load("folder", str(root))
    assert splits.train.class_names == ["Ente"] and splits.test.class_names == ["Möwe", "燕"]
    listed = tmp_path / "train.txt"
    listed.write_text("Möwe\r\n\r\n燕\r\n", encoding="utf-8")
    splits = data.load("folder", str(root), train_classes=str(listed))
    assert splits.train.class_names == ["Möwe", "燕"] and len(splits.train) == 4 and len(splits.test) == 2
    assert splits.train[0].shape == (1, 12, 12)


@pytest.mark.parametrize(
    "content,message",
    [
        ("a\nnobody\n", "line 2: no class folder with images is named 'nobody'"),
        ("a\n\na\n", "line 3: class 'a' is listed in line 1 already"),
        ("\n", "lists no class"),
        ("a\nb\n", "lists all 2 classes"),
    ],
)
def test_bad_class_list(make_folder: MakeFolder, tmp_path: Path, content: str, message: str) -> None:
    listed = tmp_path / "train.txt"
    listed.write_text(content)
    with pytest.raises(data.DataError, match=message):
        data.load("folder", str(make_folder({"a": 1, "b": 1})), train_classes=str(listed))


def test_missing_class_list(make_folder: MakeFolder) -> None:
    with pytest.raises(data.DataError, match="nowhere"):
        data.load("folder", str(make_folder({"a": 1, "b": 1})), train_classes="nowhere/train.txt")


def test_empty_class_folder(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 1, "b": 1, "empty": 0})
    with pytest.raises(data.DataError, match="without an image: 'empty'"):
        data.load("folder", str(root))
    with pytest.warns(UserWarning, match="without an image: 'empty'"):
        splits = data.load("folder", str(root), on_broken="skip")
    assert splits.train.class_names + splits.test.class_names == ["a", "b"]


def test_nothing_there(make_folder: MakeFolder, tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"does not exist.*<root>/<class>/"):
        data.load("folder", str(tmp_path / "nowhere"))
    (tmp_path / "bare").mkdir()
    with pytest.raises(data.DataError, match="no class folders with images"):
        data.load("folder", str(tmp_path / "bare"))
    with pytest.raises(data.DataError, match="only the class 'a'"):
        data.load("folder", str(make_folder({"a": 1})))


def test_sixteen_bit_grey_is_scaled(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 0, "b": 1})
    Image.fromarray(np.full((12, 12), 0x80FF, dtype=np.uint16)).save(root / "a" / "deep.png")
    assert torch.allclose(data.load("folder", str(root)).train[0], torch.tensor(128 / 255))


def test_default_cache_has_a_limit(make_folder: MakeFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_folder({"a": 2, "b": 2})
    monkeypatch.setattr("robustdml_ext.data.sets.folder.CACHE_LIMIT", 4 * 144 - 1)
    assert not data.load("folder", str(root)).train.cache
    assert data.load("folder", str(root), cache="memory").train.cache


def test_the_data_set_class_has_the_same_images(make_folder: MakeFolder) -> None:
    root = make_folder({"a": 2, "b": 1, "c": 3}, "RGB", (12, 12))
    for split in ("train", "test"):
        loaded = getattr(data.load("folder", root), split)
        own = ClassFolders(root, split)
        assert (own.paths, own.classes) == (loaded.paths, loaded.class_names)
        assert own.targets == loaded.labels.tolist() and len(own) == len(loaded)
        for index, (image, target) in enumerate(own):
            assert torch.equal(torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255, loaded[index])
            assert target == own.targets[index]
    with pytest.raises(data.DataError, match="does not exist"):
        ClassFolders(root / "nowhere")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'val'"):
        ClassFolders(root, "val")


def test_a_cache_on_disk(make_folder: MakeFolder, tmp_path: Path) -> None:
    root = make_folder({"a": 2, "b": 2}, "RGB", (12, 10))
    plain, cached = (data.load("folder", root, cache=cache).train for cache in ("none", str(tmp_path / "cache")))
    assert torch.equal(plain.batch([0, 1])[0], cached.batch([0, 1])[0])
    assert len(list((tmp_path / "cache").glob("*.cache"))) == 2 and not cached.cache
