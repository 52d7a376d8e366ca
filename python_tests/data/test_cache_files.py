"""Cache files that are damaged, foreign or gone, builds that end early, and several builds at once."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import warnings
from pathlib import Path

import pytest
import torch

from python_tests.data.cached import PHOTOGRAPHS, cache_files
from robustdml_ext.data import cache as cache_module
from robustdml_ext.data import lock
from robustdml_ext.data.cache import cached_source
from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.sources import FileSource
from robustdml_ext.data.transforms import Transform


@pytest.mark.parametrize("content", [b"somebody's thesis", b"x" * 1000])
def test_a_foreign_file_is_named_and_left_alone(paths: list[Path], folder: Path, content: bytes) -> None:
    file = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).file
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(file)) + " is no image cache"):
        cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    assert file.read_bytes() == content


def test_the_cache_of_other_images_is_named(paths: list[Path], folder: Path) -> None:
    one = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).file
    other = cached_source(FileSource(paths, 1), folder, PHOTOGRAPHS).file
    one.write_bytes(other.read_bytes())
    with pytest.raises(DataError, match=re.escape(str(one)) + " is a cache of other images"):
        cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)


@pytest.mark.parametrize("kept", [0, 10, 63, 64, 100, 0.5, -64, -1])
def test_a_cut_off_cache_is_built_again(paths: list[Path], folder: Path, kept: float) -> None:
    source = FileSource(paths, 3)
    file = cached_source(source, folder, PHOTOGRAPHS).file
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    with pytest.warns(UserWarning, match=re.escape(str(file)) + ".*built again"):
        cached = cached_source(source, folder, PHOTOGRAPHS)
    assert file.read_bytes() == whole
    assert torch.equal(cached.read(7), PHOTOGRAPHS.resized(source.read(7)))


def test_a_damaged_index_is_built_again(paths: list[Path], folder: Path) -> None:
    file = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).file
    whole = file.read_bytes()
    file.write_bytes(whole[:-100] + bytes([whole[-100] ^ 1]) + whole[-99:])
    with pytest.warns(UserWarning, match="index .* is damaged"):
        cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["a flipped bit", "zeros"])
def test_damaged_pixels_are_named_when_read(paths: list[Path], folder: Path, damage: str) -> None:
    cached = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    with open(cached.file, "r+b") as handle:
        handle.seek(1000)
        byte = handle.read(1)[0]
        handle.seek(1000)
        handle.write(bytes([byte ^ 16]) if damage == "a flipped bit" else bytes(64))
    fresh = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    with pytest.raises(DataError, match=re.escape(str(fresh.file)) + " is damaged at image 0") as caught:
        fresh.read(0)
    assert not isinstance(caught.value, BrokenImageError)  # the image itself is fine, and not to be skipped
    fresh.read(1)


def test_a_cache_that_is_gone_is_named(paths: list[Path], folder: Path) -> None:
    sent = pickle.dumps(cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS))
    (file,) = cache_files(folder)
    file.unlink()
    with pytest.raises(DataError, match=re.escape(str(file))):
        pickle.loads(sent).read(0)


def test_a_folder_that_cannot_be_written_is_named(paths: list[Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=re.escape(str(tmp_path / "file"))):
        cached_source(FileSource(paths, 3), tmp_path / "file" / "cache", PHOTOGRAPHS)


def test_a_build_that_ends_leaves_nothing(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cache_module.Writer, "finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    assert [file for file in folder.iterdir() if not file.name.endswith(".lock")] == []


def test_what_a_killed_build_left_is_removed(paths: list[Path], folder: Path) -> None:
    name = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).file.name
    (folder / name).unlink()
    (folder / f".{name}.0123.part").write_bytes(b"the rest")
    (folder / ".images-of-another.cache.0123.part").write_bytes(b"another's")
    cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    assert [file.name for file in folder.glob(".*.part")] == [".images-of-another.cache.0123.part"]


def build_in_a_process(paths: list[Path], folder: Path, gate: object, results: object) -> None:
    gate.wait()  # type: ignore[attr-defined]
    with warnings.catch_warnings(record=True) as caught:
        cached = cached_source(FileSource(paths, 3), folder, Transform(16), workers=1)
        total = sum(int(cached.read(i).sum()) for i in range(len(cached)))
    results.put((total, len(caught), cached.file.stat().st_ino))  # type: ignore[attr-defined]


def test_processes_at_once_build_one_cache(paths: list[Path], folder: Path) -> None:
    source = FileSource(paths * 10, 3)
    assert source.paths is not None
    context = multiprocessing.get_context("fork")
    gate, results = context.Barrier(3), context.Queue()
    arguments = (source.paths, folder, gate, results)
    processes = [context.Process(target=build_in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    expected = sum(int(Transform(16).resized(source.read(i)).sum()) for i in range(len(source)))
    assert [total for total, _, _ in found] == [expected] * 3
    assert len({inode for _, _, inode in found}) == 1  # the file that the first built is the one all read
    assert sum(warned for _, warned, _ in found) == 0


def test_builders_that_cannot_lock_do_not_harm_each_other(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "fcntl", None)
    source = FileSource(paths, 3)
    real, builds = cache_module._decoded, []

    def another_meanwhile(*arguments: object) -> object:
        builds.append(len(builds))
        if len(builds) == 1:
            cached_source(source, folder, PHOTOGRAPHS)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(cache_module, "_decoded", another_meanwhile)
    outer = cached_source(source, folder, PHOTOGRAPHS)
    assert all(torch.equal(outer.read(i), PHOTOGRAPHS.resized(source.read(i))) for i in range(len(paths)))
    assert not list(folder.glob(".*.part"))
    assert len(builds) == 2
