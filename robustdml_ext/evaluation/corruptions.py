"""Common corruptions: noise, blur, brightness, contrast, pixels and JPEG, at five severities.

The kinds and their numbers are those of Hendrycks & Dietterich (2019), ImageNet-C, made for images of 224 pixels. What
is a length there (the width of a blur) is scaled by min(H, W) / 224 to images of another size; what is not (the noise's
deviation, the share of pixels, JPEG's quality, the share of the resolution that pixelation keeps) stays as it is. On
images of few pixels blurs are then hardly any: at 8 pixels the strongest Gaussian has a deviation of 0.2.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

REFERENCE_SIZE = 224
# Lengths shrink with the image down to this side: below, they would vanish within a pixel, and with them the blur.
SHRINKS_TO = 64
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 8

_Rows = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Corruption:
    """One kind of corruption.

    Attributes:
        summary: one line, with the meaning of the numbers.
        severities: the number (or numbers) that each of the five severities has.
        apply: image `[C, H, W]`, the number, and a generator → image, not yet clamped.
    """

    summary: str
    severities: tuple[Any, ...]
    apply: Callable[[Tensor, Any, torch.Generator], Tensor]


def corrupt(images: Tensor, name: str, severity: int, *, seed: int = 0, first: int = 0) -> Tensor:
    """Corrupted images `[B, C, H, W]` in [0, 1], of the dtype and device of `images`.

    What is random is drawn for each image by itself, by `seed`, its number in the data set, and the corruption, so that
    the batch size has no say. Computed on the CPU in float32, so that every device sees the same images.

    Args:
        images: `[B, C, H, W]`, pixels in [0, 1], C = 1 or 3, H and W at least 8.
        name: of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of what is random.
        first: number of the first image in its data set.

    Raises:
        TypeError: images are no floating-point tensor.
        ValueError: another shape, an unknown name, or a severity outside 1 .. 5.
    """
    check_corruption(name, severity)
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor with pixels in [0, 1], got {got}")
    if images.dim() != 4 or images.shape[1] not in (1, 3) or min(images.shape[2:]) < SMALLEST:
        raise ValueError(
            f"images: expected [B, C, H, W] with C = 1 or 3 and at least {SMALLEST} x {SMALLEST} pixels, "
            f"got {list(images.shape)}"
        )
    kind = CORRUPTIONS[name]
    number = kind.severities[severity - 1]
    pixels = images.detach().to("cpu", torch.float32)
    changed = [kind.apply(image, number, _generator(seed, name, severity, first + i)) for i, image in enumerate(pixels)]
    return torch.stack(changed).clamp_(0, 1).to(images) if changed else images.clone()


def corrupted(
    batches: _Rows, name: str, severity: int, *, seed: int = 0, first: int = 0
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches (images `[B, C, H, W]`, labels `[B]`) with every image corrupted; arguments as `corrupt`."""
    for images, labels in batches:
        yield corrupt(images, name, severity, seed=seed, first=first), labels
        first += len(images)


def check_corruption(name: str, severity: int = 1) -> None:
    """Raises ValueError for a corruption or severity that is not offered."""
    if name not in CORRUPTIONS:
        raise ValueError(f"corruption: expected one of {', '.join(CORRUPTIONS)}, got {name!r}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity: expected 1 to 5, got {severity}")


def _generator(seed: int, name: str, severity: int, row: int) -> torch.Generator:
    # A linear congruential step for each part, so that neighboring seeds, rows and kinds share no stream.
    state = seed
    for part in (list(CORRUPTIONS).index(name), severity, row):
        state = (state * 6364136223846793005 + 1442695040888963407 + part) % 2**63
    return torch.Generator().manual_seed(state)


def _length(image: Tensor, length: float) -> float:
    return length * max(min(image.shape[-2:]), SHRINKS_TO) / REFERENCE_SIZE


