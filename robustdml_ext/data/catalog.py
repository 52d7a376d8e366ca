"""Every data set by name. The modules that read them are imported only when asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from robustdml_ext.data.archives import Archive
from robustdml_ext.data.download import download_archives
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.names import SETS, Entry
from robustdml_ext.data.options import ReadOptions, SoundOptions
from robustdml_ext.data.sound.transform import SOUND_AUGMENTATIONS
from robustdml_ext.data.splits import ON_BROKEN, DataSplits
from robustdml_ext.data.transforms import AUGMENTATIONS


class DataSet(Protocol):
    """What a module in `robustdml_ext.data.sets` has; see there."""

    WHERE: str
    PROTOCOLS: Mapping[str, str]
    ARCHIVES: Sequence[Archive]

    def load(self, options: ReadOptions) -> DataSplits: ...

    def probe(self, root: Path) -> str: ...


def data_set(name: str) -> DataSet:
    """Imports what reads the data set `name`. Raises: ValueError for a name that is unknown."""
    if name not in SETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(SETS)}")
    return cast(DataSet, import_module(f"robustdml_ext.data.sets.{SETS[name].module}"))


def load(
    name: str,
    root: str | Path | None = None,
    *,
    image_size: int | None = None,
    channels: int | None = None,
    augment: str = "default",
    train_classes: str | Path | None = None,
    on_broken: str = "error",
    cache: str | Path = "default",
    check_counts: bool | None = None,
    protocol: str = "default",
    download: bool = False,
    sound: SoundOptions | None = None,
) -> DataSplits:
    """Loads a data set under one of its protocols; most are zero-shot: train and test have no class in common.

    `name`: one of `data.NAMES`. `root`: where the data lie (not for digits).
    `image_size`: side in pixels; the default is the data set's own, 224 for photographs, and for folder the images' own
    side where all are small (up to 64), else 224.
    `channels`: 1 or 3; the default is the data set's own, and for folder 1 where all images are small and gray, else 3.
    `augment`: of the training images, "crop-flip" (a random crop of 8 % to 100 % of the area, and a
    horizontal flip half of the time), "resize-crop-flip" (a random crop of `image_size` from the whole image resized to
    a square of 256/227 of it, and a flip; the images of all other splits are resized likewise, and cut centrally) or
    "none"; the default is "crop-flip" for photographs from 64 pixels on.
    `train_classes` (folder): a text file with the training classes' names, one a line; the rest tests.
    `on_broken`: "error", or "skip" to do without images that are missing or cannot be decoded; see
    `LabeledImages`.
    `cache` (image files): "memory" keeps decoded images in memory, "none" does not; any other value is a folder that
    decoded, resized images are kept in on disk, for this run and the next. The default keeps them in memory for folder,
    where they take no more than 512 MB and are not cropped at random.
    `check_counts`: compare with the published counts; the default does so where a list or split has at least half of
    the published images. Not for digits and folder, which have none.
    `protocol`: one of `data.protocols(name)`, or "default" for the first of them.
    `download`: get the data set, where it is not found under `root` and has an official address.
    `sound` (voxceleb, voxceleb2): how recordings are made into features, see `SoundOptions`. These sets have no
    `image_size` (`DataSplits.image_size` is the number of bins) and one channel, keep no cache on disk, and have their
    own values of `augment`: "crop" (a random stretch of the recording), "noise-reverb" (the same with noise, music,
    babble or reverberation, from the folders that `sound` names) or "none" (its middle); the default is "noise-reverb"
    where a folder is named, else "crop".

    Raises: ValueError for an argument that is none of these; DataError where the data are missing or broken.
    """
    reader = data_set(name)
    entry = SETS[name]
    if channels not in (None, 1, 3):
        raise ValueError(f"channels must be 1 or 3, got {channels!r}")
    if image_size is not None and (isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1):
        raise ValueError(f"image_size must be a positive whole number of pixels, got {image_size!r}")
    _one_of(
        "augment", augment, ("default", *(SOUND_AUGMENTATIONS if entry.sound else AUGMENTATIONS)), _whose(name, entry)
    )
    _check_sound(name, entry, sound, image_size, channels)
    _one_of("on_broken", on_broken, ON_BROKEN)
    if not str(cache).strip() or Path(cache).is_file():
        raise ValueError(f"cache must be default, memory, none or a folder, got {str(cache)!r}")
    if train_classes is not None and name != "folder":
        raise ValueError(f"train_classes is for the data set 'folder'; the classes of {name!r} are split already")
    if check_counts is not None and not entry.published_counts:
        raise ValueError(f"check_counts is for data sets with published counts, got it with {name!r}")
    if protocol == "default":
        protocol = next(iter(reader.PROTOCOLS))
    _one_of("protocol", protocol, tuple(reader.PROTOCOLS), f" for the data set {name!r}")
    if root is None and entry.needs_root:
        raise DataError(f"the data set {name!r} needs --root. {reader.WHERE}")
    folder = None if root is None else Path(root).expanduser()
    if download and folder is not None:
        _provide(name, reader, folder)
    return reader.load(
        ReadOptions(
            root=folder,
            image_size=image_size,
            channels=channels,
            augment=augment,
            on_broken=on_broken,
            cache=str(cache),
            check_counts=check_counts,
            train_classes=None if train_classes is None else Path(train_classes),
            protocol=protocol,
            sound=sound,
        )
    )


def _check_sound(
    name: str, entry: Entry, sound: SoundOptions | None, image_size: int | None, channels: int | None
) -> None:
    if not entry.sound:
        if sound is not None:
            raise ValueError(f"sound is for data sets of recordings, got it with {name!r}, which are images")
        return
    if image_size is not None:
        raise ValueError(
            f"image_size is for images, got {image_size} with {name!r}, which is sound; its size is sound.bins"
        )
    if channels == 3:
        raise ValueError(f"channels must be 1 for {name!r}, which is sound, got 3")


def _whose(name: str, entry: Entry) -> str:
    return f" for the data set {name!r}, which is sound" if entry.sound else ""


def _provide(name: str, reader: DataSet, root: Path) -> None:
    try:
        reader.probe(root)
    except DataError as error:
        if not reader.ARCHIVES:
            raise DataError(f"the data set {name!r} cannot be downloaded: it has no stable address. {error}") from error
        download_archives(reader.ARCHIVES, root)


def is_sound(name: str) -> bool:
    """Whether a data set is of recordings. Raises: ValueError for a name that is unknown."""
    data_set(name)
    return SETS[name].sound


def protocols(name: str) -> dict[str, str]:
    """The protocols of a data set, each with a line that describes it; the first is the default.

    Raises: ValueError for a name that is unknown.
    """
    return dict(data_set(name).PROTOCOLS)


def check_classes(splits: DataSplits) -> None:
    """Checks that there is something to tell apart, in training and in testing.

    Raises: DataError where a split has fewer than two classes.
    """
    for what, split in (("train", splits.train), ("test", splits.test)):
        if len(split.class_names) < 2:
            choose = (
                "; choose others by train_classes, which lists those to train on" if splits.name == "folder" else ""
            )
            raise DataError(
                f"the data set {splits.name!r} leaves one class to {what} on, {split.class_names[0]!r}, and at least 2 "
                f"are needed{choose}"
            )


@dataclass(frozen=True)
class Probe:
    """Whether a data set can be loaded; `detail` says what was found, or what is missing."""

    name: str
    found: bool
    detail: str


def probe(root: str | Path | None = None) -> list[Probe]:
    """Which of the named data sets are found under `root`, and why not; opens no image and never raises."""
    return [look_for(name, root) for name in SETS]


def look_for(name: str, root: str | Path | None = None) -> Probe:
    """Whether the data set `name` is found under `root`, and why not; opens no image.

    Raises: ValueError for a name that is unknown.
    """
    root = None if root is None else Path(root).expanduser()
    try:
        reader = data_set(name)
        if root is None and SETS[name].needs_root:
            return Probe(name, False, f"no --root given. {reader.WHERE}")
        return Probe(name, True, reader.probe(root or Path()))
    except (DataError, OSError, ImportError) as error:
        return Probe(name, False, str(error))


def _one_of(argument: str, value: str, allowed: tuple[str, ...], whose: str = "") -> None:
    if value not in allowed:
        raise ValueError(f"{argument} must be one of {', '.join(allowed)}{whose}, got {value!r}")
