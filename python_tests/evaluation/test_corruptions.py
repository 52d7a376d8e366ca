"""Common corruptions: any size, one or three channels, worse by severity, the same for an image whatever its batch."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from robustdml_ext.evaluation import CORRUPTIONS, corrupt
from robustdml_ext.evaluation.corruptions import corrupted, parse


def photo(size: int = 64, channels: int = 3, count: int = 2) -> torch.Tensor:
    """Smooth shapes with edges, between 0.1 and 0.9."""
    axis = torch.linspace(0, 1, size)
    base = 0.5 + 0.2 * torch.sin(9 * axis)[:, None] * torch.cos(5 * axis) + 0.2 * (axis[:, None] + axis > 1)
    shades = torch.linspace(0.7, 1, channels)[:, None, None]
    return torch.stack([(base * shades).roll(7 * i, -1) for i in range(count)])


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(CORRUPTIONS)),
    st.integers(1, 5),
    st.integers(8, 40),
    st.integers(8, 40),
    st.sampled_from([1, 3]),
    st.integers(0, 2**40),
)
def test_any_image_keeps_its_form(name: str, severity: int, height: int, width: int, channels: int, seed: int) -> None:
    images = torch.rand(3, channels, height, width, generator=torch.Generator().manual_seed(seed % 97))
    before, state = images.clone(), torch.get_rng_state()
    together = corrupt(images, name, severity, seed=seed)
    assert together.shape == images.shape and together.dtype == images.dtype and together.is_contiguous()
    assert together.min() >= 0 and together.max() <= 1 and together.isfinite().all()
    alone = torch.cat([corrupt(images[i : i + 1], name, severity, seed=seed, first=i) for i in range(3)])
    assert torch.equal(together, alone)
    assert torch.equal(images, before) and torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", sorted(CORRUPTIONS))
def test_worse_by_severity(name: str) -> None:
    images = photo(224, count=8)  # as a motion's angle is drawn anew
    distances = [(corrupt(images, name, severity) - images).square().mean().item() for severity in range(1, 6)]
    assert distances[0] > 1e-6
    if name == "pixelate":  # of smooth images half the resolution keeps more than 0.6 of it does
        distances = distances[::2]
    assert all(b > 1.02 * a for a, b in itertools.pairwise(distances)), distances


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise", "impulse_noise", "motion_blur"])
def test_what_is_random_is_drawn_for_each_image_and_seed(name: str) -> None:
    images = photo(64, count=1).expand(3, -1, -1, -1)
    found = corrupt(images, name, 3, seed=5)
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])
    assert not torch.equal(found, corrupt(images, name, 3, seed=6))
    assert torch.equal(found[2:], corrupt(images[2:], name, 3, seed=5, first=2))


def test_numbers_are_what_they_say() -> None:
    grey = torch.full((4, 3, 128, 128), 0.5)
    noise = corrupt(grey, "gaussian_noise", 1) - grey
    assert noise.std().item() == pytest.approx(0.08, rel=0.02) and abs(noise.mean().item()) < 1e-3
    shot = corrupt(grey, "shot_noise", 1) - grey
    assert shot.std().item() == pytest.approx((0.5 / 60) ** 0.5, rel=0.02)
    impulse = corrupt(grey, "impulse_noise", 5)
    for value in (0.0, 1.0):
        assert (impulse == value).float().mean().item() == pytest.approx(0.27 / 2, rel=0.05)
    assert ((impulse == 0.5) | (impulse == 0) | (impulse == 1)).all()
    image = photo()
    contrast = corrupt(image, "contrast", 2)
    means = image.mean((2, 3), keepdim=True)
    torch.testing.assert_close(contrast, means + 0.3 * (image - means))
    bright = corrupt(image, "brightness", 1)
    torch.testing.assert_close(bright.amax(1), (image.amax(1) + 0.1).clamp(max=1))
    torch.testing.assert_close(bright[:, 0] * image[:, 2], bright[:, 2] * image[:, 0])  # the same hue
    assert corrupt(torch.zeros(1, 3, 8, 8), "brightness", 1).eq(0.1).all()


@pytest.mark.parametrize("name", ["gaussian_blur", "defocus_blur", "motion_blur"])
def test_blurs_keep_the_light_and_scale_with_the_image(name: str) -> None:
    spot = torch.zeros(1, 1, 224, 224)
    spot[..., 112, 112] = 1
    widths = []
    for size in (224, 112):
        image = spot if size == 224 else torch.nn.functional.max_pool2d(spot, 2)
        blurred = corrupt(image, name, 4)
        assert blurred.sum().item() == pytest.approx(1, abs=1e-3)
        axis = torch.arange(size, dtype=torch.float64)
        rows, columns = blurred[0, 0].double().sum(1), blurred[0, 0].double().sum(0)
        variance = sum(((weight * axis**2).sum() - (weight * axis).sum() ** 2).item() for weight in (rows, columns))
        widths.append(variance**0.5)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.2)
    if name == "gaussian_blur":
        assert widths[0] == pytest.approx(4 * 2**0.5, rel=0.02)
    if name == "defocus_blur":  # a disk of radius r: r / √2 in the root of the summed variances
        assert widths[0] == pytest.approx(8 / 2**0.5, rel=0.03)


def test_pixelate_and_jpeg_against_their_definitions() -> None:
    image = photo(40, count=1)
    coarse = corrupt(image, "pixelate", 5)
    for channel in coarse[0]:
        assert len(channel.unique()) <= 100  # 40 · 0.25 = 10 pixels a side
    torch.testing.assert_close(coarse[0, :, :4, :4], image[0, :, :4, :4].mean((1, 2))[:, None, None].expand(3, 4, 4))
    stored = (image[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    buffer = io.BytesIO()
    Image.fromarray(stored).save(buffer, "JPEG", quality=25)
    expected = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).permute(2, 0, 1) / 255
    found = corrupt(image, "jpeg", 1)[0]
    assert torch.equal(found, expected.float()) and (found - image[0]).abs().mean() > 1e-3


def test_batches_are_numbered_through() -> None:
    images, labels = photo(16, count=5), torch.arange(5)
    batches = [(images[:2], labels[:2]), (images[2:], labels[2:])]
    found = list(corrupted(batches, "shot_noise", 2, seed=3))
    assert torch.equal(torch.cat([x for x, _ in found]), corrupt(images, "shot_noise", 2, seed=3))
    assert torch.equal(torch.cat([y for _, y in found]), labels)


def test_errors() -> None:
    images = photo(16)
    for arguments, message in (
        ((images, "fog", 1), "corruption"), ((images, "jpeg", 0), "severity"), ((images[:, :2], "jpeg", 1), "images"),
        ((images[..., :7], "jpeg", 1), "images"), ((images[0], "jpeg", 1), "images"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            corrupt(*arguments)
    with pytest.raises(TypeError, match="uint8"):
        corrupt((images * 255).to(torch.uint8), "jpeg", 1)
    assert parse(("all",)) == tuple(CORRUPTIONS) and parse(("jpeg",)) == ("jpeg",)
