"""Stanford Online Products in its official layout."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.archives import SOP
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import (
    Count,
    Found,
    by_number,
    check_apart,
    check_header,
    inside,
    not_found,
    read_lines,
    rows,
)
from robustdml_ext.data.splits import DataSplits

FOLDER = "Stanford_Online_Products"
HEADER = "image_id class_id super_class_id path"
LISTS = {"train": "Ebay_train.txt", "test": "Ebay_test.txt"}
PUBLISHED = {"train": (59_551, 11_318), "test": (60_502, 11_316)}  # images, classes
SUMMARY = "Stanford Online Products, 59,551 + 60,502 photographs of 22,634 products; needs --root"
WHERE = (
    "Get Stanford_Online_Products.zip from https://cvgl.stanford.edu/projects/lifted_struct/ (or by --download), "
    f"unpack it, and give the folder {FOLDER} (or the one that holds it) as --root; expected in it: "
    f"{LISTS['train']}, {LISTS['test']}, and the twelve folders <super class>_final with the images."
)
PROTOCOLS = {"zero-shot": "the 11,318 products of Ebay_train.txt train, the other 11,316 test"}
ARCHIVES = SOP


def find_folder(root: Path) -> Path:
    """`root` itself or the Stanford_Online_Products in it. Raises: DataError saying what is missing."""
    for folder in (root, root / FOLDER):
        missing = [name for name in LISTS.values() if not (folder / name).is_file()]
        if not missing:
            return folder
        if len(missing) == 1:
            raise DataError(f"Stanford Online Products under {folder} lacks {missing[0]}. {WHERE}")
    raise not_found("Stanford Online Products", root, WHERE)


def read_list(file: Path) -> list[tuple[Path, int]]:
    """Each image with its class id, in the file's order. Raises: DataError naming file and line number."""
    lines = read_lines(file, WHERE)
    check_header(file, lines, 0, HEADER)
    images = [
        (inside(file.parent, relative, f"{file}, line {number}"), int(class_id))
        for number, (_, class_id, _, relative) in rows(file, lines[1:], HEADER, numbers=(0, 1, 2))
    ]
    if not images:
        raise DataError(f"{file} lists no images. {WHERE}")
    return images


def _read(root: Path, protocol: str) -> Found:
    folder = find_folder(root)
    images = {split: read_list(folder / name) for split, name in LISTS.items()}
    check_apart({LISTS[split]: (class_id for _, class_id in listed) for split, listed in images.items()}, folder, WHERE)
    splits = {}
    for split, listed in images.items():
        names: dict[int, str] = {}
        for path, class_id in listed:
            if class_id not in names:
                super_class = path.relative_to(folder).parts[0].removesuffix("_final")
                names[class_id] = f"{super_class} {class_id}"
        splits[split] = by_number(listed, names)
    counts = [Count.of(LISTS[split], images, PUBLISHED[split]) for split, images in splits.items()]
    return Found(folder, splits, counts)


LAYOUT = Layout("sop", "Stanford Online Products", WHERE, PROTOCOLS, _read)


def load(options: ReadOptions) -> DataSplits:
    """Classes as the two list files split them; see `data.load` for the options. Raises: DataError."""
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class StanfordOnlineProducts(ImageFiles):
    """Stanford Online Products as (PIL image, label) pairs; `split` "train" or "test"; see `ImageFiles`."""

    layout = LAYOUT
