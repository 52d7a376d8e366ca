"""CUB-200-2011 (Wah et al. 2011) in its official layout; the set of 2010 is in `cub200_2010`."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.archives import CUB200_2011
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._birds import find_images, from_class_folders, split_birds
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import Found, first_folder, inside, not_found, read_lines, rows
from robustdml_ext.data.splits import DataSplits

FOLDER = "CUB_200_2011"
PUBLISHED = {"train": (5_864, 100), "test": (5_924, 100)}  # images, classes
SUMMARY = "CUB-200-2011, 5,864 + 5,924 photographs of 200 kinds of birds; needs --root"
WHERE = (
    "Get CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011/ (or by --download), "
    f"unpack it, and give the folder {FOLDER} (or the one that holds it) as --root; expected in it: images.txt, "
    "image_class_labels.txt, classes.txt and images/, or images/ alone, with its "
    "class folders named as 001.Black_footed_Albatross."
)
PROTOCOLS = {"zero-shot": "the first 100 classes train, the other 100 test; train_test_split.txt is not used"}
ARCHIVES = CUB200_2011


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, [FOLDER], "images.txt", "image_class_labels.txt")
    if folder is not None:
        return split_birds(LAYOUT.title, folder, *_from_lists(folder), PUBLISHED)
    bare = find_images(root, [FOLDER])
    # CUB-200 of 2010 has the same class folders, and lists/ beside them.
    if bare is None or (bare.parent / "lists" / "files.txt").exists():
        raise not_found(LAYOUT.title, root, WHERE)
    return split_birds(LAYOUT.title, bare, *from_class_folders(bare, WHERE), PUBLISHED)


def _from_lists(folder: Path) -> tuple[list[tuple[Path, int]], dict[int, str]]:
    names: dict[int, str] = {}
    for number, (class_id, name) in _numbered(folder / "classes.txt", "class_id class_name", (0,)):
        if int(class_id) in names:
            raise DataError(f"{folder / 'classes.txt'}, line {number}: class {class_id} is listed already")
        names[int(class_id)] = name
    classes: dict[int, int] = {}
    labels = folder / "image_class_labels.txt"
    for number, (image_id, class_id) in _numbered(labels, "image_id class_id", (0, 1)):
        if int(class_id) not in names:
            raise DataError(f"{labels}, line {number}: class {class_id} is not in classes.txt")
        classes[int(image_id)] = int(class_id)
    images: dict[int, tuple[Path, int]] = {}
    listing = folder / "images.txt"
    for number, (image_id, relative) in _numbered(listing, "image_id image_name", (0,)):
        said_in = f"{listing}, line {number}"
        if int(image_id) in images:
            raise DataError(f"{said_in}: image {image_id} is listed already")
        if int(image_id) not in classes:
            raise DataError(f"{said_in}: image {image_id} has no class in image_class_labels.txt")
        images[int(image_id)] = (inside(folder / "images", relative, said_in), classes[int(image_id)])
    unlisted = classes.keys() - images.keys()
    if unlisted:
        raise DataError(f"{labels}: image {min(unlisted)} is not in images.txt; {len(unlisted):,} are not. {WHERE}")
    return list(images.values()), names


def _numbered(file: Path, fields: str, numbers: tuple[int, ...]) -> list[tuple[int, list[str]]]:
    return list(rows(file, read_lines(file, WHERE), fields, numbers))


LAYOUT = Layout("cub200", "CUB-200-2011", WHERE, PROTOCOLS, _read)


def load(options: ReadOptions) -> DataSplits:
    """The first 100 classes train, the others test; see `data.load` for the options. Raises: DataError."""
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class CUB200(ImageFiles):
    """CUB-200-2011 as (PIL image, label) pairs; `split` "train" or "test", 100 classes each; see `ImageFiles`."""

    layout = LAYOUT
