"""In-Shop Clothes Retrieval, of DeepFashion (Liu et al. 2016), in its official layout."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.archives import INSHOP
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import (
    Count,
    Found,
    check_apart,
    check_header,
    first_folder,
    inside,
    not_found,
    numbered,
    read_lines,
    rows,
)
from robustdml_ext.data.splits import DataSplits

FOLDERS = ("In-shop Clothes Retrieval Benchmark", "In-shop", "inshop", "In_shop")
PARTITION = "list_eval_partition.txt"
PLACES = (f"Eval/{PARTITION}", f"Anno/{PARTITION}", PARTITION)
HEADER = "image_name item_id evaluation_status"
PUBLISHED = {"train": (25_882, 3_997), "query": (14_218, 3_985), "gallery": (12_612, 3_985)}  # images, classes
SUMMARY = "In-Shop Clothes Retrieval, 25,882 + 26,830 photographs of 7,982 garments; needs --root"
WHERE = (
    "Get the In-shop Clothes Retrieval Benchmark from https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion.html (the "
    "authors give the address of the files on agreement), unpack Img/img.zip, and give the folder as --root; expected "
    f"in it: Eval/{PARTITION}, and img/ or Img/img/ with the folders MEN and WOMEN."
)
PROTOCOLS = {
    "query-gallery": "14,218 queries of the test garments are searched for among 12,612 gallery images",
    "query-only": "the 14,218 queries are searched for among themselves (the EAT paper's)",
}
ARCHIVES = INSHOP


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, FOLDERS, *PLACES)
    if folder is None:
        raise not_found(LAYOUT.title, root, WHERE)
    file = next(folder / place for place in PLACES if (folder / place).exists())
    parts = _read_partition(file, _image_folder(folder))
    items = {part: [item for _, item in images] for part, images in parts.items()}
    check_apart({"train": items["train"], "the test": items["query"] + items["gallery"]}, file, WHERE)
    counts = [Count(part, len(items[part]), len(set(items[part])), published) for part, published in PUBLISHED.items()]
    splits = {"train": numbered(parts["train"])}
    if protocol == "query-only":
        splits["test"] = numbered(parts["query"])
    else:
        # One numbering, so that a query and its matches in the gallery have the same label.
        names = sorted({*items["query"], *items["gallery"]})
        splits["test"], splits["gallery"] = numbered(parts["query"], names), numbered(parts["gallery"], names)
    return Found(folder, splits, counts)


def _image_folder(folder: Path) -> Path:
    """Where the paths of the list, `img/WOMEN/...`, begin."""
    # Img first: where file names have no case, `img` would name it too.
    for place in (folder / "Img", folder):
        if (place / "img").is_dir():
            return place
    raise DataError(f"{LAYOUT.title} under {folder} has no folder img/ or Img/img/; is img.zip unpacked? {WHERE}")


def _read_partition(file: Path, images: Path) -> dict[str, list[tuple[Path, str]]]:
    lines = read_lines(file, WHERE)
    if not lines or not lines[0][1].strip().isdecimal():
        found = repr(lines[0][1][:80]) if lines else "an empty file"
        raise DataError(f"{file}, line 1: expected the number of images, found {found}")
    check_header(file, lines, 1, HEADER)
    announced = int(lines[0][1])
    if announced != len(lines) - 2:
        raise DataError(f"{file}: line 1 announces {announced:,} images, and {len(lines) - 2:,} are listed. {WHERE}")
    parts: dict[str, list[tuple[Path, str]]] = {part: [] for part in PUBLISHED}
    for number, (relative, item, part) in rows(file, lines[2:], HEADER):
        if part not in parts:
            raise DataError(f"{file}, line {number}: expected train, query or gallery, found {part!r}")
        parts[part].append((inside(images, relative, f"{file}, line {number}"), item))
    empty = [part for part, listed in parts.items() if not listed]
    if empty:
        raise DataError(f"{file} lists no image for {' and '.join(empty)}. {WHERE}")
    return parts


LAYOUT = Layout("inshop", "In-Shop Clothes Retrieval", WHERE, PROTOCOLS, _read)


def load(options: ReadOptions) -> DataSplits:
    """Garments as the partition splits them; see `data.load` for the options. Raises: DataError."""
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class InShop(ImageFiles):
    """In-Shop as (PIL image, label) pairs; `split` "train", "test" (the queries) or "gallery"; see `ImageFiles`.

    Labels of test and gallery are numbered alike. With `protocol="query-only"` there is no gallery.
    """

    layout = LAYOUT
