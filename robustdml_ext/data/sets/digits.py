"""scikit-learn's handwritten digits: nothing to download, small enough to train on in seconds."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from robustdml_ext.data.archives import Archive
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sources import TensorSource
from robustdml_ext.data.splits import DataSplits, LabeledImages
from robustdml_ext.data.transforms import Transform

SEEN_CLASSES = 5  # digits 0-4 train, 5-9 test


SUMMARY = "scikit-learn's handwritten digits, 8x8 gray; 0-4 train, 5-9 test; nothing to download"
WHERE = "It comes with scikit-learn: pip install scikit-learn"
PROTOCOLS = {"zero-shot": "the digits 0 to 4 train, 5 to 9 test"}
ARCHIVES: tuple[Archive, ...] = ()


def load(options: ReadOptions) -> DataSplits:
    """1,797 gray images of 8 x 8 pixels with values 0 .. 16, divided by 16; digits 0-4 train, 5-9 test.

    Raises: DataError where scikit-learn, which holds the images, is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise DataError(
            "the data set 'digits' comes with scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    bunch = datasets.load_digits()
    pixels = torch.from_numpy(np.asarray(bunch.images, dtype=np.float32) / 16)[:, None]
    labels = torch.from_numpy(np.asarray(bunch.target, dtype=np.int64))
    size, channels = options.image_size or 8, options.channels or 1
    augment = "none" if options.augment == "default" else options.augment
    pixels = pixels.expand(-1, channels, -1, -1)

    def split(seen: bool) -> LabeledImages:
        rows = torch.nonzero((labels < SEEN_CLASSES) == seen).flatten()
        first = 0 if seen else SEEN_CLASSES
        names = [str(digit) for digit in range(first, first + SEEN_CLASSES)]
        transform = Transform(size, augment if seen else "none", resize_square=options.resize_square)
        return LabeledImages(TensorSource(pixels[rows].contiguous()), labels[rows] - first, names, transform)

    return DataSplits("digits", split(True), split(False), channels, size)


def probe(root: Path) -> str:
    """Where the images come from; `root` is not looked at. Raises: DataError where scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise DataError(f"needs scikit-learn. {WHERE}")
    return "comes with scikit-learn"
