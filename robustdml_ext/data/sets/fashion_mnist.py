"""Fashion-MNIST, in MNIST's format."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data import archives
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets import _arrays, mnist
from robustdml_ext.data.sets._arrays import ArrayImages, ArrayLayout
from robustdml_ext.data.splits import DataSplits

SUMMARY = "Fashion-MNIST, 60,000 + 10,000 pieces of clothing, 28x28 gray, 10 classes; needs --root"
WHERE = mnist.where("FashionMNIST")
PROTOCOLS = _arrays.PROTOCOLS
ARCHIVES = archives.FASHION_MNIST
LAYOUT = ArrayLayout(
    "fashion-mnist",
    "Fashion-MNIST",
    WHERE,
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    mnist.PUBLISHED,
    lambda root, split: mnist.read_arrays(root, "FashionMNIST", split),
)


class FashionMNIST(ArrayImages):
    """Fashion-MNIST (Xiao et al. 2017), 60,000 and 10,000 pieces of clothing; see the base class."""

    layout = LAYOUT


def load(options: ReadOptions) -> DataSplits:
    """Fashion-MNIST as `options` say; see `data.load`. Raises: DataError, ValueError."""
    return _arrays.load_arrays(LAYOUT, options)


def probe(root: Path) -> str:
    """What is found of Fashion-MNIST under `root`. Raises: DataError."""
    return mnist.count(root, "FashionMNIST", LAYOUT)
