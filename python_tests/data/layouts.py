"""Writes small data sets of generated images, each in exactly its official layout on disk."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

from python_tests.data.images import write_image

BIRDS = {1: "Black_footed_Albatross", 2: "Laysan_Albatross", 101: "White_Pelican", 200: "Common_Yellowthroat"}
CARS = {1: "AM General Hummer SUV 2000", 98: "Dodge Journey SUV 2012", 99: "Dodge Dakota Crew Cab 2010", 196: "smart"}
GARMENTS = {1: "WOMEN/Dresses", 2: "MEN/Denim", 3: "WOMEN/Skirts", 4: "MEN/Tees_Tanks"}
DOMAINS = {"art_painting": "jpg", "cartoon": "jpg", "photo": "jpg", "sketch": "png"}
OBJECTS = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def write_sop(folder: Path, classes: dict[str, Sequence[int]], images: int = 4) -> Path:
    """`classes`: class ids for "train" and "test"."""
    number = 0
    for split, ids in classes.items():
        lines = ["image_id class_id super_class_id path"]
        for class_id in ids:
            for i in range(images):
                number += 1
                relative = f"{'bicycle' if class_id % 2 else 'cabinet'}_final/{1000 + class_id}_{i}.JPG"
                write_image(folder / relative, number, "L" if (class_id, i) == (1, 2) else "RGB", (90, 70))
                lines.append(f"{number} {class_id} {1 + class_id % 2} {relative}")
        (folder / f"Ebay_{split}.txt").write_text("\n".join(lines) + "\n")
    return folder


def _bird_images(folder: Path, images: int, name: str) -> list[tuple[str, int]]:
    relatives = []
    for class_id, bird in BIRDS.items():
        for i in range(images):
            relative = f"{class_id:03d}.{bird}/{bird}_{name.format(i + 1)}.jpg"
            write_image(folder / relative, 10 * class_id + i, "RGB", (30, 24))
            relatives.append((relative, class_id))
    return relatives


def write_cub200(folder: Path, images: int = 3) -> Path:
    listed = _bird_images(folder / "images", images, "{:04d}_18")
    numbered = list(enumerate(listed, start=1))
    _lines(folder / "images.txt", (f"{i} {relative}" for i, (relative, _) in numbered))
    _lines(folder / "image_class_labels.txt", (f"{i} {class_id}" for i, (_, class_id) in numbered))
    _lines(folder / "train_test_split.txt", (f"{i} {i % 2}" for i, _ in numbered))
    _lines(folder / "classes.txt", (f"{class_id} {class_id:03d}.{bird}" for class_id, bird in BIRDS.items()))
    return folder


def write_cub200_2010(folder: Path, images: int = 3) -> Path:
    listed = _bird_images(folder / "images", images, "{:04d}_2950163169")
    _lines(folder / "lists" / "files.txt", (relative for relative, _ in listed))
    _lines(folder / "lists" / "classes.txt", (f"{class_id:03d}.{bird}" for class_id, bird in BIRDS.items()))
    return folder


def _car_records(path_field: str, rows: Sequence[tuple[str, int, int]]) -> np.ndarray:
    boxes = [(f"bbox_{corner}", float) for corner in ("x1", "y1", "x2", "y2")]
    kinds = [*boxes, ("class", float), ("test", float), (path_field, object)]
    return np.array([(1, 2, 20, 22, class_id, test, path) for path, class_id, test in rows], dtype=kinds)


def car_names() -> np.ndarray:
    """All 196 names, as the official file has them: a class's number is its place."""
    return np.array([CARS.get(number, f"Car {number} 2012") for number in range(1, 197)], dtype=object)


def write_cars_one_folder(folder: Path, images: int = 4) -> Path:
    rows = []
    for class_id in CARS:
        for i in range(images):
            relative = f"car_ims/{len(rows) + 1:06d}.jpg"
            write_image(folder / relative, 7 * class_id + i, "RGB", (30, 24))
            rows.append((relative, class_id, i % 2))
    records = _car_records("relative_im_path", rows)
    savemat(folder / "cars_annos.mat", {"annotations": records[None], "class_names": car_names()[None]})
    return folder


