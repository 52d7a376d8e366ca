"""Images a second from JPEG files of 500 x 375 pixels to batches of 224 x 224: decoded each time, or out of the cache.

The files are noise with the spectrum of photographs (amplitude falling as 1 / frequency), so that they decode at the
speed of photographs. "train" crops at random, "test" centrally.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robustdml_ext.data import EpochLoader, LabeledImages
from robustdml_ext.data.cache import cached_source
from robustdml_ext.data.sources import FileSource, Source
from robustdml_ext.data.transforms import Transform

BATCH, BATCHES = 64, 4
IMAGES = BATCH * BATCHES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(375)[:, None], np.fft.fftfreq(500)[None])
    frequency[0, 0] = 1.0
    paths = []
    for i in range(IMAGES):
        grey, *tint = (np.fft.ifft2(np.fft.fft2(random.normal(size=(375, 500))) / frequency).real for _ in range(4))
        pixels = np.stack([grey + 0.3 * t for t in tint], -1)
        pixels = 128 + 50 * (pixels - pixels.mean()) / pixels.std()
        paths.append(folder / f"{i}.jpg")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(paths[-1], quality=92)
    return paths


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("task", ["train", "test"])
@pytest.mark.parametrize("variant", ["ours", "decoded each time"])
def test_reading(
    measure: Callable[..., None],
    photographs: list[Path],
    tmp_path_factory: pytest.TempPathFactory,
    variant: str,
    task: str,
    workers: int,
) -> None:
    transform = Transform(224, "crop-flip" if task == "train" else "none", center_crop=True)
    source: Source = FileSource(photographs, 3)
    if variant == "ours":
        source = cached_source(FileSource(photographs, 3), tmp_path_factory.getbasetemp() / "cache", transform)
    images = LabeledImages(source, torch.arange(IMAGES) % 8, [str(c) for c in range(8)], transform)
    once = [list(range(start, start + BATCH)) for start in range(0, IMAGES, BATCH)]
    batches = once * (8 if workers else 1)  # enough that starting the processes hardly counts

    def read() -> None:
        for _ in EpochLoader(images, seed=0, num_workers=workers).epoch(batches, epoch=0):
            pass

    processes = f"{workers} processes" if workers else "in this process"
    measure(f"reading, {task}, {processes}, {BATCH * len(batches)} images", variant, read, rounds=5)
