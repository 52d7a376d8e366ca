"""Where images come from: a tensor in memory, or files that are decoded when asked for."""

from __future__ import annotations

import errno
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from robustdml_ext.data.errors import BrokenImageError, DataError

# What Pillow raises on damaged files: SyntaxError for broken PNG chunks, the others from its plugins.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
# The machine's trouble, not the file's: to blame an image for these would drop good images at random.
_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Source(Protocol):
    """N images: `read(i)` gives one as [C, H, W], `paths` the files where there are any, `select` a part."""

    paths: list[Path] | None

    def __len__(self) -> int: ...

    def read(self, index: int) -> Tensor: ...

    def select(self, indices: Sequence[int]) -> Source: ...


class TensorSource:
    """Images [N, C, H, W] that are in memory as one tensor."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.paths: list[Path] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        return self.images[index]

    def select(self, indices: Sequence[int]) -> TensorSource:
        return TensorSource(self.images[torch.as_tensor(indices, dtype=torch.int64)])


class FileSource:
    """Image files, decoded with Pillow to uint8 [C, H, W] with 1 (grey) or 3 (RGB) channels.

    Grey images are repeated to three channels where three are asked for, and RGB images turned to luminance
    where one is; transparency is dropped. Orientation tags are not applied, as the published protocols do
    not.
    """

    def __init__(self, paths: Sequence[Path], channels: int) -> None:
        self.paths: list[Path] | None = list(paths)
        self.channels = channels

    def __len__(self) -> int:
        assert self.paths is not None
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        """Decodes image `index`. Raises: BrokenImageError, naming the path."""
        assert self.paths is not None
        path = self.paths[index]
        try:
            with Image.open(path) as image:
                pixels = _pixels(image, self.channels)
        except _DAMAGED as error:
            raise _broken(path, error) from error
        return torch.from_numpy(pixels)

    def select(self, indices: Sequence[int]) -> FileSource:
        assert self.paths is not None
        return FileSource([self.paths[i] for i in indices], self.channels)


def _pixels(image: Image.Image, channels: int) -> np.ndarray:
    if image.mode.startswith("I;16"):  # Pillow would clip 16-bit grey at 255 instead of scaling it
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[None], channels, 0)
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no known range; save the image with 8 bits a channel")
    if channels == 1:
        return np.array(image.convert("L"))[None]
    # Left as it is decoded, with the colors last: torchvision resizes that three times faster, to the same bits.
    return np.array(image.convert("RGB")).transpose(2, 0, 1)


def _broken(path: Path, error: BaseException) -> DataError:
    if isinstance(error, OSError) and error.errno in _NOT_THE_FILE:
        return DataError(f"could not read {path}: {error.strerror}")
    if isinstance(error, FileNotFoundError):
        return BrokenImageError(f"image {path} is missing")
    reason = str(error).split("\n")[0] or type(error).__name__
    return BrokenImageError(
        f"image {path} cannot be decoded ({reason}); is it truncated? Get it again, or leave it out"
    )


def image_header(path: Path) -> tuple[int, int, bool]:
    """(height, width, grey) from the file's header alone. Raises: BrokenImageError, naming the path."""
    try:
        with Image.open(path) as image:
            grey = image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16")
            return image.height, image.width, grey
    except _DAMAGED as error:
        raise _broken(path, error) from error
