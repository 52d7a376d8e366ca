"""MNIST and, in the same format, Fashion-MNIST: idx files, plain or gzipped."""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
import torch

from robustdml_ext.data import archives
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets import _arrays
from robustdml_ext.data.sets._arrays import ArrayImages, ArrayLayout, Arrays
from robustdml_ext.data.splits import DataSplits

SUMMARY = "MNIST, 60,000 + 10,000 handwritten digits, 28x28 gray, 10 classes; needs --root"
PROTOCOLS = _arrays.PROTOCOLS
ARCHIVES = archives.MNIST
SIDE = 28
CLASSES = 10
PUBLISHED = {"train": 60_000, "test": 10_000}
_PREFIXES = {"train": "train", "test": "t10k"}
_DAMAGED = (OSError, EOFError, zlib.error)  # gzip's own error is an OSError


def where(folder: str) -> str:
    """Where to get the files of `folder`, and where to put them."""
    return (
        "Get train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte with "
        f"--download, and give the folder that holds {folder}/raw as --root, or the folder that they lie in; each may "
        "be gzipped (.gz)."
    )


WHERE = where("MNIST")


def find_files(root: Path, folder: str, split: str) -> tuple[Path, Path]:
    """The image and the label file of "train" or "test", in `root`/`folder`/raw, `root`/`folder`, `root`/raw or `root`.

    Raises: DataError naming what is missing.
    """
    names = [f"{_PREFIXES[split]}-images-idx3-ubyte", f"{_PREFIXES[split]}-labels-idx1-ubyte"]
    for place in (root / folder / "raw", root / folder, root / "raw", root):
        found = [next((f for f in (place / name, place / f"{name}.gz") if f.is_file()), None) for name in names]
        images, labels = found
        if images is not None and labels is not None:
            return images, labels
        if images is not None or labels is not None:
            missing = names[0] if images is None else names[1]
            raise DataError(f"{folder}: {place} lacks {missing}. {where(folder)}")
    what = "holds neither of them" if root.is_dir() else "is not a folder"
    raise DataError(f"{folder} not found: {' and '.join(names)} are wanted, and {root} {what}. {where(folder)}")


def read_idx(file: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array of an idx file of unsigned bytes with so many dimensions. Raises: DataError naming the file."""
    try:
        with _open(file) as handle:
            shape = _read_shape(handle, file, dimensions)
            data = handle.read()
    except _DAMAGED as error:
        raise DataError(f"{file} cannot be read ({error}); get it again") from error
    expected = int(np.prod(shape, dtype=np.int64))
    if len(data) != expected:
        what = "is truncated" if len(data) < expected else "has bytes behind its end"
        raise DataError(f"{file} {what}: expected {expected:,} bytes after the header, found {len(data):,}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_arrays(root: Path, folder: str, split: str) -> Arrays:
    """Images uint8 [N, 1, 28, 28] and labels of one split. Raises: DataError naming the file."""
    image_file, label_file = find_files(root, folder, split)
    images, labels = read_idx(image_file, 3), read_idx(label_file, 1)
    if images.shape[1:] != (SIDE, SIDE):
        raise DataError(f"{image_file}: expected images of 28 x 28 pixels, found {images.shape[1]} x {images.shape[2]}")
    if len(images) != len(labels):
        raise DataError(f"{image_file} has {len(images):,} images, but {label_file} {len(labels):,} labels")
    if not len(labels):
        raise DataError(f"{image_file} has no images")
    if labels.max() >= CLASSES:
        raise DataError(f"{label_file}: expected labels 0 .. 9, found {labels.max()} at {int(labels.argmax()):,}")
    return Arrays(torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.astype(np.int64)))


def count(root: Path, folder: str, layout: ArrayLayout) -> str:
    """What is found, from the headers alone. Raises: DataError."""
    counts = {}
    for split in _PREFIXES:
        file, _ = find_files(root, folder, split)
        try:
            with _open(file) as handle:
                counts[split] = _read_shape(handle, file, 3)[0]
        except _DAMAGED as error:
            raise DataError(f"{file} cannot be read ({error}); get it again") from error
    return _arrays.probe_counts(layout, counts, file.parent)


def _open(file: Path) -> IO[bytes]:
    return gzip.open(file) if file.suffix == ".gz" else open(file, "rb")  # type: ignore[return-value]


def _read_shape(handle: IO[bytes], file: Path, dimensions: int) -> tuple[int, ...]:
    header = handle.read(4 + 4 * dimensions)
    magic = bytes([0, 0, 0x08, dimensions])  # 0x08: unsigned bytes
    if header[:4] != magic:
        raise DataError(
            f"{file} is no idx file of bytes with {dimensions} dimension{'s' * (dimensions > 1)}: it begins with "
            f"{header[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{file} is truncated: it ends within its header")
    return struct.unpack(f">{dimensions}I", header[4:])


LAYOUT = ArrayLayout(
    "mnist",
    "MNIST",
    WHERE,
    tuple(str(digit) for digit in range(CLASSES)),
    PUBLISHED,
    lambda root, split: read_arrays(root, "MNIST", split),
)


class MNIST(ArrayImages):
    """MNIST (LeCun et al. 1998), 60,000 and 10,000 handwritten digits; see the base class."""

    layout = LAYOUT


def load(options: ReadOptions) -> DataSplits:
    """MNIST as `options` say; see `data.load`. Raises: DataError, ValueError."""
    return _arrays.load_arrays(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found of MNIST under `root`. Raises: DataError."""
    return count(root, "MNIST", LAYOUT)
