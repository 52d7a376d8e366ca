"""Stanford Online Products in its official layout."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from torch import Tensor

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.sources import FileSource
from robustdml_ext.data.splits import DataSplits, LabeledImages
from robustdml_ext.data.transforms import CROP_FROM_SIZE, Transform

FOLDER = "Stanford_Online_Products"
HEADER = "image_id class_id super_class_id path"
LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
PUBLISHED = {"train": (59_551, 11_318), "test": (60_502, 11_316)}  # images, classes
WHERE = (
    "Get Stanford_Online_Products.zip from https://cvgl.stanford.edu/projects/lifted_struct/, unpack it, "
    f"and give the folder {FOLDER} (or the one that holds it) as --root; expected in it: {LISTS['train']}, "
    f"{LISTS['test']}, and the twelve folders <super class>_final with the images."
)


@dataclass(frozen=True)
class ImageList:
    """One list file: each image's path and label (0 .. C-1 by ascending class id), and the classes."""

    paths: list[Path]
    labels: Tensor
    class_ids: list[int]
    class_names: list[str]


def find_folder(root: Path) -> Path:
    """`root` itself or the Stanford_Online_Products in it. Raises: DataError saying what is missing."""
    for folder in (root, root / FOLDER):
        missing = [name for name in LISTS.values() if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) == 1:
            raise DataError(f"Stanford Online Products under {folder} lacks {missing[0]}. {WHERE}")
    what = "has no list files" if root.is_dir() else "is not a folder"
    raise DataError(f"Stanford Online Products not found: {root} {what}. {WHERE}")


def read_list(file: Path) -> ImageList:
    """Reads `Ebay_train.txt` or `Ebay_test.txt`. Raises: DataError naming file and line number."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read: {error}. {WHERE}") from error
    if not lines or lines[0].split() != HEADER.split():
        found = repr(lines[0][:80]) if lines else "an empty file"
        raise DataError(f"{file}, line 1: expected the header {HEADER!r}, found {found}")
    paths: list[Path] = []
    ids: list[int] = []
    names: dict[int, str] = {}
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            continue
        fields = line.split(maxsplit=3)
        if len(fields) != 4 or not all(field.isdecimal() for field in fields[:3]):
            raise DataError(f"{file}, line {number}: expected '{HEADER}' (three whole numbers, a path), found {line!r}")
        relative = PurePosixPath(fields[3].strip())
        if relative.is_absolute() or ".." in relative.parts:
            raise DataError(f"{file}, line {number}: the path {str(relative)!r} leads out of the data set's folder")
        ids.append(int(fields[1]))
        names.setdefault(ids[-1], f"{relative.parts[0].removesuffix('_final')} {ids[-1]}")
        paths.append(file.parent / relative)
    if not paths:
        raise DataError(f"{file} lists no images. {WHERE}")
    class_ids, labels = torch.unique(torch.tensor(ids), return_inverse=True)
    ordered = class_ids.tolist()
    return ImageList(paths, labels, ordered, [names[c] for c in ordered])


def check_published_counts(lists: dict[str, ImageList]) -> None:
    """Raises: DataError naming every count that differs from the published one."""
    wrong = []
    for split, images in lists.items():
        found = (len(images.paths), len(images.class_ids))
        for what, have, published in zip(("images", "classes"), found, PUBLISHED[split], strict=True):
            if have != published:
                wrong.append(
                    f"{LISTS[split]} has {have:,} {what}, {have - published:+,} against the published {published:,}"
                )
    if wrong:
        raise DataError(
            f"Stanford Online Products is not the published set: {'; '.join(wrong)}. {WHERE} "
            "Where that is meant, turn the check off with check_counts=False."
        )


def check_images_exist(lists: dict[str, ImageList]) -> None:
    """Lists each folder once, not 120,053 files one by one. Raises: DataError naming the first missing."""
    wanted: dict[Path, list[str]] = defaultdict(list)
    for images in lists.values():
        for path in images.paths:
            wanted[path.parent].append(path.name)
    missing: list[Path] = []
    for folder, names in sorted(wanted.items()):
        present = set(os.listdir(folder)) if folder.is_dir() else set()
        missing.extend(folder / name for name in names if name not in present)
    if missing:
        total = sum(len(names) for names in wanted.values())
        shown = ", ".join(str(path) for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise DataError(f"{len(missing):,} of the {total:,} listed images are missing: {shown}. {WHERE}")


def load_sop(
    root: Path,
    image_size: int | None,
    channels: int | None,
    augment: str,
    on_broken: str,
    cache: str,
    check_counts: bool | None,
) -> DataSplits:
    """Classes as the two list files split them; see `data.load` for the options. Raises: DataError."""
    folder = find_folder(root)
    lists = {split: read_list(folder / name) for split, name in LISTS.items()}
    shared = set(lists["train"].class_ids) & set(lists["test"].class_ids)
    if shared:
        raise DataError(f"{folder}: class {min(shared)} is in both lists, which must have no class in common. {WHERE}")
    if check_counts is None:  # a small set made by hand in this layout is no damaged download
        check_counts = any(2 * len(images.paths) >= PUBLISHED[split][0] for split, images in lists.items())
    if check_counts:
        check_published_counts(lists)
    if on_broken == "error":
        check_images_exist(lists)
    size, channels = image_size or 224, channels or 3
    crop = size >= CROP_FROM_SIZE
    if augment == "default":
        augment = "crop-flip" if crop else "none"

    def split(name: str) -> LabeledImages:
        images = lists[name]
        transform = Transform(size, augment if name == "train" else "none", center_crop=crop)
        source = FileSource(images.paths, channels)
        return LabeledImages(
            source, images.labels, images.class_names, transform, on_broken=on_broken, cache=cache == "memory"
        )

    return DataSplits("sop", split("train"), split("test"), channels, size)
