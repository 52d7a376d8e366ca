"""Noise, music, babble and reverberation, added to recordings in training."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.sound.files import RATE, SUFFIXES, count_samples, read_piece

Samples = npt.NDArray[np.float32]

MUSAN_WHERE = (
    "Get musan.tar.gz (11 GB) from https://www.openslr.org/17, unpack it, and give the folder musan; expected in it: "
    "noise, music and speech, each with folders of wav files, as noise/free-sound/noise-free-sound-0000.wav."
)
RIRS_WHERE = (
    "Get rirs_noises.zip (1.3 GB) from https://www.openslr.org/28, unpack it, and give the folder RIRS_NOISES; "
    "expected in it: simulated_rirs/<size of room>/<room>/*.wav, as simulated_rirs/smallroom/Room001/Room001-00001.wav."
)
CLEAN_SHARE = 1 / 3  # of the recordings stays as it is: one for two augmented copies
NOISE_SNR, MUSIC_SNR, BABBLE_SNR = (0.0, 15.0), (5.0, 15.0), (13.0, 20.0)  # decibels
BABBLE_SPEAKERS = (3, 7)
NOISE_PAUSE = RATE  # samples between the end of one noise and the beginning of the next


@dataclass(frozen=True)
class Noises:
    """Files to draw from: MUSAN's `noise`, `music` and `speech`, and impulse responses `rirs`; a kind may be empty.

    `mix` is the augmentation that the x-vectors were trained with (Snyder et al. 2018).
    """

    noise: tuple[Path, ...] = ()
    music: tuple[Path, ...] = ()
    speech: tuple[Path, ...] = ()
    rirs: tuple[Path, ...] = ()

    def mix(self, samples: Samples, draw: random.Random) -> Samples:
        """One recording, float32 [T], with what `draw` decides; float32 [T], not clipped.

        One in three stays clean. The others get, all kinds that there are files of alike:
        - noise: noises one after the other, a second of silence between, each 0 to 15 dB below the recording;
        - music: a piece of one file, repeated where it is shorter, 5 to 15 dB below;
        - babble: pieces of 3 to 7 speakers, summed, 13 to 20 dB below;
        - reverberation: convolved with a room impulse response, see `reverberate`.

        Decibels are of the mean power over the recording and over the piece that is added, drawn uniformly.

        Raises: DataError naming a file that cannot be read.
        """
        if draw.random() < CLEAN_SHARE:
            return samples
        kinds: list[tuple[tuple[Path, ...], Callable[[Samples, random.Random], Samples]]] = [
            (self.noise, self._add_noise),
            (self.music, self._add_music),
            (self.speech, self._add_babble),
            (self.rirs, self._reverberate),
        ]
        return draw.choice([add for files, add in kinds if files])(samples, draw)

    def _add_noise(self, samples: Samples, draw: random.Random) -> Samples:
        mixed, start = samples.copy(), 0
        while start < len(samples):
            piece = read_piece(draw.choice(self.noise), 0, len(samples) - start)
            level = draw.uniform(*NOISE_SNR)
            mixed[start : start + len(piece)] += scaled(piece, samples, level)
            start += len(piece) + NOISE_PAUSE
        return mixed

    def _add_music(self, samples: Samples, draw: random.Random) -> Samples:
        piece = _drawn_piece(draw.choice(self.music), len(samples), draw)
        return samples + scaled(piece, samples, draw.uniform(*MUSIC_SNR))

    def _add_babble(self, samples: Samples, draw: random.Random) -> Samples:
        count = min(draw.randint(*BABBLE_SPEAKERS), len(self.speech))
        babble = np.zeros_like(samples)
        for path in draw.sample(self.speech, count):
            babble += _drawn_piece(path, len(samples), draw)
        return samples + scaled(babble, samples, draw.uniform(*BABBLE_SNR))

    def _reverberate(self, samples: Samples, draw: random.Random) -> Samples:
        path = draw.choice(self.rirs)
        return reverberate(samples, read_piece(path, 0, count_samples(path)))


def scaled(piece: Samples, samples: Samples, decibels: float) -> Samples:
    """`piece`, so that its mean power is `decibels` below that of `samples`; silence stays silence."""
    power = float(np.mean(np.square(piece, dtype=np.float64))) if len(piece) else 0.0
    if power == 0:
        return piece
    wanted = float(np.mean(np.square(samples, dtype=np.float64))) * 10 ** (-decibels / 10)
    return piece * np.float32(math.sqrt(wanted / power))


def reverberate(samples: Samples, impulse_response: Samples) -> Samples:
    """`samples` [T] convolved with a room impulse response [R] of energy 1 (Ko et al. 2017); float32 [T].

    The response is divided by the root of its energy. What comes out begins where the response is largest, at the
    direct sound, so that the recording stays in its place; its tail beyond T is cut off. An empty or silent response
    changes nothing.
    """
    energy = float(np.sum(np.square(impulse_response, dtype=np.float64)))
    if energy == 0:
        return samples
    # Takes a second to import, and only this needs it.
    from scipy.signal import oaconvolve

    direct = int(np.argmax(np.abs(impulse_response)))
    convolved = oaconvolve(samples, impulse_response / np.float32(math.sqrt(energy)))
    heard: Samples = convolved[direct : direct + len(samples)].astype(np.float32)
    return heard


def find_noises(musan: Path | None, rirs: Path | None) -> Noises:
    """The files of MUSAN and of the simulated room impulse responses; what is None is left out.

    `musan`: the folder musan, or the one that holds it; `rirs`: RIRS_NOISES, or the one that holds it. Opens no file.

    Raises: DataError that says where to get it, where a folder, or one of its parts, is not there or is empty.
    """
    found: dict[str, tuple[Path, ...]] = {}
    if musan is not None:
        folder = _of(musan, "musan", "noise")
        for kind in ("noise", "music", "speech"):
            found[kind] = _files(folder / kind, "*/*", "MUSAN", MUSAN_WHERE)
    if rirs is not None:
        folder = _of(rirs, "RIRS_NOISES", "simulated_rirs")
        found["rirs"] = _files(folder / "simulated_rirs", "*/*/*", "RIRS_NOISES", RIRS_WHERE)
    return Noises(**found)


def _of(given: Path, name: str, part: str) -> Path:
    given = given.expanduser()
    return given / name if not (given / part).is_dir() and (given / name).is_dir() else given


def _files(folder: Path, pattern: str, title: str, where: str) -> tuple[Path, ...]:
    found = tuple(sorted(path for path in folder.glob(pattern) if path.suffix in SUFFIXES))
    if not found:
        what = "has no recordings" if folder.is_dir() else "is not a folder"
        raise DataError(f"{title} not found: {folder} {what}. {where}")
    return found


def _drawn_piece(path: Path, length: int, draw: random.Random) -> Samples:
    """`length` samples of a file from a drawn place on; a shorter file is repeated."""
    start = draw.randint(0, max(0, count_samples(path) - length))
    return np.resize(read_piece(path, start, length), length)  # which repeats, and makes zeros of nothing
