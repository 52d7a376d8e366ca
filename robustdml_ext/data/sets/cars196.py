"""CARS196 (Krause et al. 2013) in both of its published layouts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustdml_ext.data.archives import CARS196
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import Count, Found, first_folder, halves, inside, not_found
from robustdml_ext.data.splits import DataSplits

FOLDERS = ("cars196", "CARS196", "stanford_cars", "cars")
SEEN_CLASSES = 98
PUBLISHED = {"train": (8_054, 98), "test": (8_131, 98)}  # images, classes
SUMMARY = "CARS196, 8,054 + 8,131 photographs of 196 models of cars; needs --root"
WHERE = (
    "Stanford no longer serves it (https://ai.stanford.edu/~jkrause/cars/car_dataset.html); get a copy, and give its "
    "folder as --root; expected in it: cars_annos.mat and car_ims/; or cars_train/, cars_test/, and devkit/ with "
    "cars_meta.mat, cars_train_annos.mat and cars_test_annos_withlabels.mat (which may lie beside devkit/)."
)
PROTOCOLS = {"zero-shot": "the first 98 classes train, the other 98 test; the published halves are put together"}
ARCHIVES = CARS196
_LABELED_TEST = "cars_test_annos_withlabels"


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, FOLDERS, "cars_annos.mat")
    if folder is not None:
        images, names = _one_folder(folder)
    else:
        folder = first_folder(root, FOLDERS, "devkit", "cars_train_annos.mat")
        if folder is None:
            raise not_found(LAYOUT.title, root, WHERE)
        images, names = _two_folders(folder)
    splits = halves(images, names, SEEN_CLASSES, LAYOUT.title, folder)
    parts = {"train": f"classes 1-{SEEN_CLASSES}", "test": f"classes {SEEN_CLASSES + 1}-196"}
    return Found(folder, splits, [Count.of(parts[split], splits[split], PUBLISHED[split]) for split in splits])


def _one_folder(folder: Path) -> tuple[list[tuple[Path, int]], dict[int, str]]:
    file = folder / "cars_annos.mat"
    contents = _matlab(file)
    names = _class_names(file, contents)
    return _annotations(file, contents, names, "relative_im_path", folder), names


def _two_folders(folder: Path) -> tuple[list[tuple[Path, int]], dict[int, str]]:
    meta = _beside_or_in_devkit(folder, "cars_meta.mat")
    names = _class_names(meta, _matlab(meta))
    images = []
    for part, pattern in (("cars_train", "cars_train_annos.mat"), ("cars_test", f"{_LABELED_TEST}*.mat")):
        file = _beside_or_in_devkit(folder, pattern)
        images.extend(_annotations(file, _matlab(file), names, "fname", folder / part))
    return images, names


def _beside_or_in_devkit(folder: Path, pattern: str) -> Path:
    for place in (folder / "devkit", folder):
        matches = sorted(place.glob(pattern))
        if matches:
            return matches[0]
    name = pattern.replace("*", "")
    why = " (cars_test_annos.mat has no labels)" if name.startswith(_LABELED_TEST) else ""
    raise DataError(f"CARS196 under {folder} lacks {name}{why}. {WHERE}")


def _matlab(file: Path) -> dict[str, Any]:
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise DataError(f"reading {file} needs SciPy, which is not installed: pip install scipy") from error
    try:
        contents: dict[str, Any] = loadmat(file, squeeze_me=True)
    except Exception as error:  # of a damaged file SciPy raises almost anything
        raise DataError(f"{file} cannot be read as a MATLAB file ({error}); is it truncated? {WHERE}") from error
    return contents


def _class_names(file: Path, contents: dict[str, Any]) -> dict[int, str]:
    if "class_names" not in contents:
        raise DataError(f"{file} has no variable class_names. {WHERE}")
    return {number: str(name) for number, name in enumerate(np.atleast_1d(contents["class_names"]), start=1)}


def _annotations(
    file: Path, contents: dict[str, Any], names: dict[int, str], path_field: str, folder: Path
) -> list[tuple[Path, int]]:
    records = np.atleast_1d(contents.get("annotations", np.array(0)))
    fields: Sequence[str] = records.dtype.names or ()
    for field in (path_field, "class"):
        if field not in fields:
            raise DataError(f"{file}: expected a structure 'annotations' with the field {field!r}. {WHERE}")
    images = []
    for number, record in enumerate(records, start=1):
        said_in = f"{file}, annotation {number}"
        try:
            class_id = int(record["class"])
        except (TypeError, ValueError):
            class_id = 0
        if class_id not in names:
            raise DataError(f"{said_in}: expected a class from 1 to {len(names)}, found {record['class']!r}")
        images.append((inside(folder, str(record[path_field]), said_in), class_id))
    return images


LAYOUT = Layout("cars196", "CARS196", WHERE, PROTOCOLS, _read)


def load(options: ReadOptions) -> DataSplits:
    """The first 98 classes train, the others test; see `data.load` for the options. Raises: DataError."""
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class Cars196(ImageFiles):
    """CARS196 as (PIL image, label) pairs; `split` "train" or "test", 98 classes each; see `ImageFiles`."""

    layout = LAYOUT
