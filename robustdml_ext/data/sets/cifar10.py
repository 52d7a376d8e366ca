"""CIFAR-10 in its binary and its Python layout."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from robustdml_ext.data import archives
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets import _arrays
from robustdml_ext.data.sets._arrays import ArrayImages, ArrayLayout, Arrays
from robustdml_ext.data.sets._pickles import read_pickle
from robustdml_ext.data.splits import DataSplits

SUMMARY = "CIFAR-10, 50,000 + 10,000 photographs, 32x32 RGB, 10 classes; needs --root"
PROTOCOLS = _arrays.PROTOCOLS
ARCHIVES = archives.CIFAR10
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PUBLISHED = {"train": 50_000, "test": 10_000}
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
WHERE = (
    "Get cifar-10-binary.tar.gz with --download, or it or cifar-10-python.tar.gz from "
    f"https://www.cs.toronto.edu/~kriz/cifar.html, unpack it, and give the folder {BINARY} or {PYTHON}, or the one "
    "that holds it, as --root; expected in it: data_batch_1 to data_batch_5 and test_batch, each with the ending .bin "
    "in the binary layout."
)
_STEMS = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
_PIXELS = 3 * 32 * 32
_RECORD = 1 + _PIXELS  # a label, then the red, the green and the blue plane


def find_files(root: Path, split: str) -> list[Path]:
    """The files of "train" or "test" in either layout, in `root` or the folders of these names in it.

    Raises: DataError naming what is missing.
    """
    for folder, ending in ((root / BINARY, ".bin"), (root / PYTHON, ""), (root, ".bin"), (root, "")):
        every = {stem: folder / f"{stem}{ending}" for stems in _STEMS.values() for stem in stems}
        missing = [file.name for file in every.values() if not file.is_file()]
        if len(missing) == len(every):
            continue
        if missing:
            raise DataError(f"CIFAR-10: {folder} lacks {', '.join(missing)}. {WHERE}")
        return [every[stem] for stem in _STEMS[split]]
    what = "has no batches" if root.is_dir() else "is not a folder"
    raise DataError(f"CIFAR-10 not found: {root} {what}. {WHERE}")


def read_batch(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Images uint8 [n, 3, 32, 32] and labels [n] of one file of either layout. Raises: DataError naming the file."""
    images, labels = _read_binary(file) if file.suffix == ".bin" else _read_python(file)
    if not len(labels):
        raise DataError(f"{file} has no images")
    if labels.max() >= len(CLASSES):
        raise DataError(f"{file}: expected labels 0 .. 9, found {labels.max()} at image {int(labels.argmax())}")
    return images.reshape(-1, 3, 32, 32), labels


def _read_binary(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    try:
        data = np.fromfile(file, np.uint8)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    if len(data) % _RECORD:
        raise DataError(f"{file} is truncated: {len(data):,} bytes are no multiple of the {_RECORD:,} of an image")
    records = data.reshape(-1, _RECORD)
    return records[:, 1:], records[:, 0]


def _read_python(file: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    held = read_pickle(file)
    images, labels = (held.get("data"), held.get("labels")) if isinstance(held, dict) else (None, None)
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _PIXELS:
        raise DataError(f"{file}: expected 'data', an array [n, {_PIXELS}], found {getattr(images, 'shape', images)!r}")
    fine = isinstance(labels, list) and len(labels) == len(images)
    if not fine or not all(type(label) is int and 0 <= label < 256 for label in labels or ()):
        raise DataError(f"{file}: expected 'labels', a list of {len(images)} small whole numbers")
    return images, np.array(labels, dtype=np.uint8)


def read_arrays(root: Path, split: str) -> Arrays:
    """Images uint8 [N, 3, 32, 32] and labels of one split. Raises: DataError naming the file."""
    batches = [read_batch(file) for file in find_files(root, split)]
    images = torch.from_numpy(np.concatenate([images for images, _ in batches]))
    labels = torch.from_numpy(np.concatenate([labels for _, labels in batches]).astype(np.int64))
    return Arrays(images, labels)


LAYOUT = ArrayLayout("cifar10", "CIFAR-10", WHERE, CLASSES, PUBLISHED, read_arrays)


class CIFAR10(ArrayImages):
    """CIFAR-10 (Krizhevsky 2009), 50,000 and 10,000 photographs of 10 classes; see the base class."""

    layout = LAYOUT


def load(options: ReadOptions) -> DataSplits:
    """CIFAR-10 as `options` say; see `data.load`. Raises: DataError, ValueError."""
    return _arrays.load_arrays(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found of CIFAR-10 under `root`; pickles are not opened. Raises: DataError."""
    files = {split: find_files(root, split) for split in _STEMS}
    folder = files["test"][0].parent
    if files["test"][0].suffix != ".bin":
        return f"{sum(map(len, files.values()))} batches in the Python layout, under {folder}"
    counts = {split: sum(file.stat().st_size // _RECORD for file in part) for split, part in files.items()}
    return _arrays.probe_counts(LAYOUT, counts, folder)
