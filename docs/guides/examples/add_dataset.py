"""A data set in its official layout: `train/CLASS/*.png` and `test/CLASS/*.png`, other classes in each."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import (
    Count,
    Found,
    check_apart,
    class_name,
    first_folder,
    from_folders,
    not_found,
    subfolders,
)
from robustdml_ext.data.splits import DataSplits

FOLDERS = ("leaves", "Leaves")  # names that its archive unpacks to
PUBLISHED = {"train": (6, 2), "test": (6, 2)}  # images, classes
SUMMARY = "Leaves, 6 + 6 photographs of 4 plants; needs --root"
WHERE = (
    "Unpack leaves.zip and give the folder leaves (or the one that holds it) as --root; expected in it: train/, test/."
)
PROTOCOLS = {"zero-shot": "two plants train, the other two test"}
ARCHIVES = ()  # what --download could get, had it an official address


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, FOLDERS, *PUBLISHED)
    if folder is None:
        raise not_found(LAYOUT.title, root, WHERE)
    if lacking := [part for part in PUBLISHED if not (folder / part).is_dir()]:
        raise DataError(f"Leaves under {folder} lacks {lacking[0]}/. {WHERE}")
    splits = {
        part: from_folders({class_name(child): child for child in subfolders(folder / part)}) for part in PUBLISHED
    }
    check_apart({part: images.class_names for part, images in splits.items()}, folder, WHERE)
    return Found(folder, splits, [Count.of(part, images, PUBLISHED[part]) for part, images in splits.items()])


LAYOUT = Layout("leaves", "Leaves", WHERE, PROTOCOLS, _read, image_size=32)


def load(options: ReadOptions) -> DataSplits:
    """Two plants train, the others test; see `data.load` for the options. Raises: DataError."""
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class Leaves(ImageFiles):
    """Leaves as (PIL image, label) pairs; `split` "train" or "test"; see `ImageFiles`."""

    layout = LAYOUT
