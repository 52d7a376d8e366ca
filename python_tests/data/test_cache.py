from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from python_tests.data.images import truncate, write_image
from robustdml_ext.data import EpochLoader, LabeledImages, evaluation_batches
from robustdml_ext.data import cache as cache_module
from robustdml_ext.data.cache import CachedSource, cached_source
from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.sources import FileSource, Source
from robustdml_ext.data.transforms import Transform

# Wide, tall, square, as large as what is kept, smaller than it, a pixel off, and grey.
SIZES = [(90, 70), (70, 90), (80, 80), (73, 73), (40, 30), (73, 74), (121, 73), (300, 61)]
PHOTOGRAPHS = Transform(64, center_crop=True)  # keeps images with a shorter side of 73 pixels


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    made = []
    for i, size in enumerate(SIZES):
        made.append(tmp_path / "images" / f"{i}.{'jpg' if i % 2 else 'png'}")
        write_image(made[-1], i, "L" if i == 3 else "RGB", size)
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def labeled(source: Source, transform: Transform, on_broken: str = "error") -> LabeledImages:
    return LabeledImages(source, torch.arange(len(source)) % 2, ["a", "b"], transform, on_broken=on_broken)


def cache_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.cache"))


def all_images(images: LabeledImages) -> Tensor:
    return torch.cat([batch for batch, _ in evaluation_batches(images, 3)])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "transform", [PHOTOGRAPHS, Transform(224, center_crop=True), Transform(32), Transform(73), Transform(7)], ids=str
)
def test_evaluation_sees_the_same_pixels_to_the_bit(
    paths: list[Path], folder: Path, transform: Transform, channels: int
) -> None:
    source = FileSource(paths, channels)
    expected = all_images(labeled(source, transform))
    found = all_images(labeled(cached_source(source, folder, transform), transform))
    assert expected.shape == (len(paths), channels, transform.size, transform.size)
    assert torch.equal(found, expected)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=4),
    size=st.integers(1, 90),
    center_crop=st.booleans(),
    channels=st.sampled_from([1, 3]),
)
def test_images_of_every_shape_come_back_to_the_bit(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[tuple[int, int]],
    size: int,
    center_crop: bool,
    channels: int,
) -> None:
    root = tmp_path_factory.mktemp("shapes")
    paths = [root / f"{i}.png" for i in range(len(sizes))]
    for i, (path, shape) in enumerate(zip(paths, sizes, strict=True)):
        write_image(path, i, "RGB" if i % 2 else "L", shape)
    transform, source = Transform(size, center_crop=center_crop), FileSource(paths, channels)
    cached = cached_source(source, root / "cache", transform)
    assert all(torch.equal(cached.read(i), transform.resized(source.read(i))) for i in range(len(paths)))
    assert torch.equal(all_images(labeled(cached, transform)), all_images(labeled(source, transform)))


def test_training_split_is_evaluated_on_the_same_pixels_too(paths: list[Path], folder: Path) -> None:
    transform = Transform(64, "crop-flip", center_crop=True)
    source = FileSource(paths, 3)
    cached = labeled(cached_source(source, folder, transform), transform)
    assert torch.equal(all_images(cached), all_images(labeled(source, transform)))


def test_random_crops_are_cut_from_the_resized_image(paths: list[Path], folder: Path) -> None:
    transform = Transform(64, "crop-flip", center_crop=True)
    source = FileSource(paths, 3)
    cached = labeled(cached_source(source, folder, transform), transform)
    keys = list(range(len(paths)))
    found, _ = cached.batch(keys, keys=keys)
    assert torch.equal(found, torch.stack([transform.finish(transform.resized(source.read(i)), i) for i in keys]))
    assert not torch.equal(found, cached.batch(keys, keys=keys[::-1])[0])


def test_what_is_kept_is_the_image_with_the_shorter_side_resized(paths: list[Path], folder: Path) -> None:
    cached = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    assert len(cached) == len(paths) and cached.paths == paths
    assert [tuple(cached.read(i).shape) for i in range(3)] == [(3, 73, 93), (3, 93, 73), (3, 73, 73)]
    image = cached.read(3)
    assert image.dtype == torch.uint8 and torch.equal(image, FileSource(paths, 3).read(3))
    assert torch.equal(image[0], torch.from_numpy(np.array(Image.open(paths[3]))))


def test_what_is_read_is_a_copy(paths: list[Path], folder: Path) -> None:
    cached = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    cached.read(0).fill_(7)
    assert not (cached.read(0) == 7).all()


def test_select_takes_images_and_paths_in_the_order_given(paths: list[Path], folder: Path) -> None:
    cached = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    part = cached.select([5, 1]).select([1, 0, 1])
    assert part.paths == [paths[1], paths[5], paths[1]]
    assert torch.equal(part.read(1), cached.read(5)) and torch.equal(part.read(2), cached.read(1))


