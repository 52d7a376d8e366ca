"""What can be said of every data set without importing what reads it, nor PyTorch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A data set's module in `robustdml_ext.data.sets`, and what can be said without importing it.

    `summary` is the module's SUMMARY, and `protocols` are the names in its PROTOCOLS.
    """

    module: str
    summary: str
    protocols: tuple[str, ...] = ("zero-shot",)
    needs_root: bool = True
    published_counts: bool = True
    sound: bool = False


_PUBLISHED_SPLIT = ("official", "zero-shot")  # of data sets whose two halves have the same classes

SETS: dict[str, Entry] = {
    "digits": Entry(
        "digits",
        "scikit-learn's handwritten digits, 8x8 gray; 0-4 train, 5-9 test; nothing to download",
        needs_root=False,
        published_counts=False,
    ),
    "folder": Entry(
        "folder",
        "your own images, one folder a class; the first half of the class names trains; needs --root",
        published_counts=False,
    ),
    "sop": Entry("sop", "Stanford Online Products, 59,551 + 60,502 photographs of 22,634 products; needs --root"),
    "cub200": Entry("cub200", "CUB-200-2011, 5,864 + 5,924 photographs of 200 kinds of birds; needs --root"),
    "cub200-2010": Entry(
        "cub200_2010", "CUB-200 of 2010, 2,944 + 3,089 photographs of 200 kinds of birds; needs --root"
    ),
    "cars196": Entry("cars196", "CARS196, 8,054 + 8,131 photographs of 196 models of cars; needs --root"),
    "inshop": Entry(
        "inshop",
        "In-Shop Clothes Retrieval, 25,882 + 26,830 photographs of 7,982 garments; needs --root",
        ("query-gallery", "query-only"),
    ),
    "mnist": Entry(
        "mnist", "MNIST, 60,000 + 10,000 handwritten digits, 28x28 gray, 10 classes; needs --root", _PUBLISHED_SPLIT
    ),
    "fashion-mnist": Entry(
        "fashion_mnist",
        "Fashion-MNIST, 60,000 + 10,000 pieces of clothing, 28x28 gray, 10 classes; needs --root",
        _PUBLISHED_SPLIT,
    ),
    "cifar10": Entry(
        "cifar10", "CIFAR-10, 50,000 + 10,000 photographs, 32x32 RGB, 10 classes; needs --root", _PUBLISHED_SPLIT
    ),
    "pacs": Entry(
        "pacs",
        "PACS, 9,991 images of 7 classes in 4 domains, one held out to test on; needs --root",
        ("art_painting", "cartoon", "photo", "sketch"),
    ),
    "miniimagenet": Entry(
        "miniimagenet",
        "miniImageNet, 60,000 photographs of 64 + 16 + 20 classes (train, validation, test); needs --root",
        ("official",),
    ),
    "omniglot": Entry(
        "omniglot",
        "Omniglot, drawings of 964 + 659 handwritten characters, 20 each; needs --root",
        ("background-evaluation",),
    ),
    "voxceleb": Entry(
        "voxceleb",
        "VoxCeleb1, 148,642 + 4,874 recordings of 1,211 + 40 speakers, for xvector; needs --root",
        ("dev-test",),
        sound=True,
    ),
    "voxceleb2": Entry(
        "voxceleb2",
        "VoxCeleb2 to train, 1,092,009 recordings of 5,994 speakers, VoxCeleb1 to test; for xvector; needs --root",
        ("voxceleb1", "voxceleb1-test"),
        sound=True,
    ),
}

NAMES: dict[str, str] = {
    name: entry.summary + (f"; protocols: {', '.join(entry.protocols)}" if len(entry.protocols) > 1 else "")
    for name, entry in SETS.items()
}
