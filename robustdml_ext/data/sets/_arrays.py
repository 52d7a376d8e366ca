"""What data sets that come as arrays of small images need: splits, channels, a data set class for plain PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets import VisionDataset

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sources import Source, TensorSource
from robustdml_ext.data.splits import DataSplits, LabeledImages
from robustdml_ext.data.transforms import Transform

PROTOCOLS = {
    "official": "the published split: training and test images of the same 10 classes",
    "zero-shot": "training images of the first 5 classes train, test images of the other 5 test",
}
_MEMORY_LIMIT = 512 * 2**20  # bytes of resized images that are kept; beyond, they are resized when asked for


@dataclass(frozen=True)
class Arrays:
    """One split as published: images uint8 [N, C, H, W] and labels int64 [N] in 0 .. classes-1."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class ArrayLayout:
    """What sets one of these data sets apart: `read(root, split)` gives "train" or "test". Raises: DataError."""

    name: str
    title: str
    where: str
    classes: tuple[str, ...]
    published: Mapping[str, int]  # images by split
    read: Callable[[Path, str], Arrays]


def load_arrays(layout: ArrayLayout, options: ReadOptions) -> DataSplits:
    """Reads both splits and builds what the package trains and tests on. Raises: DataError, ValueError."""
    protocol = next(iter(PROTOCOLS)) if options.protocol == "default" else options.protocol
    if protocol not in PROTOCOLS:
        raise ValueError(
            f"protocol must be one of {', '.join(PROTOCOLS)} for the data set {layout.name!r}, got {protocol!r}"
        )
    read = {split: layout.read(options.folder, split) for split in ("train", "test")}
    check_published(layout, {split: len(arrays.labels) for split, arrays in read.items()}, options.check_counts)
    native = read["train"].images
    size, channels = options.image_size or native.shape[-1], options.channels or native.shape[1]
    seen = len(layout.classes) // 2
    kept = {split: range(len(layout.classes)) for split in read}
    if protocol == "zero-shot":
        kept = {"train": range(seen), "test": range(seen, len(layout.classes))}

    def split(name: str) -> LabeledImages:
        images, labels = read[name].images, read[name].labels
        classes = kept[name]
        rows = torch.nonzero((labels >= classes.start) & (labels < classes.stop)).flatten()
        if not len(rows):
            raise DataError(f"{layout.title}: the {name} split has no image of the classes it is for. {layout.where}")
        if len(rows) < len(labels):
            images, labels = images[rows], labels[rows] - classes.start
        images = with_channels(images, channels)
        augment = options.augment if name == "train" and options.augment != "default" else "none"
        names = [layout.classes[c] for c in classes]
        source = _source(images, size)
        transform = Transform(size, augment, resize_square=options.resize_square)
        return LabeledImages(source, labels, names, transform, on_broken=options.on_broken)

    return DataSplits(
        layout.name,
        split("train"),
        split("test"),
        channels,
        size,
        protocol=protocol,
        zero_shot=protocol == "zero-shot",
    )


def probe_counts(layout: ArrayLayout, counts: Mapping[str, int], folder: Path) -> str:
    """What `probe` says, given the images that the files' sizes or headers promise."""
    said = ", ".join(f"{split} {count:,} images" for split, count in counts.items())
    whole = all(counts[split] == published for split, published in layout.published.items())
    return f"{said} of {len(layout.classes)} classes{'' if whole else ', not the published counts'}, under {folder}"


def check_published(layout: ArrayLayout, counts: Mapping[str, int], check: bool | None) -> None:
    """Compares the counts with the published ones; by default where at least half of a split's images are there.

    Raises: DataError naming every difference.
    """
    if check is None:  # a small set made by hand in this layout is no damaged download
        check = any(2 * count >= layout.published[split] for split, count in counts.items())
    wrong = [
        f"{split} has {count:,} images, {count - layout.published[split]:+,} against the published "
        f"{layout.published[split]:,}"
        for split, count in counts.items()
        if count != layout.published[split]
    ]
    if check and wrong:
        raise DataError(
            f"{layout.title} is not the published set: {'; '.join(wrong)}. {layout.where} "
            "Where that is meant, turn the check off with check_counts=False."
        )


def with_channels(images: Tensor, channels: int) -> Tensor:
    """uint8 [N, C, H, W] with 1 or 3 channels: gray repeated, or RGB turned to luminance as Pillow's mode "L" does."""
    if images.shape[1] == channels:
        return images
    if channels == 3:
        return images.expand(-1, 3, -1, -1).contiguous()
    weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32)[:, None, None]  # ITU-R 601, times 2^16
    parts = [((part.to(torch.int32) * weights).sum(1, keepdim=True) + 2**15) >> 16 for part in images.split(4096)]
    return torch.cat([part.to(torch.uint8) for part in parts])


class _ResizedWhenRead:
    """Images in memory at their own size, as resized they would take too much of it; see TensorSource."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.paths: list[Path] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def select(self, indices: Sequence[int]) -> _ResizedWhenRead:
        return _ResizedWhenRead(self.images[torch.as_tensor(indices, dtype=torch.int64)])


def _source(images: Tensor, size: int) -> Source:
    resized = len(images) * images.shape[1] * size**2
    if images.shape[-1] == size or resized <= _MEMORY_LIMIT:
        return TensorSource(images)
    return _ResizedWhenRead(images)


class ArrayImages(VisionDataset):
    """Base of the data set classes: images in memory with labels, as (PIL image, int) pairs for plain PyTorch.

    Args: `root`, where the files lie; `split`, "train" or "test"; `transform` of the image and `target_transform` of
    the label; `check_counts`, whether to compare with the published counts (by default where at least half of the
    published images are there).

    Attributes: `images`, uint8 [N, C, H, W]; `targets`, N labels 0 .. 9; `classes`, the names; `class_to_idx`; `split`.

    Raises: DataError where the files are missing, damaged or not the published ones; ValueError for another split.
    """

    layout: ClassVar[ArrayLayout]

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        check_counts: bool | None = None,
    ) -> None:
        folder = Path(root).expanduser()
        super().__init__(folder, transform=transform, target_transform=target_transform)
        if split not in ("train", "test"):
            raise ValueError(f"split must be one of train, test, got {split!r}")
        arrays = self.layout.read(folder, split)
        check_published(self.layout, {split: len(arrays.labels)}, check_counts)
        self.split = split
        self.images = arrays.images
        self.targets: list[int] = arrays.labels.tolist()
        self.classes = list(self.layout.classes)
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        pixels = self.images[range(len(self))[index]]
        image: Any = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
        target: Any = self.targets[index]
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target

    def extra_repr(self) -> str:
        return f"Split: {self.split}"
