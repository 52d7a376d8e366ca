"""Photographs to keep in a cache, and what is read through it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from robustdml_ext.data import LabeledImages, evaluation_batches
from robustdml_ext.data.sources import Source
from robustdml_ext.data.transforms import Transform

# Wide, tall, square, as large as what is kept, smaller than it, a pixel off, and grey.
SIZES = [(90, 70), (70, 90), (80, 80), (73, 73), (40, 30), (73, 74), (121, 73), (300, 61)]
PHOTOGRAPHS = Transform(64, center_crop=True)  # keeps images with a shorter side of 73 pixels


def labeled(source: Source, transform: Transform, on_broken: str = "error") -> LabeledImages:
    return LabeledImages(source, torch.arange(len(source)) % 2, ["a", "b"], transform, on_broken=on_broken)


def cache_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.cache"))


def all_images(images: LabeledImages) -> Tensor:
    return torch.cat([batch for batch, _ in evaluation_batches(images, 3)])
