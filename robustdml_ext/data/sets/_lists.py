"""What lists and folders of images need: reading them, numbering classes, and checking what they promise."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustdml_ext.data.errors import DataError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
_SHOWN = 12  # differences that one message names before it says how many more there are


@dataclass(frozen=True)
class ImageList:
    """N images of one split: their paths, their labels 0 .. C-1, and the names of the C classes."""

    paths: list[Path]
    labels: list[int]
    class_names: list[str]


@dataclass(frozen=True)
class Count:
    """How many images and classes a part of a data set has, and how many were published: (images, classes).

    A part that is `whole`, as a list or a split is, tells by its size whether the full data set is there.
    """

    part: str
    images: int
    classes: int
    published: tuple[int, int]
    whole: bool = True

    @classmethod
    def of(cls, part: str, images: ImageList, published: tuple[int, int]) -> Count:
        return cls(part, len(images.paths), len(images.class_names), published)


@dataclass(frozen=True)
class Found:
    """What a reader found: the splits "train", "test" and perhaps "validation" and "gallery", and what to count."""

    folder: Path
    splits: dict[str, ImageList]
    counts: list[Count]


def read_lines(file: Path, where: str) -> list[tuple[int, str]]:
    """The lines that are not blank, each with its number, from 1. Raises: DataError."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}. {where}") from error
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def check_header(file: Path, lines: Sequence[tuple[int, str]], position: int, header: str) -> None:
    """Raises: DataError unless line `position` (from 0) has the words of `header`."""
    if position >= len(lines) or lines[position][1].split() != header.split():
        found = repr(lines[position][1][:80]) if position < len(lines) else "the end of the file"
        raise DataError(f"{file}, line {position + 1}: expected the header {header!r}, found {found}")


def rows(
    file: Path, lines: Iterable[tuple[int, str]], fields: str, numbers: Sequence[int] = ()
) -> Iterator[tuple[int, list[str]]]:
    """Each line's number and words; the last field may hold blanks.

    `fields`: the names of the fields, as the file's header or documentation has them. `numbers`: which of them are
    whole numbers. Raises: DataError naming file and line.
    """
    wanted = len(fields.split())
    for number, line in lines:
        words = line.split(maxsplit=wanted - 1)
        if len(words) != wanted or not all(words[field].isdecimal() for field in numbers):
            which = ", ".join(fields.split()[field] for field in numbers)
            expected = f"'{fields}'" + (f" (whole numbers: {which})" if which else "")
            raise DataError(f"{file}, line {number}: expected {expected}, found {line!r}")
        yield number, [word.strip() for word in words]


def inside(folder: Path, relative: str, said_in: str) -> Path:
    """`folder / relative`. Raises: DataError, beginning with `said_in`, for a path that leads out of `folder`."""
    # Strings, as pathlib takes seconds over a hundred thousand lines.
    words = relative.replace(os.sep, "/").split("/")
    if os.path.isabs(relative) or not words[0] or ".." in words:
        raise DataError(f"{said_in}: the path {relative!r} leads out of the data set's folder")
    return folder / relative


def first_folder(root: Path, names: Sequence[str], *marks: str) -> Path | None:
    """The first of `root` and the folders `names` in it that has one of the files or folders `marks`."""
    for folder in (root, *(root / name for name in names)):
        if any((folder / mark).exists() for mark in marks):
            return folder
    return None


def not_found(title: str, root: Path, where: str) -> DataError:
    """The error for a data set of which nothing lies under `root`."""
    what = "has nothing of it" if root.is_dir() else ("is not a folder" if root.exists() else "does not exist")
    return DataError(f"{title} not found: {root} {what}. {where}")


def subfolders(folder: Path) -> list[Path]:
    """The folders in `folder`, by name; hidden ones are passed over."""
    return sorted(child for child in folder.iterdir() if not child.name.startswith(".") and child.is_dir())


def images_in(folder: Path) -> list[Path]:
    """The image files in `folder`, by name; hidden files and those that are no images by their suffix do not count."""
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in SUFFIXES
            and not entry.is_dir()
        ]
    return [folder / name for name in sorted(names)]


