from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from python_tests.data.layouts import CARS, car_names, write_cars_one_folder, write_cars_two_folders
from robustdml_ext import data
from robustdml_ext.data.sets import cars196

Write = Callable[[Path], Path]
both = pytest.mark.parametrize("write", [write_cars_one_folder, write_cars_two_folders])


@both
def test_the_first_98_classes_train_whatever_the_published_half(tmp_path: Path, write: Write) -> None:
    splits = data.load("cars196", write(tmp_path), image_size=16)
    assert splits.train.class_names == [CARS[1], CARS[98]] and splits.test.class_names == [CARS[99], CARS[196]]
    assert splits.train.labels.bincount().tolist() == splits.test.labels.bincount().tolist() == [4, 4]
    assert cars196.PUBLISHED == {"train": (8_054, 98), "test": (8_131, 98)}


def test_both_layouts_have_the_same_images(tmp_path: Path) -> None:
    loaded = []
    for write in (write_cars_one_folder, write_cars_two_folders):
        test = data.load("cars196", write(tmp_path / write.__name__), image_size=16).test
        images, labels = test.batch(range(len(test)))
        loaded.append(
            sorted((int(label), image.flatten().tolist()) for image, label in zip(images, labels, strict=True))
        )
    assert loaded[0] == loaded[1]


def test_test_labels_beside_the_devkit(tmp_path: Path) -> None:
    folder = write_cars_two_folders(tmp_path, test_labels_beside=True)
    assert len(data.load("cars196", folder).test) == 8
    (folder / "cars_test_annos_withlabels.mat").rename(folder / "cars_test_annos_withlabels (1).mat")
    assert len(data.load("cars196", folder).test) == 8


@pytest.mark.parametrize("file", ["cars_meta.mat", "cars_train_annos.mat", "cars_test_annos_withlabels.mat"])
def test_missing_file_is_named(tmp_path: Path, file: str) -> None:
    (write_cars_two_folders(tmp_path) / "devkit" / file).unlink()
    with pytest.raises(data.DataError, match=rf"lacks {file}.*--root"):
        data.load("cars196", tmp_path)


def test_test_annotations_without_labels_do_not_do(tmp_path: Path) -> None:
    devkit = write_cars_two_folders(tmp_path) / "devkit"
    (devkit / "cars_test_annos_withlabels.mat").rename(devkit / "cars_test_annos.mat")
    with pytest.raises(
        data.DataError, match=r"lacks cars_test_annos_withlabels\.mat \(cars_test_annos\.mat has no labels\)"
    ):
        data.load("cars196", tmp_path)


def _changed(file: Path, **changes: Any) -> None:
    kept = {key: value for key, value in loadmat(file).items() if not key.startswith("__")}
    savemat(file, {key: value for key, value in (kept | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("row", "field", "value", "message"),
    [
        (2, "relative_im_path", "../secret.jpg", "annotation 3: .* leads out of"),
        (2, "relative_im_path", "/etc/secret.jpg", "annotation 3: .* leads out of"),
        (4, "class", 0, "annotation 5: expected a class from 1 to 196, found 0"),
        (4, "class", 197, "annotation 5: expected a class from 1 to 196, found 197"),
        (4, "class", "Ford", "annotation 5: expected a class from 1 to 196, found .*Ford"),
    ],
)
def test_malformed_annotation_is_named(tmp_path: Path, row: int, field: str, value: Any, message: str) -> None:
    file = write_cars_one_folder(tmp_path) / "cars_annos.mat"
    annotations = loadmat(file)["annotations"]
    annotations[0, row][field] = np.array([[value]]) if isinstance(value, int) else np.array([value])
    _changed(file, annotations=annotations)
    with pytest.raises(data.DataError, match=rf"cars_annos\.mat, {message}"):
        data.load("cars196", tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": None}, "has no variable class_names"),
        ({"annotations": None}, "expected a structure 'annotations' with the field 'relative_im_path'"),
        ({"annotations": np.array([1.0, 2.0])}, "expected a structure 'annotations'"),
    ],
)
def test_wrong_variables(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    _changed(write_cars_one_folder(tmp_path) / "cars_annos.mat", **changes)
    with pytest.raises(data.DataError, match=message):
        data.load("cars196", tmp_path)


def test_fewer_class_names_than_classes(tmp_path: Path) -> None:
    _changed(write_cars_one_folder(tmp_path) / "cars_annos.mat", class_names=car_names()[None, :98])
    with pytest.raises(data.DataError, match="expected a class from 1 to 98, found 99"):
        data.load("cars196", tmp_path)


@pytest.mark.parametrize("keep", [0, 100, 300])
def test_truncated_matlab_file(tmp_path: Path, keep: int) -> None:
    file = write_cars_one_folder(tmp_path) / "cars_annos.mat"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(data.DataError, match=r"cars_annos\.mat (cannot be read as a MATLAB file|has no variable)"):
        data.load("cars196", tmp_path)


def test_one_annotation_only(tmp_path: Path) -> None:
    file = write_cars_one_folder(tmp_path) / "cars_annos.mat"
    _changed(file, annotations=loadmat(file)["annotations"][:, :1])
    with pytest.raises(data.DataError, match="no image to test on: no class is numbered above 98"):
        data.load("cars196", tmp_path)


def test_without_scipy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cars_one_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(data.DataError, match=r"needs SciPy.*pip install scipy"):
        data.load("cars196", tmp_path)


def test_published_counts_by_default_once_half_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cars_one_folder(tmp_path)
    monkeypatch.setattr(cars196, "PUBLISHED", {"train": (9, 3), "test": (100, 3)})
    with pytest.raises(data.DataError) as error:
        data.load("cars196", tmp_path)
    for said in (
        "classes 1-98 has 8 images, -1 against the published 9",
        "classes 1-98 has 2 classes, -1 against the published 3",
        "classes 99-196 has 8 images, -92 against the published 100",
    ):
        assert said in str(error.value)
