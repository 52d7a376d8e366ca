"""The file of an image cache: pixels behind each other, then an index, then a footer that says it is whole.

    header   64 bytes   magic, then the key of what is cached (SHA-256)
    pixels              each image uint8 [H, W, C], from a multiple of 64 bytes on, filled up with zeros
    index    N records  offset, height, width, sum of the image's 64-bit words modulo 2^64
    notes               JSON: what is wrong with images that could not be read, by number
    footer   64 bytes   magic, where the index begins, N, C, length of the notes, CRC-32 of index and notes

All numbers are little-endian. The footer comes last, so that a file which was cut off has none.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from robustdml_ext.data.errors import DataError

FORMAT = 1
_ALIGNMENT = 64
_MAGIC = b"robustdml images %02d\n" % FORMAT
_END = b"robustdml index  %02d\n" % FORMAT
_HEADER = struct.Struct("<20s32s12x")
_FOOTER = struct.Struct("<20sQQQQI8x")
_RECORD = np.dtype([("offset", "<u8"), ("height", "<u4"), ("width", "<u4"), ("sum", "<u8")])


class Incomplete(Exception):
    """The file is one of ours, but cut off or damaged."""


class Writer:
    """Writes the images one after the other; the file is whole only after `finish`."""

    def __init__(self, file: IO[bytes], key: bytes, channels: int) -> None:
        self._file = file
        self._channels = channels
        self._records: list[tuple[int, int, int, int]] = []
        self._broken: dict[int, str] = {}
        self._position = file.write(_HEADER.pack(_MAGIC, key))

    def add(self, image: npt.NDArray[np.uint8]) -> None:
        """The next image, uint8 [H, W, C]."""
        height, width, _ = image.shape
        padded = np.zeros(-(-image.size // _ALIGNMENT) * _ALIGNMENT, dtype=np.uint8)
        padded[: image.size] = image.reshape(-1)
        self._records.append((self._position, height, width, _sum(padded)))
        self._position += self._file.write(padded.data)

    def add_broken(self, message: str) -> None:
        """The next image, which cannot be read: what is wrong with it."""
        self._broken[len(self._records)] = message
        self._records.append((0, 0, 0, 0))

    def finish(self) -> None:
        index = np.array(self._records, dtype=_RECORD).tobytes()
        notes = json.dumps(self._broken).encode()
        footer = _FOOTER.pack(
            _END, self._position, len(self._records), self._channels, len(notes), zlib.crc32(index + notes)
        )
        self._file.write(index + notes + footer)


class Images:
    """A whole file, mapped into memory; N images. `broken`: what is wrong with those that could not be read.

    Raises: Incomplete for a file of ours that is cut off or damaged; DataError for a file that is none of ours, that
    holds other images than `key` says, or that cannot be opened.
    """

    def __init__(self, path: Path, key: bytes) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                start = file.read(_HEADER.size)
                if start[: len(_MAGIC)] != _MAGIC[: len(start)]:
                    raise DataError(
                        f"{path} is no image cache of this package; move it away, or give another cache folder"
                    )
                if len(start) < _HEADER.size:
                    raise Incomplete(f"{path} ends within its header")
                if _HEADER.unpack(start)[1] != key:
                    raise DataError(f"{path} is a cache of other images, put under this name; remove it")
                self._map: mmap.mmap = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise DataError(f"the image cache {path} cannot be opened: {error.strerror or error}") from error
        self._index, self.channels, self.broken = self._read_index()

    def __len__(self) -> int:
        return len(self._index)

    def read(self, row: int) -> npt.NDArray[np.uint8]:
        """A copy of image `row`, uint8 [H, W, C]. Raises: DataError where its bytes have changed on the disk."""
        record = self._index[row]
        height, width = int(record["height"]), int(record["width"])
        size = height * width * self.channels
        padded = np.frombuffer(self._map, np.uint8, -(-size // _ALIGNMENT) * _ALIGNMENT, int(record["offset"]))
        if _sum(padded) != int(record["sum"]):
            raise DataError(f"the image cache {self.path} is damaged at image {row}; remove it, and it is built again")
        return padded[:size].copy().reshape(height, width, self.channels)

    def _read_index(self) -> tuple[npt.NDArray[Any], int, dict[int, str]]:
        whole = memoryview(self._map)
        if len(whole) < _HEADER.size + _FOOTER.size:
            raise Incomplete(f"{self.path} ends before its index")
        end, begins, count, channels, notes_length, crc = _FOOTER.unpack(whole[-_FOOTER.size :])
        index_length = count * _RECORD.itemsize
        if end != _END or begins + index_length + notes_length + _FOOTER.size != len(whole):
            raise Incomplete(f"{self.path} ends before its index")
        tail = bytes(whole[begins : len(whole) - _FOOTER.size])
        if zlib.crc32(tail) != crc:
            raise Incomplete(f"the index of {self.path} is damaged")
        notes = json.loads(tail[index_length:])
        index = np.frombuffer(tail, _RECORD, count)
        return index, int(channels), {int(row): str(message) for row, message in notes.items()}


def _sum(padded: npt.NDArray[np.uint8]) -> int:
    """Catches what disks do to files, zeroed and flipped bytes, at a sixth of the cost of a CRC."""
    return int(padded.view(np.uint64).sum(dtype=np.uint64))
