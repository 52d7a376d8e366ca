"""Any data set that lies as one folder a class: CUB-200-2011, Cars196 after sorting, your own."""

from __future__ import annotations

import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.sources import FileSource, image_header
from robustdml_ext.data.splits import DataSplits, LabeledImages
from robustdml_ext.data.transforms import CROP_FROM_SIZE, Transform

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
SMALL = 64  # images up to this side are used as they are; larger ones as photographs of 224 pixels
CACHE_LIMIT = 512 * 2**20  # bytes of decoded pixels that are kept in memory without being asked
LAYOUT = "Expected in it: a folder for each class with the images of the class, as <root>/<class>/<name>.jpg"


@dataclass(frozen=True)
class ImageClass:
    """One class folder; the name in Unicode's composed form, as file systems spell accents differently."""

    name: str
    paths: list[Path]


def find_classes(root: Path) -> tuple[list[ImageClass], list[str]]:
    """The classes under `root` by name, and the names of folders without an image.

    Hidden files and folders, and files that are no images by their suffix, are passed over. Raises:
    DataError.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise DataError(f"the data set's folder {root} {what}. {LAYOUT}")
    classes: dict[str, ImageClass] = {}
    empty: list[str] = []
    for folder in root.iterdir():
        if folder.name.startswith(".") or not folder.is_dir():
            continue
        name = unicodedata.normalize("NFC", folder.name)
        paths = sorted(
            file
            for file in folder.iterdir()
            if not file.name.startswith(".") and file.suffix.lower() in SUFFIXES and not file.is_dir()
        )
        if not paths:
            empty.append(name)
        elif name in classes:
            raise DataError(f"{root}: two class folders are named {name!r}, in different Unicode spellings")
        else:
            classes[name] = ImageClass(name, paths)
    if not classes:
        raise DataError(f"no class folders with images in {root}. {LAYOUT} (suffixes: {' '.join(SUFFIXES)})")
    return [classes[name] for name in sorted(classes)], sorted(empty)


def split_classes(classes: list[ImageClass], train_classes: Path | None) -> tuple[list[ImageClass], list[ImageClass]]:
    """The first half by name trains and the rest tests, or the classes listed in `train_classes` train.

    Raises: DataError naming file and line of a listed class that is not there or comes twice, or where a half
    is empty.
    """
    if train_classes is None:
        if len(classes) < 2:
            raise DataError(f"only the class {classes[0].name!r} found: train and test need a class each. {LAYOUT}")
        return classes[: len(classes) // 2], classes[len(classes) // 2 :]
    try:
        lines = train_classes.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of training classes {train_classes} cannot be read: {error}") from error
    known = {c.name for c in classes}
    listed: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        name = unicodedata.normalize("NFC", line.strip())
        if not name:
            continue
        if name not in known:
            raise DataError(f"{train_classes}, line {number}: no class folder with images is named {name!r}")
        if name in listed:
            raise DataError(f"{train_classes}, line {number}: class {name!r} is listed in line {listed[name]} already")
        listed[name] = number
    if not listed:
        raise DataError(f"{train_classes} lists no class; expected one class folder's name a line")
    if len(listed) == len(known):
        raise DataError(f"{train_classes} lists all {len(known)} classes: none is left to test on")
    return [c for c in classes if c.name in listed], [c for c in classes if c.name not in listed]


def native_format(classes: list[ImageClass], on_broken: str) -> tuple[int, int]:
    """(image_size, channels) the images ask for: their own where all are small, else 224 and 3.

    The size is the first image's longer side; one channel only where every image is grey. Reads headers only,
    and of photographs just the first. Raises: DataError for a broken header, unless `on_broken="skip"`.
    """
    size, all_grey = 0, True
    for path in (path for c in classes for path in c.paths):
        try:
            height, width, grey = image_header(path)
        except BrokenImageError:
            if on_broken == "error":
                raise
            continue
        if max(height, width) > SMALL:
            return 224, 3
        size = size or max(height, width)
        all_grey = all_grey and grey
    if not size:
        raise DataError(f"none of the images under {classes[0].paths[0].parent.parent} can be read")
    return size, 1 if all_grey else 3


def load_folder(
    root: Path,
    image_size: int | None,
    channels: int | None,
    augment: str,
    on_broken: str,
    cache: str,
    train_classes: Path | None,
) -> DataSplits:
    """Zero-shot split of class folders; see `data.load` for the options. Raises: DataError."""
    classes, empty = find_classes(root)
    if empty:
        message = f"{root}: class folders without an image: {', '.join(map(repr, empty[:5]))}"
        message += f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        if on_broken == "error":
            raise DataError(f"{message}; fill or remove them")
        warnings.warn(f"{message}; left out as on_broken='skip' says", stacklevel=3)
    train, test = split_classes(classes, train_classes)
    if image_size is None or channels is None:
        native_size, native_channels = native_format(classes, on_broken)
        image_size, channels = image_size or native_size, channels or native_channels
    crop = image_size >= CROP_FROM_SIZE
    if augment == "default":
        augment = "crop-flip" if crop else "none"
    decoded = sum(len(c.paths) for c in classes) * channels * image_size**2
    # Random crops need the originals, whose bytes nobody knows before reading them all: only when asked.
    keep = cache == "memory" or (cache == "default" and augment == "none" and decoded <= CACHE_LIMIT)

    def split(part: list[ImageClass], augment: str) -> LabeledImages:
        labels = torch.repeat_interleave(torch.tensor([len(c.paths) for c in part]))
        source = FileSource([path for c in part for path in c.paths], channels)
        transform = Transform(image_size, augment, center_crop=crop)
        return LabeledImages(source, labels, [c.name for c in part], transform, on_broken=on_broken, cache=keep)

    return DataSplits("folder", split(train, augment), split(test, "none"), channels, image_size)
