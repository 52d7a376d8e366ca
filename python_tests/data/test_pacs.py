from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from python_tests.data.layouts import DOMAINS, OBJECTS, write_pacs
from robustdml_ext import data
from robustdml_ext.data.sets import pacs
from robustdml_ext.data.sets.pacs import PACS


@pytest.mark.parametrize("held_out", DOMAINS)
@pytest.mark.parametrize("listed", [False, True])
def test_one_domain_is_held_out(tmp_path: Path, held_out: str, listed: bool) -> None:
    write_pacs(tmp_path, images=3, lists=tmp_path if listed else None)
    splits = data.load("pacs", tmp_path, image_size=16, protocol=held_out)
    assert {path.parts[-3] for path in splits.test.paths} == {held_out} and len(splits.test) == 21
    assert {path.parts[-3] for path in splits.train.paths} == set(DOMAINS) - {held_out}
    assert not splits.zero_shot and splits.train.class_names == splits.test.class_names == list(OBJECTS)
    assert splits.train.labels.bincount().tolist() == [3 * (2 if listed else 3)] * 7
    for part in (splits.train, splits.test):
        assert [path.parent.name for path in part.paths] == [OBJECTS[label] for label in part.labels]


def test_the_first_protocol_is_the_default(tmp_path: Path) -> None:
    assert data.load("pacs", write_pacs(tmp_path), image_size=16).protocol == "art_painting"
    assert list(data.protocols("pacs")) == ["art_painting", "cartoon", "photo", "sketch"]


def test_lists_give_a_validation_split_of_the_training_domains(tmp_path: Path) -> None:
    write_pacs(tmp_path / "kfold", images=3, lists=tmp_path / "pacs_label")
    splits = data.load("pacs", tmp_path, image_size=16, protocol="photo")
    assert splits.validation is not None and splits.validation.labels.bincount().tolist() == [3] * 7
    assert {path.stem for path in splits.validation.paths} == {"pic_003"}
    assert {path.stem for path in splits.train.paths} == {"pic_001", "pic_002"}
    assert {path.stem for path in splits.test.paths} == {"pic_001", "pic_002", "pic_003"}
    assert splits.validation.class_names == splits.train.class_names
    assert len(PACS(tmp_path, "validation", protocol="photo")) == 21
    shutil.rmtree(tmp_path / "pacs_label")
    assert data.load("pacs", tmp_path, image_size=16).validation is None


@pytest.mark.parametrize(
    ("images", "lists"),
    [("kfold", "pacs_label"), ("pacs_data", "."), ("images/kfold", "splits"), ("PACS/kfold", "PACS/splits")],
)
def test_where_images_and_lists_may_lie(tmp_path: Path, images: str, lists: str) -> None:
    write_pacs(tmp_path / images, images=2, lists=tmp_path / lists)
    splits = data.load("pacs", tmp_path, image_size=16)
    assert (len(splits.train), len(splits.test)) == (21, 14)


def test_a_domain_that_is_missing(tmp_path: Path) -> None:
    shutil.rmtree(write_pacs(tmp_path) / "photo")
    with pytest.raises(data.DataError, match="lacks the domains photo"):
        data.load("pacs", tmp_path)


@pytest.mark.parametrize("held_out", ["art_painting", "photo"])
def test_domains_with_other_classes(tmp_path: Path, held_out: str) -> None:
    write_pacs(tmp_path)
    (tmp_path / "photo" / "dog").rename(tmp_path / "photo" / "wolf")
    with pytest.raises(data.DataError, match="the domain art_painting lacks the classes wolf"):
        data.load("pacs", tmp_path, protocol=held_out)


def test_a_domain_without_images(tmp_path: Path) -> None:
    shutil.rmtree(write_pacs(tmp_path) / "photo")
    (tmp_path / "photo").mkdir()
    with pytest.raises(data.DataError, match=r"no class folders with images in .*photo"):
        data.load("pacs", tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("art_painting/dog/pic_001.jpg", "expected 'path label'"),
        ("art_painting/dog/pic_001.jpg 8", "a label from 1 to 7"),
        ("art_painting/dog/pic_001.jpg 0", "a label from 1 to 7"),
        ("art_painting/dog/pic_001.jpg dog", "a label from 1 to 7"),
        ("art_painting/dog/pic_001.jpg 2", "label 2 is 'dog' here and 'elephant' before|label 2 is 'elephant' here"),
        ("../dog/pic_001.jpg 1", "leads out of"),
        ("/art_painting/dog/pic_001.jpg 1", "leads out of"),
        ("photo/dog/pic_001.jpg 1", "expected a path as art_painting/dog/NAME"),
        ("art_painting/pic_001.jpg 1", "expected a path as art_painting/dog/NAME"),
    ],
)
def test_malformed_line_names_file_and_number(tmp_path: Path, line: str, message: str) -> None:
    file = write_pacs(tmp_path, lists=tmp_path) / "art_painting_train_kfold.txt"
    lines = file.read_text().splitlines()
    lines[4] = line
    file.write_text("\n".join(lines))
    with pytest.raises(data.DataError, match=rf"art_painting_train_kfold\.txt, line \d: .*({message})"):
        data.load("pacs", tmp_path, protocol="sketch")


def test_lists_that_are_missing_or_empty(tmp_path: Path) -> None:
    file = write_pacs(tmp_path, lists=tmp_path) / "cartoon_crossval_kfold.txt"
    file.write_text("\n")
    with pytest.raises(data.DataError, match=r"cartoon_crossval_kfold\.txt lists no images"):
        data.load("pacs", tmp_path)
    assert len(data.load("pacs", tmp_path, protocol="cartoon").test) == 14, "of the domain held out only test is read"
    file.unlink()
    with pytest.raises(data.DataError, match=r"cartoon_crossval_kfold\.txt cannot be read"):
        data.load("pacs", tmp_path)


def test_published_counts_add_up() -> None:
    assert sum(whole for whole, _, _ in pacs.PUBLISHED.values()) == 9_991
    assert all(train + crossval == whole for whole, train, crossval in pacs.PUBLISHED.values())


@pytest.mark.parametrize("listed", [False, True])
def test_counts_by_domain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    write_pacs(tmp_path, images=3, lists=tmp_path if listed else None)
    good = {domain: (21, 14, 7) for domain in DOMAINS}
    monkeypatch.setattr(pacs, "PUBLISHED", good)
    assert len(data.load("pacs", tmp_path, protocol="sketch", check_counts=True).test) == 21
    monkeypatch.setattr(pacs, "PUBLISHED", good | {"cartoon": (22, 14, 8), "sketch": (23, 15, 8)})
    with pytest.raises(data.DataError) as error:
        data.load("pacs", tmp_path, protocol="sketch")
    assert "sketch has 21 images, -2 against the published 23" in str(error.value)
    said = "cartoon_crossval_kfold.txt has 7 images, -1" if listed else "cartoon has 21 images, -1 against"
    assert said in str(error.value) and "art_painting" not in str(error.value).split(" Get the images")[0]
