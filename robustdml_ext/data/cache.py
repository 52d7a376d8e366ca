"""A cache on disk of decoded and resized images, so that a few cores can feed a GPU."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import torch
import torchvision
from torch import Tensor

from robustdml_ext.data.cache_file import FORMAT, Images, Incomplete, Writer
from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.lock import locked
from robustdml_ext.data.progress import progress
from robustdml_ext.data.sources import FileSource
from robustdml_ext.data.transforms import Transform


class CachedSource:
    """N images of a cache file, uint8 [C, h, w] as `Transform.resized` gives them; takes a FileSource's place.

    The file is mapped into memory when the first image is read, anew in each process that this is sent to.
    """

    def __init__(self, file: Path, key: bytes, paths: Sequence[Path], rows: Sequence[int], channels: int) -> None:
        self.file = file
        self.paths: list[Path] | None = list(paths)
        self.channels = channels
        self._key = key
        self._rows = list(rows)
        self._images: Images | None = None

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> Tensor:
        """Copies image `index` out of the cache; its colors lie last in memory.

        Raises: BrokenImageError, naming the image's path, where it could not be decoded; DataError, naming the cache's
        file, where that is damaged.
        """
        images, row = self._open(), self._rows[index]
        if row in images.broken:
            raise BrokenImageError(images.broken[row])
        return torch.from_numpy(images.read(row)).permute(2, 0, 1)

    def select(self, indices: Sequence[int]) -> CachedSource:
        assert self.paths is not None
        rows = [self._rows[i] for i in indices]
        part = CachedSource(self.file, self._key, [self.paths[i] for i in indices], rows, self.channels)
        part._images = self._images
        return part

    def broken(self) -> list[str]:
        """What is wrong with those of the images that could not be decoded, each naming its path."""
        noted = self._open().broken
        return [noted[row] for row in self._rows if row in noted]

    def _open(self) -> Images:
        if self._images is None:
            try:
                self._images = Images(self.file, self._key)
            except Incomplete as error:
                raise DataError(f"the image cache is damaged: {error}; remove it, and it is built again") from error
        return self._images

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_images": None}


def cached_source(
    source: FileSource, folder: Path, transform: Transform, *, workers: int | None = None, on_broken: str = "error"
) -> CachedSource:
    """The images of `source` out of a cache file in `folder`, which is built where it is not there.

    Images are kept as `transform.resized` gives them. Evaluation sees the same pixels, to the bit, as without the
    cache. Crops of random size are cut from the resized image (shorter side 256/224 of the image size), not from the
    original: they are a little softer where the original is larger, as most published code that resizes its files
    beforehand.

    The file's name carries a hash of all that its pixels depend on: every image's path, size and time of change,
    channels, the size rule, and the versions of the libraries that decode and resize. So several caches share a
    folder, and a changed image makes a new one; old ones are not removed. It is built under another name and renamed
    when whole, by one process while others wait, with `workers` threads (default: one a core).

    A file of ours that is cut off or has a damaged index is built again, with a warning. Images that cannot be decoded
    are noted in the cache: with `on_broken="skip"` reading one raises BrokenImageError.

    Raises: BrokenImageError naming up to five of them with `on_broken="error"`, and then no new cache is kept;
    DataError naming a file that bears the cache's name and is none, or where the folder cannot be written.
    """
    paths, key = source.paths, _key(source, transform)
    assert paths is not None
    file = folder / f"images-{key.hex()[:24]}.cache"
    cached = CachedSource(file, key, paths, range(len(paths)), source.channels)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not _whole(cached):
            with locked(folder / f".{file.name}.lock") as alone:
                if not _whole(cached, warn=True):
                    if alone:
                        for left_over in folder.glob(f".{file.name}.*.part"):
                            left_over.unlink()
                    _build(source, file, key, transform, workers, on_broken)
    except OSError as error:
        raise DataError(f"the image cache cannot be written to {folder}: {error.strerror or error}") from error
    if on_broken == "error":
        _refuse_broken(cached.broken())
    return cached


def _whole(cached: CachedSource, warn: bool = False) -> bool:
    """Whether the cache's file can be used as it is. Raises: DataError where it is none of ours."""
    if not cached.file.exists():
        return False
    try:
        cached._images = Images(cached.file, cached._key)
    except Incomplete as error:
        if warn:
            warnings.warn(f"the image cache is damaged: {error}; it is built again", stacklevel=4)
        return False
    return True


def _key(source: FileSource, transform: Transform) -> bytes:
    assert source.paths is not None
    rule: list[object] = [FORMAT, source.channels, transform.size, transform.center_crop]
    if transform.resize_square:
        rule[-1] = "square"
    versions = [PIL.__version__, torch.__version__, torchvision.__version__]
    stamps = []
    for path in source.paths:
        try:
            status = os.stat(path)
            stamps.append([os.path.abspath(path), status.st_size, status.st_mtime_ns])
        except OSError:  # it is missing, and will be named when it is decoded
            stamps.append([os.path.abspath(path), -1, -1])
    return hashlib.sha256(json.dumps([rule, versions, stamps]).encode()).digest()


def _build(
    source: FileSource, file: Path, key: bytes, transform: Transform, workers: int | None, on_broken: str
) -> None:
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        broken = []
        with open(part, "xb") as sink:
            writer = Writer(sink, key, source.channels)
            for image in _decoded(source, transform, workers or _cores()):
                if isinstance(image, str):
                    broken.append(image)
                    writer.add_broken(image)
                else:
                    writer.add(image)
            writer.finish()
            sink.flush()
            os.fsync(sink.fileno())
        if on_broken == "error":
            _refuse_broken(broken)
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _refuse_broken(broken: list[str]) -> None:
    if broken:
        more = f"; and {len(broken) - 5} more" if len(broken) > 5 else ""
        raise BrokenImageError("; ".join(broken[:5]) + more)


def _decoded(source: FileSource, transform: Transform, workers: int) -> Iterator[npt.NDArray[np.uint8] | str]:
    """Every image in order, [h, w, C], or what is wrong with it; a few are decoded ahead by threads.

    Threads do: decoding and resizing, where the time goes, both let the interpreter go on.
    """

    def decode(index: int) -> npt.NDArray[np.uint8] | str:
        try:
            image = transform.resized(source.read(index))
        except BrokenImageError as error:
            return str(error)
        return np.ascontiguousarray(image.permute(1, 2, 0).numpy())

    with ThreadPoolExecutor(workers) as pool, progress("caching images", len(source)) as report:
        ahead: deque[Future[npt.NDArray[np.uint8] | str]] = deque()
        try:
            for index in range(len(source)):
                ahead.append(pool.submit(decode, index))
                if len(ahead) >= 4 * workers:
                    yield ahead.popleft().result()
                    report(index + 1 - len(ahead))
            while ahead:
                yield ahead.popleft().result()
                report(len(source) - len(ahead))
        finally:
            for future in ahead:
                future.cancel()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