def _gaussian_noise(image: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    return image + deviation * torch.randn(image.shape, generator=generator)


def _shot_noise(image: Tensor, photons: float, generator: torch.Generator) -> Tensor:
    return torch.poisson(image * photons, generator=generator) / photons


def _impulse_noise(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    chance = torch.rand(image.shape, generator=generator)
    salt = (chance < share / 2).to(image.dtype)
    return torch.where(chance < share, salt, image)


def _gaussian_blur(image: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    sigma = _length(image, deviation)
    # Four deviations hold all of the mass; reflection reaches no further than the image.
    reach = min(math.ceil(4 * sigma), min(image.shape[-2:]) - 1)
    return vision.gaussian_blur_image(image, [2 * reach + 1] * 2, [sigma] * 2) if reach else image


def _defocus_blur(image: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """A disk, with the share of each pixel that lies within it (by 9 x 9 samples), so that any radius counts."""
    radius = math.hypot(_length(image, radius), 0.5)  # a sharp pixel is a disk of its own width
    reach = min(math.ceil(radius), min(image.shape[-2:]) - 1)
    samples = 9
    axis = (torch.arange((2 * reach + 1) * samples) + 0.5) / samples - reach - 0.5
    inside = (axis[:, None] ** 2 + axis**2 <= radius**2).to(image.dtype)
    disk = F.avg_pool2d(inside[None, None], samples)
    return _filter(image, disk / disk.sum(), reach)


def _motion_blur(image: Tensor, numbers: tuple[float, float], generator: torch.Generator) -> Tensor:
    """One half of a Gaussian along a line at -45 to 45 degrees: what a camera leaves that moves one way."""
    length, deviation = (_length(image, number) for number in numbers)
    angle = (torch.rand((), generator=generator, dtype=torch.float64).item() - 0.5) * math.pi / 2
    reach = min(math.ceil(length), min(image.shape[-2:]) - 1)
    samples = 64 * (reach + 1)  # several a pixel, so that a length of half a pixel blurs less than one of a whole
    along = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples * length
    weight = torch.exp(-0.5 * (along / deviation) ** 2)
    row, column = (along * math.sin(angle)).round().long(), (along * math.cos(angle)).round().long()
    line = torch.zeros(2 * reach + 1, 2 * reach + 1, dtype=torch.float64)
    within = (row.abs() <= reach) & (column.abs() <= reach)
    line.index_put_((row[within] + reach, column[within] + reach), weight[within], accumulate=True)
    return _filter(image, (line / line.sum()).to(image.dtype)[None, None], reach)


def _brightness(image: Tensor, shift: float, generator: torch.Generator) -> Tensor:
    """Raises the value of HSV, hue and saturation kept: every channel scaled by what the largest one gains."""
    value = image.amax(0, keepdim=True)
    raised = (value + shift).clamp_max(1)
    return torch.where(value > 0, image * raised / value.clamp_min(1e-12), raised)


def _contrast(image: Tensor, factor: float, generator: torch.Generator) -> Tensor:
    mean = image.mean((-2, -1), keepdim=True)
    return (image - mean) * factor + mean


def _pixelate(image: Tensor, share: float, generator: torch.Generator) -> Tensor:
    small = [max(1, round(side * share)) for side in image.shape[-2:]]
    coarse = F.interpolate(image[None], small, mode="area")
    return F.interpolate(coarse, image.shape[-2:], mode="nearest-exact")[0]


def _jpeg(image: Tensor, quality: float, generator: torch.Generator) -> Tensor:
    stored = (image * 255).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(stored[..., 0] if stored.shape[2] == 1 else stored).save(file, "JPEG", quality=int(quality))
    with Image.open(file) as opened:
        read = np.array(opened, dtype=np.float32) / 255
    return torch.from_numpy(read.reshape(stored.shape)).permute(2, 0, 1)


def _filter(image: Tensor, kernel: Tensor, reach: int) -> Tensor:
    if not reach:
        return image
    padded = F.pad(image[:, None], (reach,) * 4, mode="reflect")
    return F.conv2d(padded, kernel.to(image.dtype))[:, 0]


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": Corruption("noise of this deviation", (0.08, 0.12, 0.18, 0.26, 0.38), _gaussian_noise),
    "shot_noise": Corruption("so many photons in a white pixel", (60, 25, 12, 5, 3), _shot_noise),
    "impulse_noise": Corruption("this share of values black or white", (0.03, 0.06, 0.09, 0.17, 0.27), _impulse_noise),
    "gaussian_blur": Corruption("a Gaussian of this deviation, of 224 pixels", (1, 2, 3, 4, 6), _gaussian_blur),
    "defocus_blur": Corruption("a disk of this radius, of 224 pixels", (3, 4, 6, 8, 10), _defocus_blur),
    "motion_blur": Corruption(
        "half a Gaussian along a line: length and deviation, of 224 pixels",
        ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        _motion_blur,
    ),
    "brightness": Corruption("raises the value of HSV by this", (0.1, 0.2, 0.3, 0.4, 0.5), _brightness),
    "contrast": Corruption("scales the distance from the mean by this", (0.4, 0.3, 0.2, 0.1, 0.05), _contrast),
    "pixelate": Corruption("keeps this share of the resolution", (0.6, 0.5, 0.4, 0.3, 0.25), _pixelate),
    "jpeg": Corruption("JPEG of this quality", (25, 18, 15, 10, 7), _jpeg),
}
ALL_CORRUPTIONS: tuple[str, ...] = tuple(CORRUPTIONS)


def parse(names: Sequence[str]) -> tuple[str, ...]:
    """The corruptions asked for; `("all",)` is all of them.

    Raises:
        ValueError: an unknown name.
    """
    if tuple(names) == ("all",):
        return ALL_CORRUPTIONS
    for name in names:
        check_corruption(name)
    return tuple(names)
