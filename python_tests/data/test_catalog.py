from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

import pytest
import torch
from torchvision.datasets import VisionDataset

from python_tests.data import layouts
from robustdml_ext import data
from robustdml_ext.data import sets
from robustdml_ext.data.archives import Archive
from robustdml_ext.data.catalog import SETS

NAMES = (
    "digits", "folder", "sop", "cub200", "cub200-2010", "cars196", "inshop", "mnist", "fashion-mnist", "cifar10",
    "pacs", "miniimagenet", "omniglot", "voxceleb", "voxceleb2",
)  # fmt: skip


def test_names() -> None:
    assert set(data.NAMES) == set(NAMES)
    assert all("\n" not in line and line.startswith(SETS[name].summary) for name, line in data.NAMES.items())
    assert data.NAMES["inshop"].endswith("; protocols: query-gallery, query-only") and "proto" not in data.NAMES["sop"]


@pytest.mark.parametrize("name", NAMES)
def test_every_module_keeps_to_the_form(name: str) -> None:
    module = data.catalog.data_set(name)
    assert module.__doc__ and module.WHERE
    described = module.PROTOCOLS
    assert described and all("\n" not in line for line in described.values())
    assert data.protocols(name) == dict(described)
    assert all(isinstance(archive, Archive) for archive in module.ARCHIVES)
    assert callable(module.load) and callable(module.probe)


@pytest.mark.parametrize("name", NAMES)
def test_summary_and_protocols_are_those_of_the_module(name: str) -> None:
    module = data.catalog.data_set(name)
    assert (SETS[name].summary, SETS[name].protocols) == (getattr(module, "SUMMARY", None), tuple(module.PROTOCOLS))
    assert len(SETS[name].summary) < 120


def test_listing_imports_no_module_of_a_data_set() -> None:
    code = (
        "import sys, robustdml_ext.data as d; assert len(d.NAMES) > 3; "
        "print([m for m in sys.modules if m.startswith('robustdml_ext.data.sets.') or m == 'torchvision'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "cifar"}, "unknown data set 'cifar'; known: digits, "),
        ({"name": "digits", "channels": 2}, "channels must be 1 or 3, got 2"),
        ({"name": "digits", "image_size": 0}, "image_size .* got 0"),
        ({"name": "digits", "image_size": True}, "image_size .* got True"),
        ({"name": "digits", "augment": "mixup"}, "augment must be one of .* got 'mixup'"),
        ({"name": "digits", "on_broken": "ignore"}, "on_broken must be one of error, skip, got 'ignore'"),
        ({"name": "digits", "cache": " "}, "cache must be .* got ' '"),
        ({"name": "digits", "cache": __file__}, "cache must be .* a folder, got "),
        ({"name": "digits", "train_classes": "x.txt"}, "train_classes is for"),
        ({"name": "folder", "root": "x", "check_counts": True}, "check_counts is for"),
        ({"name": "digits", "check_counts": False}, "check_counts is for"),
        ({"name": "inshop", "root": "x", "protocol": "open"}, "must be one of query-gallery, query-only .* 'inshop'"),
        ({"name": "sop", "root": "x", "protocol": "official"}, "must be one of zero-shot for .* 'sop', got 'official'"),
        ({"name": "sop", "root": "x", "sound": data.SoundOptions()}, "sound is for data sets of recordings, .* 'sop'"),
        ({"name": "sop", "root": "x", "augment": "crop"}, "augment must be one of default, crop-flip.* got 'crop'"),
        (
            {"name": "voxceleb", "root": "x", "augment": "crop-flip"},
            "augment must be .*'voxceleb', which is sound",
        ),
        ({"name": "voxceleb", "root": "x", "image_size": 30}, "image_size is for images, got 30 with 'voxceleb'"),
        (
            {"name": "voxceleb2", "root": "x", "channels": 3},
            "channels must be 1 for 'voxceleb2', which is sound",
        ),
        (
            {"name": "voxceleb", "root": "x", "cache": "folder"},
            "cache must be default, memory or none for 'voxceleb'",
        ),
        ({"name": "voxceleb", "root": "x", "augment": "noise-reverb"}, "'noise-reverb' needs a folder of noise"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [name for name in NAMES if name != "digits"])
def test_what_is_not_there_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    where = data.catalog.data_set(name).WHERE
    with pytest.raises(data.DataError) as error:
        data.load(name)
    assert f"{name!r} needs --root" in str(error.value) and where in str(error.value)
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(data.DataError) as error:
            data.load(name, root)
        assert where in str(error.value) and str(root) in str(error.value)


def test_probe(sop_folder: Path, make_folder: Callable[..., Path], tmp_path: Path) -> None:
    found = {p.name: p for p in data.probe(str(sop_folder))}
    assert set(found) == set(data.NAMES)
    assert [name for name, p in found.items() if p.found] == ["digits", "folder", "sop"]
    assert "train 12 images of 3 classes" in found["sop"].detail and "not the published" in found["sop"].detail
    found = {p.name: p for p in data.probe(make_folder({"a": 1, "b": 2, "c": 1}))}
    assert not found["sop"].found and "lifted_struct" in found["sop"].detail
    assert found["folder"].found and "4 images in 1 training and 2 test classes" in found["folder"].detail
    for root in (None, str(tmp_path / "nowhere")):
        assert [p.name for p in data.probe(root) if p.found] == ["digits"]


def test_probe_finds_each_layout_as_itself(tmp_path: Path) -> None:
    writers = {
        "cub200": layouts.write_cub200,
        "cub200-2010": layouts.write_cub200_2010,
        "cars196": layouts.write_cars_two_folders,
        "inshop": layouts.write_inshop,
        "pacs": layouts.write_pacs,
        "miniimagenet": layouts.write_miniimagenet_folders,
        "omniglot": layouts.write_omniglot,
    }
    for name, write in writers.items():
        found = [p.name for p in data.probe(write(tmp_path / name)) if p.found and p.name not in ("digits", "folder")]
        assert found == [name]


def test_a_module_that_cannot_be_imported_is_said_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(name: str) -> object:
        raise ImportError("No module named 'wave'")

    monkeypatch.setattr("robustdml_ext.data.catalog.import_module", broken)
    assert {(p.found, p.detail) for p in data.probe(tmp_path)} == {(False, "No module named 'wave'")}


def test_download_only_where_nothing_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Sequence[Archive], Path]] = []

    def download(archives: Sequence[Archive], root: Path) -> None:
        asked.append((archives, root))
        layouts.write_omniglot(root)

    monkeypatch.setattr("robustdml_ext.data.catalog.download_archives", download)
    for _ in range(2):
        assert len(data.load("omniglot", tmp_path / "new", download=True).train) == 12
    omniglot = import_module("robustdml_ext.data.sets.omniglot")
    assert asked == [(omniglot.ARCHIVES, tmp_path / "new")] and len(omniglot.ARCHIVES) == 2


