"""What holds for every data set of image files, each in its official layout."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from python_tests.data import layouts
from python_tests.data.images import truncate
from robustdml_ext import data
from robustdml_ext.data.sets import cars196, cub200, cub200_2010, inshop, miniimagenet, omniglot, pacs, sop


@dataclass(frozen=True)
class Case:
    name: str
    kind: type
    write: Callable[[Path], Path]
    inside: str  # the name of the published folder, where the set can also be given by its parent
    splits: dict[str, int] = field(default_factory=dict)  # images in each split
    protocol: str = "default"


def _sop(folder: Path) -> Path:
    return layouts.write_sop(folder, {"train": (1, 2), "test": (3, 4)}, images=3)


def _pacs_lists(folder: Path) -> Path:
    return layouts.write_pacs(folder, images=3, lists=folder / "pacs_label")


CASES = {
    "sop": Case("sop", sop.StanfordOnlineProducts, _sop, "Stanford_Online_Products", {"train": 6, "test": 6}),
    "cub200": Case("cub200", cub200.CUB200, layouts.write_cub200, "CUB_200_2011", {"train": 6, "test": 6}),
    "cub200-2010": Case(
        "cub200-2010", cub200_2010.CUB200Of2010, layouts.write_cub200_2010, "CUB-200", {"train": 6, "test": 6}
    ),
    "cars196, one folder": Case(
        "cars196", cars196.Cars196, layouts.write_cars_one_folder, "cars196", {"train": 8, "test": 8}
    ),
    "cars196, two folders": Case(
        "cars196", cars196.Cars196, layouts.write_cars_two_folders, "stanford_cars", {"train": 8, "test": 8}
    ),
    "inshop": Case(
        "inshop",
        inshop.InShop,
        layouts.write_inshop,
        "In-shop Clothes Retrieval Benchmark",
        {"train": 8, "test": 4, "gallery": 4},
    ),
    "inshop, query-only": Case(
        "inshop", inshop.InShop, layouts.write_inshop, "In-shop", {"train": 8, "test": 4}, "query-only"
    ),
    "pacs": Case("pacs", pacs.PACS, layouts.write_pacs, "PACS", {"train": 42, "test": 14}, "photo"),
    "pacs, lists": Case("pacs", pacs.PACS, _pacs_lists, "kfold", {"train": 42, "test": 21, "validation": 21}, "sketch"),
    "miniimagenet, folders": Case(
        "miniimagenet",
        miniimagenet.MiniImageNet,
        layouts.write_miniimagenet_folders,
        "mini-imagenet",
        {"train": 6, "validation": 3, "test": 6},
    ),
    "miniimagenet, lists": Case(
        "miniimagenet",
        miniimagenet.MiniImageNet,
        layouts.write_miniimagenet_lists,
        "miniImageNet",
        {"train": 6, "validation": 3, "test": 6},
    ),
    "omniglot": Case("omniglot", omniglot.Omniglot, layouts.write_omniglot, "omniglot-py", {"train": 12, "test": 6}),
}
every_layout = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@pytest.fixture
def folder(case: Case, tmp_path: Path) -> Path:
    return case.write(tmp_path / case.inside)


def _load(case: Case, root: Path, **options: Any) -> data.DataSplits:
    return data.load(case.name, root, protocol=case.protocol, **({"image_size": 16} | options))


def _parts(splits: data.DataSplits) -> dict[str, data.LabeledImages]:
    parts = {
        "train": splits.train,
        "test": splits.test,
        "validation": splits.validation,
        "gallery": splits.gallery,
    }
    return {name: part for name, part in parts.items() if part is not None}


@every_layout
def test_loads_from_the_folder_and_from_its_parent(case: Case, folder: Path) -> None:
    for root in (folder, folder.parent):
        splits = _load(case, root)
        parts = _parts(splits)
        assert {name: len(part) for name, part in parts.items()} == case.splits
        assert (splits.name, splits.image_size) == (case.name, 16)
        assert splits.protocol == (
            next(iter(data.protocols(case.name))) if case.protocol == "default" else case.protocol
        )
        for part in parts.values():
            assert part.labels.min() >= 0 and part.labels.max() < len(part.class_names)
            assert len(set(part.paths)) == len(part)
        images, labels = splits.test.batch(range(len(splits.test)))
        assert images.shape == (case.splits["test"], splits.channels, 16, 16) and images.std() > 0.01
        assert torch.equal(labels, splits.test.labels)


@every_layout
def test_zero_shot_says_whether_classes_are_shared(case: Case, folder: Path) -> None:
    splits = _load(case, folder)
    shared = set(splits.train.class_names) & set(splits.test.class_names)
    assert bool(shared) is not splits.zero_shot
    paths = [set(part.paths) for part in _parts(splits).values()]
    assert sum(map(len, paths)) == len(set().union(*paths))


@every_layout
def test_the_data_set_class_has_the_same_images(case: Case, folder: Path) -> None:
    loaded = _parts(_load(case, folder, augment="none"))
    for split, part in loaded.items():
        own = case.kind(folder, split, protocol=case.protocol)
        assert own.paths == part.paths and own.targets == part.labels.tolist() and own.classes == part.class_names
        assert own.class_to_idx[own.classes[-1]] == len(own.classes) - 1
        for index in (0, -1):
            image, target = own[index]
            with Image.open(own.paths[index]) as expected:
                assert image.tobytes() == expected.convert(image.mode).tobytes()
            assert target == own.targets[index] and isinstance(target, int)
        with pytest.raises(IndexError):
            own[len(own)]
        sent = pickle.loads(pickle.dumps(own))  # as to a worker of a DataLoader
        assert sent[1][0].tobytes() == own[1][0].tobytes() and sent.classes == own.classes
    assert f"Number of datapoints: {len(own)}" in repr(own) and f"Split: {split}" in repr(own)
    with pytest.raises(ValueError, match=r"split must be one of train, .*test.* got 'all'"):
        case.kind(folder, "all", protocol=case.protocol)
    with pytest.raises(ValueError, match=r"protocol must be one of .* got 'other'"):
        case.kind(folder, protocol="other")


@every_layout
def test_works_with_a_data_loader_and_transforms(case: Case, folder: Path) -> None:
    transform = v2.Compose([v2.ToImage(), v2.Resize((8, 8)), v2.ToDtype(torch.float32, scale=True)])
    own = case.kind(
        str(folder), transform=transform, target_transform=lambda label: label + 100, protocol=case.protocol
    )
    images, labels = next(iter(DataLoader(own, batch_size=5)))
    assert images.shape[0] == 5 and images.shape[2:] == (8, 8) and 0 <= images.min() < images.max() <= 1
    assert labels.tolist() == [100 + label for label in own.targets[:5]]


@every_layout
def test_counts_are_checked_when_asked(case: Case, folder: Path) -> None:
    assert len(_load(case, folder, check_counts=False).train) == case.splits["train"]
    with pytest.raises(
        data.DataError, match=r"is not the published set: .* against the published .*check_counts=False"
    ):
        _load(case, folder, check_counts=True)
    with pytest.raises(data.DataError, match="is not the published set"):
        case.kind(folder, protocol=case.protocol, check_counts=True)


@every_layout
def test_a_damaged_image_is_named_when_it_is_read(case: Case, folder: Path) -> None:
    victim = _load(case, folder).test.paths[1]
    truncate(victim)
    with pytest.raises(data.BrokenImageError, match=victim.name):
        _load(case, folder).test.batch([1])
    with pytest.raises(data.BrokenImageError, match=victim.name):
        case.kind(folder, "test", protocol=case.protocol)[1]
    with pytest.warns(UserWarning, match=victim.name):
        assert sum(len(labels) for _, labels in _load(case, folder, on_broken="skip").test.iterate(4)) == (
            case.splits["test"] - 1
        )


_LISTED = [key for key in CASES if key not in ("pacs", "miniimagenet, folders", "omniglot")]


@pytest.mark.parametrize("case", [CASES[key] for key in _LISTED], ids=_LISTED)
def test_a_missing_listed_image_is_named_before_training(case: Case, folder: Path) -> None:
    victim = _load(case, folder).test.paths[1]
    victim.unlink()
    message = rf"1 of the \d+ listed images are missing: .*{victim.name}"
    with pytest.raises(data.DataError, match=message):
        _load(case, folder)
    with pytest.raises(data.DataError, match=message):
        case.kind(folder, "test", protocol=case.protocol)
    if case.protocol == "default":
        assert not next(p for p in data.probe(folder) if p.name == case.name).found
    splits = _load(case, folder, on_broken="skip")
    with pytest.warns(UserWarning, match=victim.name):
        splits.test.batch([1])


@every_layout
def test_published_size_and_channels_are_the_default(case: Case, folder: Path) -> None:
    splits = data.load(case.name, folder, protocol=case.protocol)
    expected = {"omniglot": (28, 1), "miniimagenet": (84, 3)}.get(case.name, (224, 3))
    assert (splits.image_size, splits.channels) == expected
    assert splits.test[0].shape == (expected[1], expected[0], expected[0])
    photographs = case.name != "omniglot"
    assert splits.train.transform.augment == ("crop-flip" if photographs else "none")
    assert splits.train.transform.center_crop is photographs
    for part in _parts(splits).values():
        assert part is splits.train or part.transform.augment == "none"
    assert data.load(case.name, folder, protocol=case.protocol, cache="memory", channels=1).train.cache


@every_layout
def test_a_cache_on_disk_takes_the_place_of_the_files(case: Case, folder: Path, tmp_path: Path) -> None:
    read = _parts(_load(case, folder, augment="none"))
    for again in range(2):
        cached = _parts(_load(case, folder, augment="none", cache=str(tmp_path / "cache")))
        for name, part in cached.items():
            assert part.paths == read[name].paths and not part.cache
            everything = range(len(part))
            assert torch.equal(part.batch(everything)[0], read[name].batch(everything)[0])
        assert len(list((tmp_path / "cache").glob("*.cache"))) == len(read), again
    truncate(read["test"].paths[0])
    with pytest.raises(data.BrokenImageError, match=read["test"].paths[0].name):
        _load(case, folder, augment="none", cache=str(tmp_path / "cache"))
