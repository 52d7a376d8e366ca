"""What is asked of a data set when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read; `data.load` documents each option, and has checked those that all sets share.

    `root` is None only for a set that needs none. `protocol` is one of the set's PROTOCOLS. `cache` is "default",
    "memory", "none", or the folder of a cache on disk. `train_classes` is for folders alone.
    """

    root: Path | None
    image_size: int | None = None
    channels: int | None = None
    augment: str = "default"
    on_broken: str = "error"
    cache: str = "default"
    check_counts: bool | None = None
    train_classes: Path | None = None
    protocol: str = "default"

    @property
    def resize_square(self) -> bool:
        """Whether all splits are resized as the training augmentation does, see `Transform`."""
        return self.augment == "resize-crop-flip"

    @property
    def folder(self) -> Path:
        """`root`, of a set that needs one."""
        assert self.root is not None
        return self.root