def test_archives_that_lie_there_are_unpacked_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, root = layouts.write_omniglot(tmp_path / "made"), tmp_path / "root"
    root.mkdir()
    parts = ("images_background", "images_evaluation")
    for part in parts:
        shutil.make_archive(str(root / part), "zip", made, part)
    omniglot = import_module("robustdml_ext.data.sets.omniglot")
    archives = tuple(Archive(f"https://nowhere.invalid/{part}.zip", f"{part}.zip", None) for part in parts)
    monkeypatch.setattr(omniglot, "ARCHIVES", archives)
    with pytest.raises(data.DataError, match="Omniglot not found"):
        data.load("omniglot", root)
    splits = data.load("omniglot", root, download=True)
    assert torch.equal(splits.test[3], data.load("omniglot", made).test[3]) and len(splits.train) == 12


def test_download_without_an_address_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(data.DataError, match=r"'inshop' cannot be downloaded: .* agreement"):
        data.load("inshop", tmp_path, download=True)
    layouts.write_inshop(tmp_path)
    assert len(data.load("inshop", tmp_path, download=True).test) == 4
    assert data.load("digits", download=True).name == "digits"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(layouts.write_cub200(tmp_path / "CUB_200_2011").parent))
    assert len(data.load("cub200", "~/CUB_200_2011").train) == 6
    assert next(p for p in data.probe("~") if p.name == "cub200").found


def test_one_class_is_too_few(sop_folder: Path, make_folder: Callable[..., Path]) -> None:
    data.check_classes(data.load("sop", sop_folder))
    with pytest.raises(data.DataError, match=r"leaves one class to train on, 'a'.*train_classes"):
        data.check_classes(data.load("folder", make_folder({"a": 1, "b": 1, "c": 1})))


def test_every_entry_has_a_module_beside_the_others() -> None:
    folder = Path(data.__file__).parent / "sets"
    assert {entry.module for entry in SETS.values()} == {f.stem for f in folder.glob("*.py") if f.name[0] != "_"}


def test_the_data_set_classes_are_torchvisions() -> None:
    assert len(sets.__all__) == len(NAMES) - 1, "one for each but the digits, which are no files"
    for name in sets.__all__:
        kind = getattr(sets, name)
        assert issubclass(kind, VisionDataset) and kind.__name__ == name and kind.__doc__
    with pytest.raises(AttributeError, match="has no attribute 'CUB300'"):
        _ = sets.CUB300
