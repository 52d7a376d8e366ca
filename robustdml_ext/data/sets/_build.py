"""From the lists of a data set to what the package trains on, and to a data set class of torchvision's kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from PIL import Image
from torchvision.datasets import VisionDataset

from robustdml_ext.data.cache import cached_source
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._lists import Found, check_images_exist, check_published, differences
from robustdml_ext.data.sources import FileSource, Source
from robustdml_ext.data.splits import DataSplits, LabeledImages
from robustdml_ext.data.transforms import CROP_FROM_SIZE, Transform

NOT_ON_DISK = ("default", "memory", "none")  # values of `cache`; any other is a folder


@dataclass(frozen=True)
class Layout:
    """What sets one data set of image files apart from the others.

    `read(root, protocol)` finds and reads its lists and folders, opens no image, and raises DataError. `image_size` and
    `channels` are those that its publications use. Images that are no `photographs` (drawings) are neither cropped nor
    flipped unless asked for. Where it is not `zero_shot`, train and test have the same classes.
    """

    name: str
    title: str
    where: str
    protocols: Mapping[str, str]
    read: Callable[[Path, str], Found]
    image_size: int = 224
    channels: int = 3
    photographs: bool = True
    zero_shot: bool = True

    def resolve(self, protocol: str) -> str:
        """The protocol's name, where "default" is the first. Raises: ValueError for one that is unknown."""
        if protocol == "default":
            return next(iter(self.protocols))
        if protocol not in self.protocols:
            known = ", ".join(self.protocols)
            raise ValueError(f"protocol must be one of {known} for the data set {self.name!r}, got {protocol!r}")
        return protocol


def load_layout(layout: Layout, options: ReadOptions) -> DataSplits:
    """Reads, checks and builds the splits of a data set of image files. Raises: DataError, ValueError."""
    protocol = layout.resolve(options.protocol)
    found = layout.read(options.folder, protocol)
    check_published(layout.title, found.counts, options.check_counts, layout.where)
    if options.on_broken == "error":
        check_images_exist(found.splits.values(), layout.where)
    size, channels = options.image_size or layout.image_size, options.channels or layout.channels
    built = {
        split: labeled(
            images.paths,
            images.labels,
            images.class_names,
            options,
            image_size=size,
            channels=channels,
            train=split == "train",
            photographs=layout.photographs,
        )
        for split, images in found.splits.items()
    }
    return DataSplits(
        layout.name,
        built["train"],
        built["test"],
        channels,
        size,
        validation=built.get("validation"),
        gallery=built.get("gallery"),
        protocol=protocol,
        zero_shot=layout.zero_shot,
    )


def probe_layout(layout: Layout, root: Path) -> str:
    """What is found of a data set under `root`; opens no image. Raises: DataError."""
    found = layout.read(root, layout.resolve("default"))
    check_images_exist(found.splits.values(), layout.where)
    said = [
        f"{split} {len(images.paths):,} images of {len(images.class_names):,} classes"
        for split, images in found.splits.items()
    ]
    if differences(found.counts):
        said.append("not the published counts")
    return f"{', '.join(said)}, under {found.folder}"


def labeled(
    paths: Sequence[Path],
    labels: Sequence[int],
    class_names: Sequence[str],
    options: ReadOptions,
    *,
    image_size: int,
    channels: int,
    train: bool,
    photographs: bool = True,
) -> LabeledImages:
    """One split of N image files with labels [N], read as `options` say; only a `train` split is augmented.

    From 64 pixels on photographs are cropped: at random to train, unless `options.augment` says otherwise, and
    centrally to test. With `options.augment` "resize-crop-flip" every split is resized as it says, see `Transform`.
    Where `options.cache` is a folder, what is decoded and resized is kept in a file there.

    Raises: DataError where that file cannot be written; with `options.on_broken` "error", BrokenImageError where an
    image cannot be decoded into it.
    """
    crop = photographs and image_size >= CROP_FROM_SIZE
    augment = "none"
    if train:
        augment = ("crop-flip" if crop else "none") if options.augment == "default" else options.augment
    transform = Transform(image_size, augment, center_crop=crop, resize_square=options.resize_square)
    files = FileSource(paths, channels)
    source: Source = files
    if options.cache not in NOT_ON_DISK:
        source = cached_source(files, Path(options.cache).expanduser(), transform, on_broken=options.on_broken)
    return LabeledImages(
        source,
        torch.tensor(labels, dtype=torch.int64),
        class_names,
        transform,
        on_broken=options.on_broken,
        cache=options.cache == "memory",
    )


class ImageFiles(VisionDataset):
    """Base of the data set classes: N image files with labels, as (PIL image, int) pairs for plain PyTorch.

    Args: `root`, the data set's folder or the one that holds it; `split`, "train", "test", or "validation" or "gallery"
    where the data set has one; `transform` of the image and `target_transform` of the label; `protocol`, one of the
    data set's PROTOCOLS, of which the first is the default; `check_counts`, whether to compare with the published
    counts (by default where at least half of the published images are there).

    Attributes: `paths`, one an image; `targets`, N labels 0 .. C-1; `classes`, the C names; `class_to_idx`; `split`.
    `dataset[i]` is the image, RGB or gray, after `transform`, and the label after `target_transform`.

    Raises: DataError where the data set is missing or incomplete; ValueError for a split or protocol that it does not
    have; BrokenImageError, when an image is asked for, where its file is damaged.
    """

    layout: ClassVar[Layout]

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        protocol: str = "default",
        check_counts: bool | None = None,
    ) -> None:
        folder = Path(root).expanduser()
        super().__init__(folder, transform=transform, target_transform=target_transform)
        layout = self.layout
        found = layout.read(folder, layout.resolve(protocol))
        if split not in found.splits:
            raise ValueError(f"split must be one of {', '.join(found.splits)}, got {split!r}")
        check_published(layout.title, found.counts, check_counts, layout.where)
        images = found.splits[split]
        check_images_exist([images], layout.where)
        self.split = split
        self.paths = images.paths
        self.targets = images.labels
        self.classes = images.class_names
        self.class_to_idx = {name: label for label, name in enumerate(self.classes)}
        self._source = FileSource(self.paths, layout.channels)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        index = range(len(self))[index]
        pixels = self._source.read(index)
        image: Any = Image.fromarray(pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy())
        target: Any = self.targets[index]
        if self.transforms is not None:
            image, target = self.transforms(image, target)
        return image, target

    def extra_repr(self) -> str:
        return f"Split: {self.split}\nClasses: {len(self.classes)}"
