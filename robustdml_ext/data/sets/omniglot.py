"""Omniglot (Lake et al. 2015): 1,623 handwritten characters of 50 alphabets, 20 drawings each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from robustdml_ext.data.archives import OMNIGLOT
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
    not_found,
    subfolders,
)
from robustdml_ext.data.splits import DataSplits

FOLDERS = ("omniglot-py", "omniglot", "python", "omniglot/python")
PARTS = {"train": "images_background", "test": "images_evaluation"}  # split -> its folder
CLASSES = {"train": 964, "test": 659}
DRAWINGS_OF_A_CLASS = 20
SUMMARY = "Omniglot, drawings of 964 + 659 handwritten characters, 20 each; needs --root"
WHERE = (
    "Get images_background.zip and images_evaluation.zip from https://github.com/brendenlake/omniglot (python/; or by "
    "--download), unpack both into one folder, and give that as --root; expected in it: "
    "images_background/ and images_evaluation/, each with a folder "
    "for each alphabet and in it one for each character, as Greek/character01."
)
PROTOCOLS = {"background-evaluation": "the 30 background alphabets train, the other 20 test"}
ARCHIVES = OMNIGLOT


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, FOLDERS, *PARTS.values())
    if folder is None:
        raise not_found(LAYOUT.title, root, WHERE)
    lacking = [part for part in PARTS.values() if not (folder / part).is_dir()]
    if lacking:
        raise DataError(f"Omniglot under {folder} lacks {lacking[0]}/. {WHERE}")
    splits = {split: _characters(folder / part) for split, part in PARTS.items()}
    check_apart({PARTS[split]: images.class_names for split, images in splits.items()}, folder, WHERE)
    return Found(folder, splits, [count for split, images in splits.items() for count in _counts(split, images)])


def _characters(folder: Path) -> ImageList:
    characters = {
        f"{class_name(alphabet)}/{class_name(character)}": character
        for alphabet in subfolders(folder)
        for character in subfolders(alphabet)
    }
    if not characters:
        raise DataError(f"no folders as Greek/character01 in {folder}. {WHERE}")
    return from_folders(characters)


def _counts(split: str, images: ImageList) -> list[Count]:
    drawings = Counter(images.labels)
    whole = Count.of(PARTS[split], images, (CLASSES[split] * DRAWINGS_OF_A_CLASS, CLASSES[split]))
    each = (
        Count(name, drawings[label], 1, (DRAWINGS_OF_A_CLASS, 1), whole=False)
        for label, name in enumerate(images.class_names)
    )
    return [whole, *each]


LAYOUT = Layout("omniglot", "Omniglot", WHERE, PROTOCOLS, _read, image_size=28, channels=1, photographs=False)


def load(options: ReadOptions) -> DataSplits:
    """A class is a character; black ink is 0, paper 1. See `data.load` for the options. Raises: DataError.

    The drawings of 105 x 105 pixels are resized to 28 by default, as few-shot learning has it, and never flipped or
    cropped unless asked for.
    """
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class Omniglot(ImageFiles):
    """Omniglot as (gray PIL image of 105 x 105, label) pairs; `split` "train" (background) or "test"; see `ImageFiles`.

    `classes` are named "Alphabet/character01".
    """

    layout = LAYOUT
