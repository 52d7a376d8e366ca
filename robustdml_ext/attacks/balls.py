"""What every attack on images shares: its arguments' checks, random starts, and each sample's best iterate."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustdml_ext import ops

NORMS = ("linf", "l2")


def check_images(images: object) -> None:
    """Checks a batch of images with pixels in [0, 1].

    Raises:
        TypeError: no floating-point tensor.
        ValueError: no batch, or pixels outside of [0, 1] (looked at on the CPU).
    """
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor with pixels in [0, 1], got {got}")
    if images.dim() < 2:
        raise ValueError(f"images: expected a batch [B, C, H, W], got shape {list(images.shape)}")
    # On CUDA the look would wait for the device.
    if images.is_cpu and images.numel():
        lowest, highest = (float(bound) for bound in images.detach().aminmax())
        if lowest < 0 or highest > 1:
            raise ValueError(f"images: expected pixels in [0, 1], got {lowest:.4g} to {highest:.4g}")


def check_ball(epsilon: float | Tensor, norm: str) -> None:
    """Raises ValueError for a radius below 0 or an unknown norm."""
    if not isinstance(epsilon, Tensor) and not epsilon >= 0:
        raise ValueError(f"epsilon: expected a number >= 0, got {epsilon}")
    if norm not in NORMS:
        raise ValueError(f"norm: expected 'linf' or 'l2', got {norm!r}")


def check_starts(random_start: float, restarts: int) -> None:
    """Raises ValueError for a negative radius of the noise, no restart, or several from the same start."""
    if not random_start >= 0:
        raise ValueError(f"random_start: expected a number >= 0, got {random_start}")
    if restarts < 1:
        raise ValueError(f"restarts: expected a number >= 1, got {restarts}")
    if restarts > 1 and random_start == 0:
        raise ValueError(f"restarts: {restarts} from the same start are all the same; set random_start")


def per_sample(values: Tensor, images: Tensor) -> Tensor:
    """Values `[B]` as `[B, 1, …]`, to go with the images."""
    return values.reshape((-1,) + (1,) * (images.dim() - 1))


def generator_on(device: torch.device, generator: torch.Generator | None) -> torch.Generator | None:
    """The generator itself where it is of that device, else one of that device, seeded with a number from it."""
    if generator is None or generator.device == device:
        return generator
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    return torch.Generator(device).manual_seed(seed)


def uniform_noise(
    images: Tensor, radius: float, norm: str, generator: torch.Generator | None = None, rows: int | None = None
) -> Tensor:
    """Noise `[B, C, H, W]`, uniform in the ball of a radius, with the dtype and device of the images.

    Args:
        images: `[B, C, H, W]`.
        radius: in pixels, in the norm.
        norm: `"linf"` or `"l2"`.
        generator: None for PyTorch's global one; one of another device seeds one of the images' device.
        rows: how many samples to draw for, instead of B.
    """
    own = generator_on(images.device, generator)
    shape = (len(images) if rows is None else rows, *images.shape[1:])
    options: dict[str, Any] = {"generator": own, "dtype": images.dtype, "device": images.device}
    if norm == "linf":
        return (torch.rand(shape, **options) * 2 - 1) * radius
    direction = torch.randn(shape, **options)
    length = per_sample(direction.flatten(1).norm(dim=1), images).clamp_min(torch.finfo(images.dtype).tiny)
    # In d dimensions the share r^d of a ball's volume lies within the share r of its radius.
    share = torch.rand(shape[:1], **options) ** (1 / direction[0].numel())
    offset: Tensor = radius * per_sample(share, images) * direction / length
    return offset


def start_from(clean: Tensor, noise: Tensor | None, epsilon: float | Tensor, norm: str) -> Tensor:
    """Where an attack starts: the images, or the images with noise, projected to the ball and the pixel range.

    Raises:
        ValueError: the noise does not have the images' shape.
    """
    if noise is None:
        return clean.clone()
    if noise.shape != clean.shape:
        raise ValueError(f"noise: expected the images' shape {list(clean.shape)}, got {list(noise.shape)}")
    return project_((clean + noise).to(clean.dtype), clean, epsilon, norm)


def project_(images: Tensor, clean: Tensor, epsilon: float | Tensor, norm: str) -> Tensor:
    """Projects images to the ball around the clean ones and to [0, 1], in place; returns them."""
    # A step of length 0 only projects.
    return ops.pgd_step_(images, images, clean, epsilon=epsilon, step_size=0.0, norm=norm)


def improves(values: Tensor, best: Tensor, maximize: bool) -> Tensor:
    """Whose value is strictly better, bool `[B]`; any number is better than NaN, and NaN never better."""
    beyond = values > best if maximize else values < best
    return beyond | (best.isnan() & ~values.isnan())


def better(
    images: Tensor, values: Tensor, best: Tensor | None, best_values: Tensor | None, maximize: bool
) -> tuple[Tensor, Tensor]:
    """Each sample's better one of two iterates, and its value `[B]`; the earlier one where they tie."""
    values = values.detach()
    if best is None or best_values is None:
        return images.clone(), values
    improved = improves(values, best_values, maximize)
    return torch.where(per_sample(improved, images), images, best), torch.where(improved, values, best_values)
