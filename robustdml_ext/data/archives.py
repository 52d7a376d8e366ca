"""The archives that data sets are published in: addresses, checksums, and where they are unpacked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import urlsplit

_DIGITS = {"md5": 32, "sha256": 64}  # hexadecimal digits of a checksum


@dataclass(frozen=True)
class Archive:
    """One file to download; see `data.download.download_archives`.

    `url`: an http, https or ftp address. `file_name`: what it is called in the data set's folder. `checksum`:
    "md5:…" or "sha256:…" in hexadecimal digits, or None where none is published. `size`: in bytes, None where
    unknown. `unpack_into`: the folder that it is unpacked into, relative to the data set's folder. `mirrors`: more
    addresses of the same file, tried in order.

    Raises: ValueError for another kind of address or checksum, and for names that lead out of the folder.
    """

    url: str
    file_name: str
    checksum: str | None
    size: int | None = None
    unpack_into: str = "."
    mirrors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for url in self.urls:
            if urlsplit(url).scheme not in ("http", "https", "ftp"):
                raise ValueError(f"url must be an http, https or ftp address, got {url!r}")
        name = self.file_name
        if PurePosixPath(name).name != name or "\\" in name or name in ("", ".."):
            raise ValueError(f"file_name must be a plain file name, got {self.file_name!r}")
        into = PurePosixPath(self.unpack_into)
        if into.is_absolute() or ".." in into.parts or "\\" in self.unpack_into:
            raise ValueError(f"unpack_into must be a relative path without '..', got {self.unpack_into!r}")
        if self.checksum is not None:
            kind, _, digits = self.checksum.partition(":")
            if kind not in _DIGITS or not re.fullmatch(f"[0-9a-f]{{{_DIGITS[kind]}}}", digits):
                raise ValueError(f"checksum must be 'md5:…' or 'sha256:…' in small hexadecimals, got {self.checksum!r}")

    @property
    def urls(self) -> tuple[str, ...]:
        """Every address of the file, in the order they are tried."""
        return (self.url, *self.mirrors)


CUB200_2011 = (
    Archive(
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "CUB_200_2011.tgz",
        "md5:97eceeb196236b17998738112f37df78",
        1_150_585_339,
    ),
)
# The addresses that papers give for CUB-200 of 2010 (www.vision.caltech.edu/visipedia-data/CUB-200/) are gone.
CUB200_2010: tuple[Archive, ...] = ()
SOP = (
    Archive(
        "http://ftp.cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",
        "Stanford_Online_Products.zip",
        "md5:7f73d41a2f44250d4779881525aea32e",
        mirrors=("ftp://cs.stanford.edu/cs/cvgl/Stanford_Online_Products.zip",),
    ),
)
# Cars196 is no longer at its official address, In-Shop needs an agreement by mail, and miniImageNet and PACS were only
# ever shared from private drives.
CARS196: tuple[Archive, ...] = ()
INSHOP: tuple[Archive, ...] = ()
MINIIMAGENET: tuple[Archive, ...] = ()
PACS: tuple[Archive, ...] = ()

_OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/"
OMNIGLOT = (
    Archive(f"{_OMNIGLOT}images_background.zip", "images_background.zip", "md5:68d2efa1b9178cc56df9314c21c6e718"),
    Archive(f"{_OMNIGLOT}images_evaluation.zip", "images_evaluation.zip", "md5:6b91aef0f799c5bb55b94e3f2daec811"),
)


def _idx_files(prefix: str, folder: str, checksums: dict[str, str]) -> tuple[Archive, ...]:
    return tuple(Archive(prefix + name, name, f"md5:{md5}", unpack_into=folder) for name, md5 in checksums.items())


MNIST = _idx_files(
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "MNIST/raw",
    {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)
FASHION_MNIST = _idx_files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "FashionMNIST/raw",
    {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
)
CIFAR10 = (
    Archive(
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "cifar-10-binary.tar.gz",
        "md5:c32a1d4ab5d03f1284b67883e8d87530",
        170_052_171,
    ),
)
# No checksums are published for the trial lists; the recordings themselves need an agreement.
VOXCELEB1_TRIALS = tuple(
    Archive(f"https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/{name}", name, None)
    for name in (
        "veri_test.txt",
        "veri_test2.txt",
        "list_test_all.txt",
        "list_test_all2.txt",
        "list_test_hard.txt",
        "list_test_hard2.txt",
    )
)