def write_cars_two_folders(folder: Path, images: int = 4, test_labels_beside: bool = False) -> Path:
    (folder / "devkit").mkdir(parents=True)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": car_names()[None]})
    for part, parity in (("train", 0), ("test", 1)):
        rows = []
        for class_id in CARS:
            for i in range(parity, images, 2):
                name = f"{len(rows) + 1:05d}.jpg"
                write_image(folder / f"cars_{part}" / name, 7 * class_id + i, "RGB", (30, 24))
                rows.append((name, class_id, parity))
        beside = test_labels_beside and part == "test"
        file = f"cars_{part}_annos{'_withlabels' if part == 'test' else ''}.mat"
        records = _car_records("fname", rows)
        savemat((folder if beside else folder / "devkit") / file, {"annotations": records[None]})
    return folder


def write_inshop(folder: Path, images: int = 4, image_folder: str = "") -> Path:
    """Items 1 and 2 train; of 3 and 4 the first half of the images are queries and the rest the gallery."""
    lines = []
    for item, kind in GARMENTS.items():
        for i in range(images):
            relative = f"img/{kind}/id_{item:08d}/{i + 1:02d}_1_front.jpg"
            write_image(folder / image_folder / relative, 10 * item + i, "RGB", (24, 30))
            part = "train" if item < 3 else ("query" if i < images // 2 else "gallery")
            lines.append(f"{relative:70} id_{item:08d} {part}")
    header = "image_name item_id evaluation_status"
    _lines(folder / "Eval" / "list_eval_partition.txt", [str(len(lines)), header, *lines])
    return folder


def write_pacs(folder: Path, images: int = 2, lists: Path | None = None) -> Path:
    """`lists`: a folder for the published lists; the last image of a class is for cross-validation."""
    for position, (domain, suffix) in enumerate(DOMAINS.items()):
        parts: dict[str, list[str]] = {"train": [], "crossval": [], "test": []}
        for label, name in enumerate(OBJECTS, start=1):
            for i in range(images):
                relative = f"{domain}/{name}/pic_{i + 1:03d}.{suffix}"
                write_image(folder / relative, 100 * position + 10 * label + i, "RGB", (22, 22))
                for part in ("test", "crossval" if i == images - 1 else "train"):
                    parts[part].append(f"{relative} {label}")
        if lists is not None:
            for part, listed in parts.items():
                _lines(lists / f"{domain}_{part}_kfold.txt", listed)
    return folder


def write_miniimagenet_folders(folder: Path, images: int = 3) -> Path:
    for part, classes in _MINI.items():
        for name in classes:
            for i in range(images):
                write_image(folder / part / name / f"{name}_{i}.jpg", _seed(name) + i, "RGB", (30, 24))
    return folder


def write_miniimagenet_lists(folder: Path, images: int = 3) -> Path:
    for part, classes in _MINI.items():
        rows = [(f"{name}{i:08d}.jpg", name) for name in classes for i in range(images)]
        for i, (file, name) in enumerate(rows):
            write_image(folder / "images" / file, _seed(name) + i % images, "RGB", (30, 24))
        with open(folder / f"{part}.csv", "w", newline="") as handle:
            csv.writer(handle).writerows([("filename", "label"), *rows])
    return folder


_MINI = {"train": ("n01532829", "n01558993"), "val": ("n01855672",), "test": ("n01930112", "n01981276")}


def _seed(name: str) -> int:
    return int(name[1:])


def write_omniglot(folder: Path, drawings: int = 3) -> Path:
    alphabets = {"images_background": ("Greek", "Latin"), "images_evaluation": ("Tengwar",)}
    number = 0
    for part, names in alphabets.items():
        for alphabet in names:
            for character in (1, 2):
                number += 1
                place = folder / part / alphabet / f"character{character:02d}"
                place.mkdir(parents=True)
                for i in range(1, drawings + 1):
                    ink = np.random.default_rng(31 * number + i).integers(0, 2, (105, 105), dtype=np.uint8)
                    Image.fromarray(255 * ink).convert("1").save(place / f"{number:04d}_{i:02d}.png")
    return folder


def _lines(file: Path, lines: Iterable[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
