"""PACS (Li et al. 2017): seven classes in four domains, one of which is held out to test on."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.archives import PACS as PACS_ARCHIVES
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, load_layout, probe_layout
from robustdml_ext.data.sets._lists import (
    Count,
    Found,
    class_name,
    first_folder,
    images_in,
    inside,
    not_found,
    numbered,
    read_lines,
    subfolders,
)
from robustdml_ext.data.splits import DataSplits

DOMAINS = ("art_painting", "cartoon", "photo", "sketch")
CLASSES = 7
# Images of a domain in all, and in the published lists' training and cross-validation parts.
PUBLISHED = {
    "art_painting": (2_048, 1_840, 208),
    "cartoon": (2_344, 2_107, 237),
    "photo": (1_670, 1_499, 171),
    "sketch": (3_929, 3_531, 398),
}
IMAGE_FOLDERS = ("kfold", "pacs_data", "PACS", "PACS/kfold", "PACS/pacs_data", "images", "images/kfold")
LIST_FOLDERS = ("", "pacs_label", "splits", "image_list", "kfold")
SUMMARY = "PACS, 9,991 images of 7 classes in 4 domains, one held out to test on; needs --root"
WHERE = (
    "Get the images, and the lists where the published parts are wanted, from the Google Drive folder that "
    "https://dali-dl.github.io/project_iccv2017.html leads to, unpack them, and give the folder as --root; expected in "
    "it: art_painting/, cartoon/, photo/ and sketch/ (or kfold/ with them), each with a folder for each "
    "of the seven classes, and perhaps the lists "
    "<domain>_train_kfold.txt, <domain>_crossval_kfold.txt and <domain>_test_kfold.txt, beside them or in pacs_label/."
)
PROTOCOLS = {domain: f"{domain} tests, the other three domains train; the same seven classes" for domain in DOMAINS}
ARCHIVES = PACS_ARCHIVES


def _read(root: Path, protocol: str) -> Found:
    folder = first_folder(root, IMAGE_FOLDERS, *DOMAINS)
    if folder is None:
        raise not_found(LAYOUT.title, root, WHERE)
    lacking = [domain for domain in DOMAINS if not (folder / domain).is_dir()]
    if lacking:
        raise DataError(f"PACS under {folder} lacks the domains {', '.join(lacking)}. {WHERE}")
    bases = [base for base in (folder, *folder.parents) if base.is_relative_to(root)]
    places = [base / name for base in bases for name in LIST_FOLDERS]
    lists = next((place for place in places if any(place.glob("*_kfold.txt"))), None)
    parts = _from_folders(folder, protocol) if lists is None else _from_lists(folder, lists, protocol)
    names = sorted({name for images in parts.values() for _, name in images["train"] + images["test"]})
    seen = [domain for domain in DOMAINS if domain != protocol]
    splits = {
        "train": numbered((image for domain in seen for image in parts[domain]["train"]), names),
        "test": numbered(parts[protocol]["test"], names),
    }
    if lists is not None:
        splits["validation"] = numbered((image for domain in seen for image in parts[domain]["crossval"]), names)
    _check_same_classes(parts, names, folder)
    return Found(folder, splits, _counts(parts, protocol, lists is not None))


_Part = dict[str, list[tuple[Path, str]]]  # "train", "crossval" and "test" -> (path, class name) pairs


def _from_folders(folder: Path, held_out: str) -> dict[str, _Part]:
    """Without lists a domain is used whole."""
    parts: dict[str, _Part] = {}
    for domain in DOMAINS:
        images = [(path, class_name(child)) for child in subfolders(folder / domain) for path in images_in(child)]
        if not images:
            raise DataError(f"PACS: no class folders with images in {folder / domain}. {WHERE}")
        parts[domain] = {"train": [], "test": images} if domain == held_out else {"train": images, "test": []}
    return parts


def _from_lists(folder: Path, lists: Path, held_out: str) -> dict[str, _Part]:
    classes: dict[int, str] = {}  # a label's class, which the lists give by the folder's name alone
    parts: dict[str, _Part] = {}
    for domain in DOMAINS:
        parts[domain] = {"train": [], "crossval": [], "test": []}
        for part in ("test",) if domain == held_out else ("train", "crossval"):
            parts[domain][part] = _read_list(lists / f"{domain}_{part}_kfold.txt", folder, domain, classes)
    return parts


def _read_list(file: Path, folder: Path, domain: str, classes: dict[int, str]) -> list[tuple[Path, str]]:
    images = []
    for number, line in read_lines(file, WHERE):
        relative, blank, label = line.strip().rpartition(" ")
        said_in = f"{file}, line {number}"
        if not blank or not label.isdecimal() or not 1 <= int(label) <= CLASSES:
            raise DataError(f"{said_in}: expected 'path label' with a label from 1 to {CLASSES}, found {line!r}")
        path = inside(folder, relative.strip(), said_in)
        words = path.relative_to(folder).parts
        if len(words) != 3 or words[0] != domain:
            raise DataError(f"{said_in}: expected a path as {domain}/dog/NAME, found {relative!r}")
        if classes.setdefault(int(label), words[1]) != words[1]:
            raise DataError(f"{said_in}: label {label} is {words[1]!r} here and {classes[int(label)]!r} before")
        images.append((path, words[1]))
    if not images:
        raise DataError(f"{file} lists no images. {WHERE}")
    return images


def _check_same_classes(parts: dict[str, _Part], names: list[str], folder: Path) -> None:
    for domain, images in parts.items():
        lacking = sorted(set(names) - {name for part in images.values() for _, name in part})
        if lacking:
            raise DataError(f"PACS under {folder}: the domain {domain} lacks the classes {', '.join(lacking)}. {WHERE}")


def _counts(parts: dict[str, _Part], held_out: str, listed: bool) -> list[Count]:
    counts = []
    for domain, (whole, train, crossval) in PUBLISHED.items():
        if domain == held_out or not listed:
            expected = {"test" if domain == held_out else "train": (domain, whole)}
        else:
            expected = {
                "train": (f"{domain}_train_kfold.txt", train),
                "crossval": (f"{domain}_crossval_kfold.txt", crossval),
            }
        for part, (said, published) in expected.items():
            images = parts[domain][part]
            counts.append(Count(said, len(images), len({name for _, name in images}), (published, CLASSES)))
    return counts


LAYOUT = Layout("pacs", "PACS", WHERE, PROTOCOLS, _read, zero_shot=False)


def load(options: ReadOptions) -> DataSplits:
    """The domain that the protocol names tests, the others train; see `data.load` for the options. Raises: DataError.

    With the published lists the training parts train, and `validation` is the cross-validation parts of the same three
    domains; the held-out domain is tested whole, as its list has it. Without them each domain is used whole.
    """
    return load_layout(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError."""
    return probe_layout(LAYOUT, root)


class PACS(ImageFiles):
    """PACS as (PIL image, label) pairs; `split` "train", "test", and with the published lists "validation".

    `protocol` is the domain held out to test on: "art_painting" (the default), "cartoon", "photo" or "sketch". See
    `ImageFiles`.
    """

    layout = LAYOUT
