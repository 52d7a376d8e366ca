from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from python_tests.data.images import write_image
from python_tests.data.layouts import write_cub200, write_cub200_2010
from robustdml_ext import data
from robustdml_ext.data.sets import cub200, cub200_2010

Write = Callable[..., Path]
both = pytest.mark.parametrize(("name", "write"), [("cub200", write_cub200), ("cub200-2010", write_cub200_2010)])


@both
def test_the_first_hundred_classes_train(tmp_path: Path, name: str, write: Write) -> None:
    splits = data.load(name, write(tmp_path))
    assert splits.train.class_names == ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    assert splits.test.class_names == ["101.White_Pelican", "200.Common_Yellowthroat"]
    for part in (splits.train, splits.test):
        assert part.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert [path.parent.name for path in part.paths] == [part.class_names[label] for label in part.labels]
    assert (splits.protocol, splits.zero_shot) == ("zero-shot", True)


@both
@pytest.mark.parametrize("place", ["images", ".", "nested"])
def test_bare_class_folders(tmp_path: Path, name: str, write: Write, place: str) -> None:
    images = write(tmp_path / "set") / "images"
    bare = tmp_path / "bare"
    bare.mkdir()
    published = {"cub200": "CUB_200_2011", "cub200-2010": "CUB-200"}[name]
    target = {"images": bare / "images", ".": bare / "birds", "nested": bare / published / "images"}[place]
    target.parent.mkdir(exist_ok=True)
    images.rename(target)
    (target / "._001.Hidden").mkdir()
    (target / "notes").mkdir()
    (target / "001.Black_footed_Albatross" / "._1.jpg").write_bytes(b"resource fork")
    root = target if place == "." else bare
    splits = data.load(name, root)
    assert (len(splits.train), len(splits.test)) == (6, 6)
    assert splits.test.class_names == ["101.White_Pelican", "200.Common_Yellowthroat"]
    assert next(p for p in data.probe(root) if p.name == name).found


def test_bare_class_folders_in_disorder(tmp_path: Path) -> None:
    for name in ("001.A", "101.B"):
        write_image(tmp_path / "images" / name / "1.jpg", 0)
    (tmp_path / "images" / "102.C").mkdir()
    with pytest.raises(data.DataError, match=r"102\.C has no image in it"):
        data.load("cub200", tmp_path)
    write_image(tmp_path / "images" / "102.C" / "1.jpg", 0)
    write_image(tmp_path / "images" / "1.A" / "1.jpg", 0)
    with pytest.raises(data.DataError, match=r"'001.A' and '1.A' have the same class number"):
        data.load("cub200-2010", tmp_path)


@both
@pytest.mark.parametrize(("kept", "missing"), [("00", "above 100"), ("1", "up to 100")])
def test_half_of_the_classes_only(tmp_path: Path, name: str, write: Write, kept: str, missing: str) -> None:
    images = tmp_path / "images"
    write_image(images / f"{kept}1.Bird" / "1.jpg", 0) if kept == "00" else write_image(
        images / "101.Bird" / "1.jpg", 0
    )
    with pytest.raises(data.DataError, match=f"no class is numbered {missing}"):
        data.load(name, tmp_path)


@pytest.mark.parametrize(
    ("file", "number", "line", "message"),
    [
        ("images.txt", 2, "2", "expected 'image_id image_name'"),
        ("images.txt", 2, "two 001.Black_footed_Albatross/a.jpg", "whole numbers: image_id"),
        ("images.txt", 2, "2 ../a.jpg", "leads out of"),
        ("images.txt", 2, "2 /etc/a.jpg", "leads out of"),
        ("images.txt", 2, "1 001.Black_footed_Albatross/a.jpg", "image 1 is listed already"),
        ("images.txt", 2, "99 001.Black_footed_Albatross/a.jpg", "image 99 has no class"),
        ("image_class_labels.txt", 3, "3 7", "class 7 is not in classes.txt"),
        ("image_class_labels.txt", 3, "3 first", "expected 'image_id class_id'"),
        ("classes.txt", 2, "1 001.Again", "class 1 is listed already"),
        ("classes.txt", 2, "two", "expected 'class_id class_name'"),
    ],
)
def test_malformed_line_names_file_and_number(tmp_path: Path, file: str, number: int, line: str, message: str) -> None:
    listing = write_cub200(tmp_path) / file
    lines = listing.read_text().splitlines()
    lines[number - 1] = line
    listing.write_text("\n".join(lines))
    with pytest.raises(data.DataError, match=rf"{file}, line {number}: .*{message}"):
        data.load("cub200", tmp_path)


@pytest.mark.parametrize("file", ["images.txt", "image_class_labels.txt", "classes.txt"])
def test_missing_list_is_named(tmp_path: Path, file: str) -> None:
    (write_cub200(tmp_path) / file).unlink()
    with pytest.raises(data.DataError, match=rf"{file} cannot be read.*CUB_200_2011\.tgz"):
        data.load("cub200", tmp_path)


def test_labels_of_images_that_are_not_listed(tmp_path: Path) -> None:
    listing = write_cub200(tmp_path) / "images.txt"
    listing.write_text("\n".join(listing.read_text().splitlines()[:-2]))
    with pytest.raises(data.DataError, match=r"image 11 is not in images\.txt; 2 are not"):
        data.load("cub200", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("../001.Black_footed_Albatross/a.jpg", "leads out of"),
        ("a.jpg", "expected a path as 001"),
        ("Albatross/a.jpg", "expected a path as 001"),
        ("001.Black_footed_Albatross/more/a.jpg", "expected a path as 001"),
        ("001.Other/a.jpg", "class 1 is '001.Black_footed_Albatross' in a line above"),
    ],
)
def test_malformed_line_of_2010(tmp_path: Path, line: str, message: str) -> None:
    listing = write_cub200_2010(tmp_path) / "lists" / "files.txt"
    lines = listing.read_text().splitlines()
    lines[3] = line
    listing.write_text("\n".join(lines))
    with pytest.raises(data.DataError, match=rf"files\.txt, line 4: .*{message}"):
        data.load("cub200-2010", tmp_path)


@pytest.mark.parametrize(
    ("name", "module", "sizes"), [("cub200", cub200, (5_864, 5_924)), ("cub200-2010", cub200_2010, (2_944, 3_089))]
)
def test_published_counts_by_default_once_half_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: object, sizes: tuple[int, int]
) -> None:
    assert tuple(module.PUBLISHED.values()) == ((sizes[0], 100), (sizes[1], 100))  # type: ignore[attr-defined]
    folder = (write_cub200 if name == "cub200" else write_cub200_2010)(tmp_path)
    monkeypatch.setattr(module, "PUBLISHED", {"train": (6, 2), "test": (12, 2)})
    with pytest.raises(data.DataError) as error:
        data.load(name, folder)
    assert "classes 101-200 has 6 images, -6 against the published 12" in str(error.value)
    assert "classes 1-100 has" not in str(error.value)
    monkeypatch.setattr(module, "PUBLISHED", {"train": (13, 2), "test": (13, 2)})
    assert len(data.load(name, folder).train) == 6
    monkeypatch.setattr(module, "PUBLISHED", {"train": (6, 2), "test": (6, 2)})
    assert len(data.load(name, folder, check_counts=True).train) == 6
    assert "not the published" not in next(p.detail for p in data.probe(folder) if p.name == name)
