"""The cache of images on disk: what it keeps, to the bit, and what makes another one."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from python_tests.data.cached import PHOTOGRAPHS, all_images, cache_files, labeled
from python_tests.data.images import truncate, write_image
from robustdml_ext.data import EpochLoader
from robustdml_ext.data import cache as cache_module
from robustdml_ext.data.cache import CachedSource, cached_source
from robustdml_ext.data.errors import BrokenImageError
from robustdml_ext.data.sources import FileSource
from robustdml_ext.data.transforms import Transform


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
