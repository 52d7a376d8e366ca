"""Any data set that lies as one folder a class: CUB-200-2011, Cars196 after sorting, your own."""

from __future__ import annotations

import unicodedata
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from robustdml_ext.data.archives import Archive
from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._build import ImageFiles, Layout, labeled
from robustdml_ext.data.sets._lists import SUFFIXES, Found, ImageList, class_name, images_in, numbered, subfolders
from robustdml_ext.data.sources import image_header
from robustdml_ext.data.splits import DataSplits, LabeledImages
from robustdml_ext.data.transforms import CROP_FROM_SIZE

SMALL = 64  # images up to this side are used as they are; larger ones as photographs of 224 pixels
CACHE_LIMIT = 512 * 2**20  # bytes of decoded pixels that are kept in memory without being asked
WHERE = "Expected in it: a folder for each class with the images of the class, as <root>/<class>/<name>.jpg"
SUMMARY = "your own images, one folder a class; the first half of the class names trains; needs --root"
PROTOCOLS = {"zero-shot": "the first half of the class names trains, or those that train_classes lists; the rest tests"}
ARCHIVES: tuple[Archive, ...] = ()


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
        raise DataError(f"the data set's folder {root} {what}. {WHERE}")
    classes: dict[str, ImageClass] = {}
    empty: list[str] = []
    for folder in subfolders(root):
        name, paths = class_name(folder), images_in(folder)
        if not paths:
            empty.append(name)
        elif name in classes:
            raise DataError(f"{root}: two class folders are named {name!r}, in different Unicode spellings")
        else:
            classes[name] = ImageClass(name, paths)
    if not classes:
        raise DataError(f"no class folders with images in {root}. {WHERE} (suffixes: {' '.join(SUFFIXES)})")
    return [classes[name] for name in sorted(classes)], sorted(empty)


def split_classes(classes: list[ImageClass], train_classes: Path | None) -> tuple[list[ImageClass], list[ImageClass]]:
    """The first half by name trains and the rest tests, or the classes listed in `train_classes` train.

    Raises: DataError naming file and line of a listed class that is not there or comes twice, or where a half
    is empty.
    """
    if train_classes is None:
        if len(classes) < 2:
            raise DataError(f"only the class {classes[0].name!r} found: train and test need a class each. {WHERE}")
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

    The size is the first image's longer side; one channel only where every image is gray. Reads headers only,
    and of photographs just the first. Raises: DataError for a broken header, unless `on_broken="skip"`.
    """
    size, all_gray = 0, True
    for path in (path for c in classes for path in c.paths):
        try:
            height, width, gray = image_header(path)
        except BrokenImageError:
            if on_broken == "error":
                raise
            continue
        if max(height, width) > SMALL:
            return 224, 3
        size = size or max(height, width)
        all_gray = all_gray and gray
    if not size:
        raise DataError(f"none of the images under {classes[0].paths[0].parent.parent} can be read")
    return size, 1 if all_gray else 3


def read_classes(options: ReadOptions) -> tuple[list[ImageClass], list[ImageClass]]:
    """The classes to train and to test on; see `split_classes`. Raises: DataError.

    Folders without an image are an error, unless `options.on_broken` is "skip".
    """
    root = options.folder
    classes, empty = find_classes(root)
    if empty:
        message = f"{root}: class folders without an image: {', '.join(map(repr, empty[:5]))}"
        message += f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        if options.on_broken == "error":
            raise DataError(f"{message}; fill or remove them")
        warnings.warn(f"{message}; left out as on_broken='skip' says", stacklevel=4)
    return split_classes(classes, options.train_classes)


def load(options: ReadOptions) -> DataSplits:
    """Zero-shot split of class folders; see `data.load` for the options. Raises: DataError."""
    train, test = read_classes(options)
    image_size, channels = options.image_size, options.channels
    if image_size is None or channels is None:
        native_size, native_channels = native_format(train + test, options.on_broken)
        image_size, channels = image_size or native_size, channels or native_channels
    augmented = options.augment != "none" and (options.augment != "default" or image_size >= CROP_FROM_SIZE)
    decoded = sum(len(c.paths) for c in train + test) * channels * image_size**2
    # Random crops need the originals, whose bytes nobody knows before reading them all: only when asked.
    if options.cache == "default" and not augmented and decoded <= CACHE_LIMIT:
        options = replace(options, cache="memory")

    def split(part: list[ImageClass], train: bool) -> LabeledImages:
        images = _image_list(part)
        return labeled(
            images.paths,
            images.labels,
            images.class_names,
            options,
            image_size=image_size,
            channels=channels,
            train=train,
        )

    return DataSplits("folder", split(train, True), split(test, False), channels, image_size)


def probe(root: Path) -> str:
    """What is found under `root`; opens no image. Raises: DataError, also for folders without an image."""
    train, test = read_classes(ReadOptions(root))
    images = sum(len(c.paths) for c in train + test)
    return f"{images:,} images in {len(train):,} training and {len(test):,} test classes under {root}"


def _image_list(part: list[ImageClass]) -> ImageList:
    pairs = [(path, c.name) for c in part for path in c.paths]
    return numbered(pairs, [c.name for c in part])


def _read(root: Path, protocol: str) -> Found:
    train, test = read_classes(ReadOptions(root))
    return Found(root, {"train": _image_list(train), "test": _image_list(test)}, [])


class ClassFolders(ImageFiles):
    """Class folders as (RGB PIL image, label) pairs; `split` "train" or "test"; see `ImageFiles`.

    The first half of the class names trains; for other classes, see `data.load`.
    """

    layout = Layout("folder", "folder", WHERE, PROTOCOLS, _read)


def load_examples(
    root: str | Path, image_size: int, channels: int, *, augment: str = "default", on_broken: str = "error"
) -> LabeledImages:
    """All images of a folder of class folders as one split, read as test images are: to give a model new classes.

    `image_size` and `channels` are those that the model was trained on, `augment` how it was trained, which says how
    test images are resized (`data.load`). Raises: DataError where the folder is missing or has no class with images.
    """
    classes, empty = find_classes(Path(root).expanduser())
    if empty:
        raise DataError(f"{root}: the class folders {', '.join(empty[:5])} have no images. {WHERE}")
    options = ReadOptions(root=Path(root), augment=augment, on_broken=on_broken)
    labels = [number for number, found in enumerate(classes) for _ in found.paths]
    return labeled(
        [path for found in classes for path in found.paths],
        labels,
        [found.name for found in classes],
        options,
        image_size=image_size,
        channels=channels,
        train=False,
    )
