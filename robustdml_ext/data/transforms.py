"""From a decoded image to the pixels a model sees, with randomness that depends on nothing but a key."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

AUGMENTATIONS = ("crop-flip", "resize-crop-flip", "none")
CROP_FROM_SIZE = 64  # from this size on images are photographs: random crops to train, central crops to test


class ItemTransform(Protocol):
    """What brings one item of a source to what a batch holds: `Transform` for images, `SoundTransform` for recordings.

    `fixed` is the part that is always the same, which memory may keep; `cropped` the part that a key decides, where
    there is one (`random`); `finish` is that and the step to float32. `for_testing` is the same without augmentation.
    """

    @property
    def random(self) -> bool: ...

    def fixed(self, image: Tensor, /) -> Tensor: ...

    def cropped(self, image: Tensor, key: int, /) -> Tensor: ...

    def finish(self, image: Tensor, key: int, /) -> Tensor: ...

    def for_testing(self) -> ItemTransform: ...


def to_float(images: Tensor) -> Tensor:
    """uint8 in [0, 255] becomes float32 in [0, 1]; floats, which are in [0, 1] already, become float32."""
    if images.dtype == torch.uint8:
        return images.to(torch.float32).div_(255)
    return images.to(torch.float32)


def random_resized_crop_box(height: int, width: int, key: int) -> tuple[int, int, int, int, bool]:
    """Draws (top, left, height, width, flip) as RandomResizedCrop and RandomHorizontalFlip, from `key` alone.

    Area 8 % to 100 % of the image, aspect ratio 3/4 to 4/3 (log-uniform), flipped with probability 1/2. Where
    ten draws do not fit into the image, the largest central crop of an allowed aspect ratio is taken.
    """
    draw = random.Random(key)
    flip = draw.random() < 0.5
    for _ in range(10):
        area = height * width * draw.uniform(0.08, 1.0)
        ratio = math.exp(draw.uniform(math.log(3 / 4), math.log(4 / 3)))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(draw.random() * (height - crop_height + 1))
            left = int(draw.random() * (width - crop_width + 1))
            return top, left, crop_height, crop_width, flip
    ratio = min(max(width / height, 3 / 4), 4 / 3)
    crop_width, crop_height = min(width, round(height * ratio)), min(height, round(width / ratio))
    crop_width, crop_height = max(crop_width, 1), max(crop_height, 1)
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width, flip


def random_place(room: int, key: int) -> tuple[int, int, bool]:
    """Draws (top, left, flip) from `key` alone: a corner in 0 .. `room` on each axis, and one flip in two."""
    draw = random.Random(key)
    return draw.randint(0, room), draw.randint(0, room), draw.random() < 0.5


@dataclass(frozen=True)
class Transform:
    """Brings an image to `size` x `size` pixels.

    `augment="crop-flip"`: a random crop resized to `size`, flipped half of the time. `augment="none"`: with
    `center_crop`, the shorter side is resized to 256/224 of `size` and the center cut out; without it the
    image is resized to the square as a whole (and left alone where it has that size already).

    `augment="resize-crop-flip"`: the whole image is resized to a square of 256/227 of `size`, whatever its shape, from
    which a random square of `size` is cut, flipped half of the time (the ECAML and DAML papers). It sets
    `resize_square`, with which `augment="none"` resizes likewise and cuts out the center.
    """

    size: int
    augment: str = "none"
    center_crop: bool = False
    resize_square: bool = False

    def __post_init__(self) -> None:
        if self.augment == "resize-crop-flip":
            object.__setattr__(self, "resize_square", True)  # which stays where the augmentation is taken off
        if self.augment not in AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {self.augment!r}")
        if isinstance(self.size, bool) or not isinstance(self.size, int) or self.size < 1:
            raise ValueError(f"image_size must be a positive whole number of pixels, got {self.size!r}")

    @property
    def random(self) -> bool:
        """Whether the result depends on a key."""
        return self.augment != "none"

    def resized(self, image: Tensor) -> Tensor:
        """[C, H, W] at the size that testing looks at it: the shorter side, or a square as a whole; see the class.

        What a cache on disk keeps, as central and random crops alike can be cut from it.
        """
        height, width = image.shape[-2:]
        if self.resize_square:
            to = [round(self.size * 256 / 227)] * 2
        else:
            to = [round(self.size * 256 / 224)] if self.center_crop else [self.size, self.size]
        if min(height, width) == to[0] and (len(to) == 1 or height == width):
            return image
        # Takes seconds to import, and listing the data sets never needs it.
        from torchvision.transforms.v2 import functional as F

        return torch.as_tensor(F.resize(image, to, antialias=True))

    def fixed(self, image: Tensor) -> Tensor:
        """The part that is always the same, [C, H, W] to [C, h, w] of one type; what memory may keep."""
        if self.augment == "crop-flip":
            return image  # whose crops are of every size
        image = self.resized(image)
        if self.random or not (self.center_crop or self.resize_square):
            return image
        from torchvision.transforms.v2 import functional as F

        return torch.as_tensor(F.center_crop(image, [self.size, self.size]))

    def cropped(self, image: Tensor, key: int) -> Tensor:
        """The random part, [C, h, w] to [C, size, size] of the same type: a function of (image, key) alone."""
        if not self.random:
            return image
        from torchvision.transforms.v2 import functional as F

        if self.augment == "resize-crop-flip":
            top, left, flip = random_place(image.shape[-1] - self.size, key)
            image = image[..., top : top + self.size, left : left + self.size]
        else:
            top, left, height, width, flip = random_resized_crop_box(image.shape[-2], image.shape[-1], key)
            image = F.resized_crop(image, top, left, height, width, [self.size, self.size], antialias=True)
        return torch.as_tensor(F.horizontal_flip(image) if flip else image)

    def finish(self, image: Tensor, key: int) -> Tensor:
        """What is left after `fixed`: the random part, and the step to float32 in [0, 1].

        A function of (image, key) alone. `image` may be a batch [B, C, size, size] where the transform is not
        random.
        """
        return to_float(self.cropped(image, key))

    def for_testing(self) -> Transform:
        """The same without augmentation."""
        return replace(self, augment="none")
