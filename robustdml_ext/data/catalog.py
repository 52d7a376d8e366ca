"""Every data set by name."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from robustdml_ext.data import digits, folder, sop
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.splits import ON_BROKEN, DataSplits
from robustdml_ext.data.transforms import AUGMENTATIONS

NAMES: dict[str, str] = {
    "digits": "scikit-learn's handwritten digits, 8x8 grey; 0-4 train, 5-9 test; nothing to download",
    "sop": "Stanford Online Products, 59,551 + 60,502 photographs of 22,634 products; needs --root",
    "folder": "your own images, one folder a class; the first half of the class names trains; needs --root",
}


def load(
    name: str,
    root: str | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    augment: str = "default",
    train_classes: str | None = None,
    on_broken: str = "error",
    cache: str = "default",
    check_counts: bool | None = None,
) -> DataSplits:
    """Loads a data set under the zero-shot protocol: train and test classes have nothing in common.

    `name`: one of `data.NAMES`. `root`: where the data lie (not for digits).
    `image_size`: side in pixels; default 8 for digits, 224 for sop, and for folder the images' own side where
    all are small (up to 64), else 224.
    `channels`: 1 or 3; default 1 for digits, 3 for sop, and for folder 1 where all images are small and grey,
    else 3.
    `augment`: of the training images, "crop-flip" (a random crop of 8 % to 100 % of the area, and a
    horizontal flip half of the time) or "none"; the default is "crop-flip" from 64 pixels on (never for
    digits).
    `train_classes` (folder): a text file with the training classes' names, one a line; the rest tests.
    `on_broken`: "error", or "skip" to do without images that are missing or cannot be decoded; see
    `LabeledImages`.
    `cache`: "memory" keeps decoded images in memory, "none" does not; the default keeps them for folder where
    they take no more than 512 MB and are not cropped at random.
    `check_counts` (sop): compare the lists with the published counts; the default does so where a list has at
    least half of the published images.

    Raises: ValueError for an argument that is none of these; DataError where the data are missing or broken.
    """
    if name not in NAMES:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(NAMES)}")
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"image_size must be a positive whole number of pixels, got {image_size!r}")
    _one_of("augment", augment, ("default", *AUGMENTATIONS))
    _one_of("on_broken", on_broken, ON_BROKEN)
    _one_of("cache", cache, ("default", "memory", "none"))
    if train_classes is not None and name != "folder":
        raise ValueError(f"train_classes is for the data set 'folder'; the classes of {name!r} are split already")
    if check_counts is not None and name != "sop":
        raise ValueError(f"check_counts is for the data set 'sop', got it with {name!r}")
    if name == "digits":
        return digits.load_digits(image_size, channels, augment)
    if root is None:
        raise DataError(f"the data set {name!r} needs --root. {sop.WHERE if name == 'sop' else folder.LAYOUT}")
    if name == "sop":
        return sop.load_sop(Path(root), image_size, channels, augment, on_broken, cache, check_counts)
    classes = None if train_classes is None else Path(train_classes)
    return folder.load_folder(Path(root), image_size, channels, augment, on_broken, cache, classes)


def check_classes(splits: DataSplits) -> None:
    """Checks that there is something to tell apart, in training and in testing.

    Raises: DataError where a split has fewer than two classes.
    """
    for what, split in (("train", splits.train), ("test", splits.test)):
        if len(split.class_names) < 2:
            raise DataError(
                f"the data set {splits.name!r} leaves one class to {what} on, {split.class_names[0]!r}, and at least 2 "
                "are needed; choose others by train_classes, which lists those to train on"
            )


@dataclass(frozen=True)
class Probe:
    """Whether a data set can be loaded; `detail` says what was found, or what is missing."""

    name: str
    found: bool
    detail: str


def probe(root: str | None = None) -> list[Probe]:
    """Which of the named data sets are found under `root`, and why not; opens no image and never raises."""
    return [_probe(name, root) for name in NAMES]


def _probe(name: str, root: str | None) -> Probe:
    if name == "digits":
        found = find_spec("sklearn") is not None
        return Probe(
            name,
            found,
            "comes with scikit-learn" if found else "needs scikit-learn: pip install scikit-learn",
        )
    if root is None:
        return Probe(name, False, f"no --root given. {sop.WHERE if name == 'sop' else folder.LAYOUT}")
    try:
        if name == "sop":
            return Probe(name, True, _sop_detail(Path(root)))
        classes, empty = folder.find_classes(Path(root))
        train, test = folder.split_classes(classes, None)
    except (DataError, OSError) as error:
        return Probe(name, False, str(error))
    images = sum(len(c.paths) for c in classes)
    detail = f"{images:,} images in {len(train):,} training and {len(test):,} test classes under {root}"
    return Probe(name, not empty, f"{detail}; folders without an image: {', '.join(empty)}" if empty else detail)


def _sop_detail(root: Path) -> str:
    where = sop.find_folder(root)
    lists = {split: sop.read_list(where / file) for split, file in sop.LISTS.items()}
    sop.check_images_exist(lists)
    counts = [
        f"{split} {len(images.paths):,} images of {len(images.class_ids):,} classes" for split, images in lists.items()
    ]
    try:
        sop.check_published_counts(lists)
    except DataError:
        counts.append("not the published counts")
    return f"{', '.join(counts)}, under {where}"


def _one_of(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")
