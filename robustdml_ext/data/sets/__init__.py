"""One module a data set, each of the same form; `robustdml_ext.data.catalog` knows them by name.

A module has `SUMMARY` (one line), `WHERE` (where to get the data and where to put them), `PROTOCOLS` (name -> one line,
the default first), `ARCHIVES` (what can be downloaded), `load(options) -> DataSplits`, `probe(root) -> str`, and a data
set class on torchvision's `VisionDataset`, for plain PyTorch:

    from robustdml_ext.data.sets import CUB200

    train = CUB200("CUB_200_2011", "train", transform=...)

The classes are imported when first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robustdml_ext.data.sets.cars196 import Cars196
    from robustdml_ext.data.sets.cifar10 import CIFAR10
    from robustdml_ext.data.sets.cub200 import CUB200
    from robustdml_ext.data.sets.cub200_2010 import CUB200Of2010
    from robustdml_ext.data.sets.fashion_mnist import FashionMNIST
    from robustdml_ext.data.sets.folder import ClassFolders
    from robustdml_ext.data.sets.inshop import InShop
    from robustdml_ext.data.sets.miniimagenet import MiniImageNet
    from robustdml_ext.data.sets.mnist import MNIST
    from robustdml_ext.data.sets.omniglot import Omniglot
    from robustdml_ext.data.sets.pacs import PACS
    from robustdml_ext.data.sets.sop import StanfordOnlineProducts
    from robustdml_ext.data.sets.voxceleb import VoxCeleb
    from robustdml_ext.data.sets.voxceleb2 import VoxCeleb2

__all__ = [
    "CIFAR10",
    "CUB200",
    "MNIST",
    "PACS",
    "CUB200Of2010",
    "Cars196",
    "ClassFolders",
    "FashionMNIST",
    "InShop",
    "MiniImageNet",
    "Omniglot",
    "StanfordOnlineProducts",
    "VoxCeleb",
    "VoxCeleb2",
]

_MODULES = {
    "CIFAR10": "cifar10",
    "CUB200": "cub200",
    "CUB200Of2010": "cub200_2010",
    "Cars196": "cars196",
    "ClassFolders": "folder",
    "FashionMNIST": "fashion_mnist",
    "InShop": "inshop",
    "MNIST": "mnist",
    "MiniImageNet": "miniimagenet",
    "Omniglot": "omniglot",
    "PACS": "pacs",
    "StanfordOnlineProducts": "sop",
    "VoxCeleb": "voxceleb",
    "VoxCeleb2": "voxceleb2",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
