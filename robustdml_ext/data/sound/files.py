"""Recordings in wav and flac files, as the 16-bit samples that they hold."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.data.errors import BrokenImageError, DataError

SUFFIXES = (".flac", ".wav")
RATE = 16_000  # samples a second that all of the corpora here have
FULL_SCALE = np.float32(2**15)  # of 16-bit samples
SHORTEST = 80  # samples, half a hop: fewer make no frame of features
# The machine's trouble, not the file's: to blame a recording for these would drop good ones at random.
_NOT_THE_FILE = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_UNKNOWN_SIZE = 2**32 - 1  # what a writer that could not go back to the header has put there


class SoundSource:
    """N recordings in wav or flac files: `read(i)` gives int16 [1, T], 16,000 samples a second; a `Source`."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths: list[Path] | None = list(paths)

    def __len__(self) -> int:
        assert self.paths is not None
        return len(self.paths)

    def read(self, index: int) -> Tensor:
        """Reads recording `index`. Raises: BrokenImageError, naming the path (see `read_samples`)."""
        assert self.paths is not None
        path = self.paths[index]
        samples, rate = read_samples(path)
        if rate != RATE:
            raise BrokenImageError(f"recording {path}: expected {RATE:,} samples a second, found {rate:,}; resample it")
        if len(samples) < SHORTEST:
            raise BrokenImageError(f"recording {path}: expected at least {SHORTEST} samples, found {len(samples)}")
        return torch.from_numpy(samples)[None]

    def select(self, indices: Sequence[int]) -> SoundSource:
        assert self.paths is not None
        return SoundSource([self.paths[i] for i in indices])


def read_samples(path: Path) -> tuple[npt.NDArray[np.int16], int]:
    """All samples of a recording of 16 bits and one channel, int16 [T], and how many there are a second.

    Raises: BrokenImageError naming the file where it is missing, truncated, damaged or of another kind; DataError where
    the machine has no file handle or memory left for it.
    """
    with _opened(path) as sound:
        return _samples(sound, sound.frames), int(sound.samplerate)


def count_samples(path: Path) -> int:
    """How many samples a recording has, from its header. Raises: as `read_samples`."""
    with _opened(path) as sound:
        return int(sound.frames)


def read_piece(path: Path, start: int, length: int) -> npt.NDArray[np.float32]:
    """Samples start .. start + length − 1 of a recording, or up to its end: float32 [≤ length] in [−1, 1).

    Raises: as `read_samples`; DataError naming the file where it has other than 16,000 samples a second.
    """
    with _opened(path) as sound:
        if sound.samplerate != RATE:
            raise DataError(f"{path}: expected {RATE:,} samples a second, found {sound.samplerate:,}; resample it")
        sound.seek(min(start, sound.frames))
        return _samples(sound, length).astype(np.float32) / FULL_SCALE


def _samples(sound: Any, length: int) -> npt.NDArray[np.int16]:
    samples: npt.NDArray[np.int16] = sound.read(length, dtype="int16")
    return samples


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The open file of a recording; whatever goes wrong with it names the path."""
    # Listing the data sets never needs it.
    import soundfile

    try:
        _check_whole(path)
        with soundfile.SoundFile(path) as sound:
            if sound.subtype != "PCM_16" or sound.channels != 1:
                raise BrokenImageError(
                    f"recording {path}: expected 16-bit samples (PCM_16) of one channel, found {sound.subtype} of "
                    f"{sound.channels}"
                )
            yield sound
    except FileNotFoundError as error:
        raise BrokenImageError(f"recording {path} is missing") from error
    except OSError as error:
        if error.errno in _NOT_THE_FILE:
            raise DataError(f"could not read {path}: {error.strerror}") from error
        raise BrokenImageError(f"recording {path} cannot be decoded ({error})") from error
    except soundfile.SoundFileError as error:
        raise BrokenImageError(
            f"recording {path} cannot be decoded ({error}); is it truncated? Get it again, or leave it out"
        ) from error


def _check_whole(path: Path) -> None:
    """Raises: BrokenImageError for a wav file that is cut off, of which libsndfile reads what is left without a word.

    The header's size counts all that follows its first 8 bytes. Of flac files libsndfile tells by itself.
    """
    with open(path, "rb") as file:
        header = file.read(12)
        size = os.fstat(file.fileno()).st_size
    if header[:4] == b"RIFF" and len(header) == 12:
        promised = int.from_bytes(header[4:8], "little")
        if promised != _UNKNOWN_SIZE and promised + 8 > size:
            raise BrokenImageError(
                f"recording {path} cannot be decoded (it has {size:,} of {promised + 8:,} bytes); get it again, or "
                "leave it out"
            )