def class_name(folder: Path) -> str:
    """A class folder's name in Unicode's composed form, as file systems spell accents differently."""
    return unicodedata.normalize("NFC", folder.name)


def from_folders(folders: Mapping[str, Path]) -> ImageList:
    """All the images of class folders, given by class name. Raises: DataError for a class without an image."""
    pairs: list[tuple[Path, str]] = []
    for name, folder in folders.items():
        images = images_in(folder)
        if not images:
            raise DataError(f"the class folder {folder} has no image in it; fill or remove it")
        pairs.extend((path, name) for path in images)
    return numbered(pairs)


def numbered(pairs: Iterable[tuple[Path, str]], names: Sequence[str] | None = None) -> ImageList:
    """Numbers the classes of (path, class name) pairs by `names`, or by the sorted names that occur."""
    listed = list(pairs)
    ordered = sorted({name for _, name in listed}) if names is None else list(names)
    number = {name: label for label, name in enumerate(ordered)}
    return ImageList([path for path, _ in listed], [number[name] for _, name in listed], ordered)


def by_number(images: Sequence[tuple[Path, int]], names: Mapping[int, str]) -> ImageList:
    """(path, class number) pairs in their order, labeled 0 .. C-1 by ascending class number; `names` by number."""
    present = sorted({number for _, number in images})
    label = {number: position for position, number in enumerate(present)}
    return ImageList([path for path, _ in images], [label[n] for _, n in images], [names[n] for n in present])


def halves(
    images: Sequence[tuple[Path, int]], names: Mapping[int, str], last_seen: int, title: str, folder: Path
) -> dict[str, ImageList]:
    """Zero-shot splits: (path, class number) pairs with class numbers up to `last_seen` train, the rest tests.

    Raises: DataError where a half is empty.
    """
    splits = {}
    for split, seen in (("train", True), ("test", False)):
        half = [(path, number) for path, number in images if (number <= last_seen) == seen]
        if not half:
            side = "up to" if seen else "above"
            raise DataError(
                f"{title} under {folder} has no image to {split} on: no class is numbered {side} {last_seen}"
            )
        splits[split] = by_number(half, names)
    return splits


def check_apart(classes: Mapping[str, Iterable[int | str]], folder: Path, where: str) -> None:
    """`classes` by split. Raises: DataError where a class is in two splits, which must have none in common."""
    seen: dict[int | str, str] = {}
    for split, keys in classes.items():
        for key in sorted(set(keys), key=str):
            if key in seen:
                raise DataError(
                    f"{folder}: class {key} is in both {seen[key]} and {split}, which must have no class in common. "
                    f"{where}"
                )
            seen[key] = split


def check_published(title: str, counts: Sequence[Count], asked: bool | None, where: str) -> None:
    """Compares with the published counts: where `asked`, or by default where a whole part has half of its images.

    Raises: DataError naming the counts that differ.
    """
    if asked is None:  # a small set made by hand in this layout is no damaged download
        asked = any(2 * count.images >= count.published[0] for count in counts if count.whole)
    wrong = differences(counts) if asked else []
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"{title} is not the published set: {'; '.join(wrong[:_SHOWN])}{more}. {where} "
            "Where that is meant, turn the check off with check_counts=False."
        )


def differences(counts: Sequence[Count]) -> list[str]:
    """What differs from the published counts, in words."""
    return [
        f"{count.part} has {have:,} {what}, {have - published:+,} against the published {published:,}"
        for count in counts
        for what, have, published in zip(
            ("images", "classes"), (count.images, count.classes), count.published, strict=True
        )
        if have != published
    ]


def check_images_exist(splits: Iterable[ImageList], where: str) -> None:
    """Lists each folder once, not every file one by one. Raises: DataError naming the first missing."""
    wanted: dict[Path, list[str]] = defaultdict(list)
    for images in splits:
        for path in images.paths:
            wanted[path.parent].append(path.name)
    missing: list[Path] = []
    for folder, names in sorted(wanted.items()):
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        missing.extend(folder / name for name in names if name not in present)
    if missing:
        total = sum(len(names) for names in wanted.values())
        shown = ", ".join(str(path) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(f"{len(missing):,} of the {total:,} listed images are missing: {shown}. {where}")
