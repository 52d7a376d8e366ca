"""What the two CUB-200 data sets have in common: numbered class folders, of which the first 100 train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.sets._lists import Count, Found, halves, images_in, subfolders

SEEN_CLASSES = 100


def class_number(name: str) -> int | None:
    """The number that a class's name begins with, as 1 of "001.Black_footed_Albatross"; None where there is none."""
    number, _, rest = name.partition(".")
    return int(number) if number.isdecimal() and rest else None


def find_images(root: Path, folders: Sequence[str]) -> Path | None:
    """The folder with numbered class folders: `root/images`, `root/FOLDER/images`, or `root` itself."""
    for folder in (root / "images", *(root / name / "images" for name in folders), root):
        if folder.is_dir() and any(class_number(child.name) is not None for child in subfolders(folder)):
            return folder
    return None


def from_class_folders(folder: Path, where: str) -> tuple[list[tuple[Path, int]], dict[int, str]]:
    """Each image with its class number, and the classes' names; folders without a number are passed over.

    Raises: DataError where two folders have the same number, or one has no image.
    """
    images: list[tuple[Path, int]] = []
    names: dict[int, str] = {}
    for child in subfolders(folder):
        number = class_number(child.name)
        if number is None:
            continue
        if number in names:
            raise DataError(f"{folder}: the folders {names[number]!r} and {child.name!r} have the same class number")
        names[number] = child.name
        paths = images_in(child)
        if not paths:
            raise DataError(f"the class folder {child} has no image in it. {where}")
        images.extend((path, number) for path in paths)
    return images, names


def split_birds(
    title: str,
    folder: Path,
    images: Sequence[tuple[Path, int]],
    names: Mapping[int, str],
    published: Mapping[str, tuple[int, int]],
) -> Found:
    """The first 100 classes train, the others test; see `halves`."""
    splits = halves(images, names, SEEN_CLASSES, title, folder)
    parts = {"train": f"classes 1-{SEEN_CLASSES}", "test": f"classes {SEEN_CLASSES + 1}-200"}
    return Found(folder, splits, [Count.of(parts[split], splits[split], published[split]) for split in splits])
