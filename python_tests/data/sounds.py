"""Made-up voices, noises and rooms on disk, in the layouts of VoxCeleb, MUSAN and RIRS_NOISES."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.io import wavfile

RATE = 16_000
VIDEOS = ("1zcIwhmdeo4", "x6uYqmx31kE")


def voice(speaker: int, seed: int, seconds: float) -> npt.NDArray[np.int16]:
    """Sines at the multiples of a pitch that wavers, in more or less noise: a speaker's two vowels, by turns.

    A vowel is loudest at two formants. There are two, as one would be the mean that features are without.
    """
    own, random = np.random.default_rng([speaker, 1]), np.random.default_rng([speaker, seed, 2])
    time = np.arange(round(seconds * RATE)) / RATE
    pitch = own.uniform(90, 250) * random.uniform(0.97, 1.03)
    vowels = [(own.uniform(300, 900), own.uniform(1_200, 3_500)) for _ in range(2)]
    turn = 0.5 + 0.5 * np.tanh(4 * np.sin(2 * np.pi * random.uniform(2, 4) * time + random.uniform(0, 2 * np.pi)))
    phase = 2 * np.pi * np.cumsum(pitch * (1 + 0.03 * np.sin(2 * np.pi * random.uniform(2, 5) * time))) / RATE
    sound = np.zeros_like(time)
    for multiple in range(1, int(7_000 / pitch)):
        first, second = (
            sum(np.exp(-(((multiple * pitch - formant) / 250) ** 2)) for formant in vowel) + 0.02 for vowel in vowels
        )
        sound += (turn * first + (1 - turn) * second) * np.sin(multiple * phase + random.uniform(0, 2 * np.pi))
    sound = sound / np.abs(sound).max() + random.uniform(0.02, 0.4) * random.standard_normal(len(time))
    return (random.uniform(2_000, 20_000) * sound / np.abs(sound).max()).astype(np.int16)


def write_wav(file: Path, samples: npt.NDArray[np.int16], rate: int = RATE) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(file, rate, samples)
    return file


def write_speakers(folder: Path, numbers: list[int], each: int = 4, seconds: tuple[float, float] = (0.6, 1.2)) -> Path:
    """`folder`/id<number>/<video>/<number>.wav: `each` recordings of a speaker, half of them of each of two videos."""
    for number in numbers:
        for i in range(each):
            length = np.random.default_rng([number, i]).uniform(*seconds)
            file = folder / f"id{number:05d}" / VIDEOS[i % 2] / f"{i // 2 + 1:05d}.wav"
            write_wav(file, voice(number, i, length))
    return folder


def write_musan(folder: Path, files: int = 8, seconds: float = 0.5) -> Path:
    """`folder`/musan with `files` files of each kind."""
    parts = {"noise": "free-sound", "music": "fma", "speech": "librivox"}
    for row, (kind, part) in enumerate(parts.items()):
        for i in range(files):
            random = np.random.default_rng([row, i])
            samples = (random.standard_normal(round(seconds * RATE)) * 1_000).astype(np.int16)
            write_wav(folder / "musan" / kind / part / f"{kind}-{part}-{i:04d}.wav", samples)
    return folder / "musan"


def write_rirs(folder: Path, files: int = 3) -> Path:
    """`folder`/RIRS_NOISES with rooms whose response is largest at sample 40 and then fades."""
    for i in range(files):
        random = np.random.default_rng([9, i])
        response = random.standard_normal(2_000) * np.exp(-np.arange(2_000) / 300) * 4_000
        response[:40], response[40] = 0, 30_000
        name = folder / "RIRS_NOISES" / "simulated_rirs" / "smallroom" / f"Room{i + 1:03d}"
        write_wav(name / f"Room{i + 1:03d}-00001.wav", response.clip(-32_768, 32_767).astype(np.int16))
    return folder / "RIRS_NOISES"
