"""miniImageNet (Vinyals et al. 2016) as Ravi and Larochelle (2017) split it: class folders or CSV lists."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

from robustdml_ext.data.archives import MINIIMAGENET
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import (
    Count,
    Found,
    ImageList,
    check_apart,
    class_name,
    first_folder,
    from_folders,
    inside,
    not_found,
    numbered,
    read_lines,
    subfolders,
)
from robustdml_ext.data.splits import DataSplits

FOLDERS = ("miniImageNet", "miniimagenet", "mini-imagenet", "mini_imagenet")
PARTS = {"train": "train", "validation": "val", "test": "test"}  # split -> its name on disk
CLASSES = {"train": 64, "validation": 16, "test": 20}
IMAGES_OF_A_CLASS = 600
HEADER = ["filename", "label"]
SUMMARY = "miniImageNet, 60,000 photographs of 64 + 16 + 20 classes (train, validation, test); needs --root"
WHERE = (
    "It is a part of ImageNet, which may not be passed on: take it from ILSVRC2012 by the lists train.csv, val.csv and "
    "test.csv of https://github.com/twitter-research/meta-learning-lstm/tree/master/data/miniImagenet, and give the "
    "folder as --root; expected in it: these lists and images/, or train/, val/ and test/ with a folder for each class."
)
PROTOCOLS = {"official": "64 classes train, 16 are for validation, 20 test"}
ARCHIVES = MINIIMAGENET


def _read(root: Path, protocol: str) -> Found:
    marks = [mark for part in PARTS.values() for mark in (f"{part}.csv", part)]
    folder = first_folder(root, FOLDERS, *marks)
    if folder is None:
        raise not_found(LAYOUT.title, root, WHERE)
    sorted_out = all((folder / part).is_dir() for part in PARTS.values())
    listed = not sorted_out and any((folder / f"{part}.csv").is_file() for part in PARTS.values())
    lacking = [f"{part}.csv" if listed else f"{part}/" for part in PARTS.values() if not _there(folder, part, listed)]
    if lacking:
        raise DataError(f"miniImageNet under {folder} lacks {' and '.join(lacking)}. {WHERE}")
    splits = {
        split: _from_list(folder / f"{part}.csv", folder / "images") if listed else _from_folders(folder / part)
        for split, part in PARTS.items()
    }
    check_apart({PARTS[split]: images.class_names for split, images in splits.items()}, folder, WHERE)
    return Found(folder, splits, [count for split, images in splits.items() for count in _counts(split, images)])


def _there(folder: Path, part: str, listed: bool) -> bool:
    return (folder / f"{part}.csv").is_file() if listed else (folder / part).is_dir()


def _from_folders(folder: Path) -> ImageList:
    classes = {class_name(child): child for child in subfolders(folder)}
    if not classes:
        raise DataError(f"no class folders in {folder}. {WHERE}")
    return from_folders(classes)


def _from_list(file: Path, images: Path) -> ImageList:
    lines = read_lines(file, WHERE)
    if not lines or next(csv.reader([lines[0][1]])) != HEADER:
        found = repr(lines[0][1][:80]) if lines else "an empty file"
        raise DataError(f"{file}, line 1: expected the header {','.join(HEADER)!r}, found {found}")
    pairs = []
    for number, line in lines[1:]:
        words = [word.strip() for word in next(csv.reader([line]))]
        if len(words) != len(HEADER) or not all(words):
            raise DataError(f"{file}, line {number}: expected {','.join(HEADER)!r}, found {line!r}")
        pairs.append((inside(images, words[0], f"{file}, line {number}"), words[1]))
    if not pairs:
        raise DataError(f"{file} lists no images. {WHERE}")
    return numbered(pairs)


def _counts(split: str, images: ImageList) -> list[Count]:
    of_class = Counter(images.labels)
    whole = Count.of(PARTS[split], images, (CLASSES[split] * IMAGES_OF_A_CLASS, CLASSES[split]))
    each = (
        Count(f"class {name}", of_class[label], 1, (IMAGES_OF_A_CLASS, 1), whole=False)
        for label, name in enumerate(images.class_names)
    )
    return [whole, *each]


LAYOUT = Layout("miniimagenet", "miniImageNet", WHERE, PROTOCOLS, _read, image_size=84)


def load(options: ReadOptions) -> DataSplits:
    """The official splits, with `validation`; 84 pixels by default; see `data.load` for the options.

    Raises: DataError.
    """
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class MiniImageNet(ImageFiles):
    """miniImageNet as (PIL image, label) pairs; `split` "train", "validation" or "test"; see `ImageFiles`."""

    layout = LAYOUT
