"""Small data sets on disk, in the layouts that the loaders promise to read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from python_tests.data.images import write_image

HEADER = "image_id class_id super_class_id path"


@pytest.fixture
def sop_folder(tmp_path: Path) -> Path:
    """Stanford Online Products' layout: train classes 1-3, test 4-5, four JPEGs each; one of them grey."""
    folder = tmp_path / "Stanford_Online_Products"
    number = 0
    for split, classes in (("train", (1, 2, 3)), ("test", (4, 5))):
        lines = [HEADER]
        for class_id in classes:
            super_class = "bicycle" if class_id % 2 else "cabinet"
            for i in range(4):
                number += 1
                relative = f"{super_class}_final/{1000 + class_id}_{i}.JPG"
                write_image(folder / relative, number, "L" if (class_id, i) == (1, 2) else "RGB", (90, 70))
                lines.append(f"{number} {class_id} {1 + class_id % 2} {relative}")
        (folder / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


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
