"""Recordings in wav and flac files, whole and damaged."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from python_tests.data.sounds import write_wav
from robustdml_ext.data.errors import BrokenImageError, DataError
from robustdml_ext.data.sound import files
from robustdml_ext.data.sound.files import SoundSource, count_samples, read_piece, read_samples

SAMPLES = np.random.default_rng(0).integers(-(2**15), 2**15, 1_600).astype(np.int16)


def write(file: Path, samples: np.ndarray = SAMPLES, rate: int = 16_000) -> Path:
    if file.suffix == ".wav":
        return write_wav(file, samples, rate)
    soundfile.write(file, samples, rate, subtype="PCM_16")
    return file


@pytest.mark.parametrize("suffix", files.SUFFIXES)
def test_samples_come_back(tmp_path: Path, suffix: str) -> None:
    file = write(tmp_path / f"a{suffix}")
    samples, rate = read_samples(file)
    assert samples.dtype == np.int16 and np.array_equal(samples, SAMPLES) and rate == 16_000
    assert count_samples(file) == 1_600
    for start, length in ((0, 1_600), (700, 50), (1_590, 50), (1_600, 5), (9_000, 5), (3, 0)):
        piece = read_piece(file, start, length)
        assert piece.dtype == np.float32
        assert np.array_equal(piece, SAMPLES[start : start + length].astype(np.float64) / 2**15)
    source = SoundSource([file, tmp_path / "none.wav"])
    assert len(source) == 2 and source.read(0).tolist() == [SAMPLES.tolist()]
    assert source.select([1, 0]).paths == [tmp_path / "none.wav", file]


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize("share", [0.0, 0.01, 0.02, 0.5, 0.99])
def test_truncated_files_are_named(tmp_path: Path, suffix: str, share: float) -> None:
    file = write(tmp_path / f"a{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(BrokenImageError, match=re.escape(str(file)) + " cannot be decoded"):
        SoundSource([file]).read(0)


def test_a_size_that_the_writer_did_not_know_is_no_truncation(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav")
    content = file.read_bytes()
    file.write_bytes(content[:4] + b"\xff" * 4 + content[8:])
    assert np.array_equal(read_samples(file)[0], SAMPLES)


def test_recordings_of_another_kind_are_named(tmp_path: Path) -> None:
    broken = {
        "stereo.wav": (np.zeros((50, 2), np.int16), 16_000, "expected 16-bit .* of one channel, found PCM_16 of 2"),
        "float.wav": (np.zeros(500, np.float32), 16_000, "expected 16-bit .* found FLOAT of 1"),
        "slow.wav": (SAMPLES, 8_000, "expected 16,000 samples a second, found 8,000; resample it"),
        "short.wav": (SAMPLES[:79], 16_000, "expected at least 80 samples, found 79"),
    }
    for name, (samples, rate, said) in broken.items():
        file = write(tmp_path / name, samples, rate)
        with pytest.raises(BrokenImageError, match=re.escape(str(file)) + ": " + said):
            SoundSource([file]).read(0)
    with pytest.raises(BrokenImageError, match="is missing"):
        SoundSource([tmp_path / "none.flac"]).read(0)
    (tmp_path / "text.flac").write_text("no sound")
    with pytest.raises(BrokenImageError, match=r"text\.flac cannot be decoded"):
        read_samples(tmp_path / "text.flac")
    with pytest.raises(BrokenImageError, match=re.escape(str(tmp_path)) + " cannot be decoded"):
        read_samples(tmp_path)


def test_the_machines_trouble_is_not_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_handles(path: Path) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    file = write(tmp_path / "a.wav")
    monkeypatch.setattr(files, "_check_whole", no_handles)
    with pytest.raises(DataError, match=r"could not read .*: Too many open files") as error:
        read_samples(file)
    assert not isinstance(error.value, BrokenImageError)
