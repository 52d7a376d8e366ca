"""Small data sets on disk, in the layouts that the loaders promise to read, and photographs for a cache to keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from python_tests.data.cached import SIZES
from python_tests.data.images import write_image
from python_tests.data.layouts import write_sop


@pytest.fixture
def sop_folder(tmp_path: Path) -> Path:
    """Stanford Online Products' layout: train classes 1-3, test 4-5, four JPEGs each; one of them gray."""
    return write_sop(tmp_path / "Stanford_Online_Products", {"train": (1, 2, 3), "test": (4, 5)})


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes class folders of PNGs: `make_folder({"cat": 3, "dog": 2}, mode="L", size=(12, 12))`."""

    def make(classes: dict[str, int], mode: str = "L", size: tuple[int, int] = (12, 12)) -> Path:
        root = tmp_path / "images"
        for position, (name, count) in enumerate(classes.items()):
            (root / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                write_image(root / name / f"{i:02d}.png", 100 * position + i, mode, size)
        return root

    return make


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Files of photographs in several sizes, for a cache to keep."""
    made = []
    for i, size in enumerate(SIZES):
        made.append(tmp_path / "images" / f"{i}.{'jpg' if i % 2 else 'png'}")
        write_image(made[-1], i, "L" if i == 3 else "RGB", size)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the cache is written; made by whoever writes first."""
    return tmp_path / "cache"
