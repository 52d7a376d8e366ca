"""A short run of prototypes on scikit-learn's digits, and its test images as files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from robustdml_ext import data, run

QUICK = (
    "--epochs", "2", "--threads", "1", "--verification-trials", "200",
    "--few-shot-episodes", "5",
)  # fmt: skip


def train(folder: Path) -> Path:
    """Digits 0 to 4; returns the run's folder."""
    assert run.main(["prototypes", *QUICK, "--out", str(folder)]) == 0
    return folder


def write_digits(root: Path, count: int, first: int = 5, last: int = 9) -> Path:
    """So many examples of each of some digits, as PNGs in a folder of the digit's name."""
    splits = data.load("digits")
    for images in (splits.train, splits.test):
        for number, name in enumerate(images.class_names):
            if not first <= int(name) <= last:
                continue
            (root / name).mkdir(parents=True)
            for row in (images.labels == number).nonzero().flatten().tolist()[:count]:
                pixels = (255 * images[row][0]).round().numpy().astype(np.uint8)
                Image.fromarray(pixels).save(root / name / f"{row}.png")
    return root


def judged(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result
