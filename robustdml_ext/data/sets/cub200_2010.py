"""CUB-200 of 2010 (Welinder et al.), half the size of CUB-200-2011, in its official layout."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.archives import CUB200_2010
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._birds import class_number, find_images, from_class_folders, split_birds
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import Found, first_folder, inside, not_found, read_lines, rows
from robustdml_ext.data.splits import DataSplits

FOLDERS = ("CUB-200", "CUB_200", "CUB-200-2010", "CUB_200_2010")
PUBLISHED = {"train": (2_944, 100), "test": (3_089, 100)}  # images, classes
SUMMARY = "CUB-200 of 2010, 2,944 + 3,089 photographs of 200 kinds of birds; needs --root"
WHERE = (
    "Get images.tgz and lists.tgz from https://www.vision.caltech.edu/datasets/cub_200_2010/, unpack both into one "
    "folder, and give that as --root; expected in it: lists/files.txt and images/, or images/ alone, with its class "
    "folders named as 001.Black_footed_Albatross."
)
PROTOCOLS = {"zero-shot": "the first 100 classes train, the other 100 test; the lists' own split is not used"}
ARCHIVES = CUB200_2010


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, FOLDERS, "lists/files.txt")
    if folder is not None:
        return split_birds(LAYOUT.title, folder, *_from_list(folder), PUBLISHED)
    bare = find_images(root, FOLDERS)
    # CUB-200-2011 has the same class folders, and images.txt beside them.
    if bare is None or (bare.parent / "images.txt").exists():
        raise not_found(LAYOUT.title, root, WHERE)
    return split_birds(LAYOUT.title, bare, *from_class_folders(bare, WHERE), PUBLISHED)


def _from_list(folder: Path) -> tuple[list[tuple[Path, int]], dict[int, str]]:
    file = folder / "lists" / "files.txt"
    images: list[tuple[Path, int]] = []
    names: dict[int, str] = {}
    for number, (relative,) in rows(file, read_lines(file, WHERE), "path"):
        said_in = f"{file}, line {number}"
        path = inside(folder / "images", relative, said_in)
        class_id = class_number(path.parent.name)
        if class_id is None or path.parent.parent != folder / "images":
            raise DataError(f"{said_in}: expected a path as 001.Black_footed_Albatross/NAME.jpg, found {relative!r}")
        if names.setdefault(class_id, path.parent.name) != path.parent.name:
            raise DataError(f"{said_in}: class {class_id} is {names[class_id]!r} in a line above")
        images.append((path, class_id))
    return images, names


LAYOUT = Layout("cub200-2010", "CUB-200 (2010)", WHERE, PROTOCOLS, _read)


def load(options: ReadOptions) -> DataSplits:
    """The first 100 classes train, the others test; see `data.load` for the options. Raises: DataError."""
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class CUB200Of2010(ImageFiles):
    """CUB-200 of 2010 as (PIL image, label) pairs; `split` "train" or "test", 100 classes each; see `ImageFiles`."""

    layout = LAYOUT