def test_is_built_once(paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    (file,) = cache_files(folder)
    built = file.stat().st_mtime_ns
    monkeypatch.setattr(FileSource, "read", None)
    again = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    again.read(0)
    assert again.file == file and file.stat().st_mtime_ns == built
    assert sorted(f.name for f in folder.iterdir() if not f.name.endswith(".lock")) == [file.name]


def test_whatever_the_pixels_depend_on_makes_another_cache(
    paths: list[Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = FileSource(paths, 3)
    names = [cached_source(source, folder, PHOTOGRAPHS).file.name]

    def expect_another(source: FileSource, transform: Transform) -> None:
        names.append(cached_source(source, folder, transform).file.name)
        assert len(set(names)) == len(names) == len(cache_files(folder))

    expect_another(FileSource(paths, 1), PHOTOGRAPHS)
    expect_another(source, Transform(64))
    expect_another(source, Transform(65, center_crop=True))
    expect_another(FileSource(paths[::-1], 3), PHOTOGRAPHS)
    os.utime(paths[0], ns=(1, paths[0].stat().st_mtime_ns + 1))
    expect_another(source, PHOTOGRAPHS)
    status = paths[0].stat()
    paths[0].write_bytes(paths[0].read_bytes() + b"\0")  # longer, with the old time
    os.utime(paths[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    expect_another(source, PHOTOGRAPHS)
    monkeypatch.setattr(cache_module.PIL, "__version__", "0")
    expect_another(source, PHOTOGRAPHS)


def test_augmentation_does_not(paths: list[Path], folder: Path) -> None:
    for augment in ("none", "crop-flip"):
        cached_source(FileSource(paths, 3), folder, Transform(64, augment, center_crop=True))
    assert len(cache_files(folder)) == 1


def test_a_changed_image_is_seen(paths: list[Path], folder: Path) -> None:
    before = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).read(2)
    write_image(paths[2], 99, size=(80, 80))
    after = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).read(2)
    assert not torch.equal(before, after)
    assert torch.equal(after, PHOTOGRAPHS.resized(FileSource(paths, 3).read(2)))


def test_progress_is_shown_on_a_terminal_only(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = io.StringIO()
    monkeypatch.setattr("sys.stderr", shown)
    cached_source(FileSource(paths, 3), tmp_path / "quiet", PHOTOGRAPHS)
    assert shown.getvalue() == ""
    monkeypatch.setattr(shown, "isatty", lambda: True, raising=False)
    cached_source(FileSource(paths, 3), tmp_path / "shown", PHOTOGRAPHS)
    assert "caching images" in shown.getvalue() and f"{len(paths)}/{len(paths)}" in shown.getvalue()


def test_many_threads_keep_the_order(paths: list[Path], folder: Path) -> None:
    source = FileSource(paths * 20, 3)
    cached = cached_source(source, folder, Transform(16), workers=7)
    assert all(torch.equal(cached.read(i), Transform(16).resized(source.read(i))) for i in range(len(source)))


def test_broken_images_are_all_named_and_no_cache_is_kept(paths: list[Path], folder: Path) -> None:
    truncate(paths[1])
    paths[4].unlink()
    with pytest.raises(BrokenImageError) as caught:
        cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    assert str(paths[1]) in str(caught.value) and f"{paths[4]} is missing" in str(caught.value)
    assert not cache_files(folder) and not list(folder.glob(".*.part"))


def test_broken_images_are_skipped_as_without_the_cache(paths: list[Path], folder: Path) -> None:
    truncate(paths[1])
    paths[4].unlink()
    cached = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS, on_broken="skip")
    with pytest.raises(BrokenImageError, match=re.escape(str(paths[1])) + " cannot be decoded"):
        cached.read(1)
    assert len(cached.broken()) == 2 and cached.select([0, 2, 3]).broken() == []
    with pytest.warns(UserWarning, match="skipped"):
        found = all_images(labeled(cached, PHOTOGRAPHS, "skip"))
    with pytest.warns(UserWarning, match="skipped"):
        expected = all_images(labeled(FileSource(paths, 3), PHOTOGRAPHS, "skip"))
    assert len(found) == len(paths) - 2 and torch.equal(found, expected)
    with pytest.raises(BrokenImageError, match="missing"):  # the cache that "skip" left knows them
        cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS, on_broken="error")


def test_a_missing_image_that_comes_makes_a_new_cache(paths: list[Path], folder: Path) -> None:
    content = paths[4].read_bytes()
    paths[4].unlink()
    cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS, on_broken="skip")
    paths[4].write_bytes(content)
    assert cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS).broken() == []


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


def test_pickles_without_its_pixels(paths: list[Path], folder: Path) -> None:
    cached = cached_source(FileSource(paths, 3), folder, PHOTOGRAPHS)
    expected = cached.read(0)
    sent = pickle.dumps(cached)
    assert len(sent) < folder.stat().st_size + 200 * len(paths)
    received: CachedSource = pickle.loads(sent)
    assert torch.equal(received.read(0), expected) and received.paths == paths


def test_workers_read_the_same(paths: list[Path], folder: Path) -> None:
    transform = Transform(64, "crop-flip", center_crop=True)
    images = labeled(cached_source(FileSource(paths, 3), folder, transform), transform)
    batches = [[0, 1, 2, 3], [4, 5, 6, 7]]
    expected = [batch for batch, _ in EpochLoader(images, seed=1).epoch(batches, 0)]
    found = [batch for batch, _ in EpochLoader(images, seed=1, num_workers=2).epoch(batches, 0)]
    assert all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))


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
    from robustdml_ext.data import lock

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
