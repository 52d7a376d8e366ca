"""What is mixed into recordings: how loud, of which kinds, and where the files are looked for."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from python_tests.data.sounds import RATE, voice, write_musan, write_rirs, write_wav
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.sound.noise import Noises, Samples, find_noises, reverberate, scaled


def recording(seconds: float = 1.0) -> Samples:
    return voice(1, 0, seconds).astype(np.float32) / np.float32(2**15)


def decibels(samples: Samples, added: Samples) -> float:
    """Signal-to-noise ratio by mean powers."""
    powers = [float(np.mean(x.astype(np.float64) ** 2)) for x in (samples, added)]
    return 10 * float(np.log10(powers[0] / powers[1]))


@settings(deadline=None, max_examples=30)
@given(level=st.floats(-5, 30), length=st.integers(1, 500), seed=st.integers(0, 9))
def test_noise_is_so_far_below(level: float, length: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    samples, piece = (source.standard_normal(n).astype(np.float32) for n in (300, length))
    assert abs(decibels(samples, scaled(piece, samples, level)) - level) < 1e-3


def test_silence_stays_silence() -> None:
    samples = recording()
    assert not scaled(np.zeros(5, np.float32), samples, 0.0).any() and not len(scaled(samples[:0], samples, 0.0))
    assert not scaled(samples, np.zeros(5, np.float32), 0.0).any()


# Of noises in the files below a second's recording has one, as the pause after it is a second long.
@pytest.mark.parametrize(("kind", "least", "most"), [("noise", 0, 15), ("music", 5, 15), ("speech", 13, 20)])
def test_levels_are_the_published_ones(tmp_path: Path, kind: str, least: float, most: float) -> None:
    files = getattr(find_noises(write_musan(tmp_path), None), kind)
    noises, samples = Noises(**{kind: files}), recording()
    added = [noises.mix(samples, random.Random(key)) - samples for key in range(300)]
    mixed = [noise for noise in added if noise.any()]
    assert 0.2 < 1 - len(mixed) / len(added) < 0.47  # one in three stays clean; five deviations on each side
    begin = slice(0, RATE // 2) if kind == "noise" else slice(None)
    levels = [decibels(samples, noise[begin]) for noise in mixed]
    assert least - 0.01 < min(levels) < least + 0.15 * (most - least)
    assert most - 0.15 * (most - least) < max(levels) < most + 0.01


def test_noises_come_a_second_apart(tmp_path: Path) -> None:
    noises = Noises(noise=find_noises(write_musan(tmp_path), None).noise)
    samples = recording(2.0)
    added = next(noise for key in range(9) if (noise := noises.mix(samples, random.Random(key)) - samples).any())
    loud = np.abs(added).reshape(-1, RATE // 10).max(1) > 1e-5
    assert loud.tolist() == [True] * 5 + [False] * 10 + [True] * 5


def test_pieces_of_long_files_begin_anywhere_and_short_ones_repeat(tmp_path: Path) -> None:
    samples = recording(0.1)
    ramp = write_wav(tmp_path / "ramp.wav", np.arange(1, 8_001, dtype=np.int16))
    firsts = set()
    for key in range(60):
        added = Noises(music=(ramp,)).mix(samples, random.Random(key)) - samples
        if added.any():
            steps = np.diff(added.astype(np.float64))
            assert np.abs(steps - steps.mean()).max() < 0.05 * steps.mean()  # one stretch, in order
            firsts.add(round(float(added[0] / steps.mean())))
    assert len(firsts) > 20 and max(firsts) - min(firsts) > 3_000
    short = write_wav(tmp_path / "short.wav", np.array([1_000, -3_000, 500], np.int16))
    added = next(
        noise for key in range(9) if (noise := Noises(music=(short,)).mix(samples, random.Random(key)) - samples).any()
    )
    assert np.abs(added[:-3] - added[3:]).max() < 1e-5 and added[1] < 0 < added[2] < added[0]


def test_babble_is_of_three_to_seven_speakers(tmp_path: Path) -> None:
    """Each file is silent but for one sample of its own, so that a sum tells which are in it."""
    files = []
    for i in range(10):
        samples = np.zeros(800, np.int16)
        samples[80 * i + 40] = 10_000
        files.append(write_wav(tmp_path / f"{i}.wav", samples))
    recorded = recording(0.05)
    counts = []
    for key in range(200):
        added = Noises(speech=tuple(files)).mix(recorded, random.Random(key)) - recorded
        if added.any():
            counts.append(int((np.abs(added) > 1e-4).sum()))
    assert set(counts) == {3, 4, 5, 6, 7}


@settings(deadline=None, max_examples=20)
@given(length=st.integers(1, 400), response=st.integers(1, 300), seed=st.integers(0, 9))
def test_reverberation_is_a_convolution_from_the_direct_sound_on(length: int, response: int, seed: int) -> None:
    source = np.random.default_rng(seed)
    samples, room = (source.standard_normal(n).astype(np.float32) for n in (length, response))
    energy, direct = np.sqrt((room.astype(np.float64) ** 2).sum()), int(np.abs(room).argmax())
    expected = np.convolve(samples.astype(np.float64), room / energy)[direct : direct + length]
    heard = reverberate(samples, room)
    assert heard.dtype == np.float32 and heard.shape == (length,) and np.abs(heard - expected).max() < 1e-4


def test_a_room_without_echo_or_response_changes_nothing() -> None:
    samples = recording(0.1)
    echo_free = np.eye(1, 50, 7, dtype=np.float32)[0] * 0.3
    assert np.abs(reverberate(samples, echo_free) - samples).max() < 1e-6
    for silent in (np.zeros(5, np.float32), np.zeros(0, np.float32)):
        assert np.array_equal(reverberate(samples, silent), samples)


def test_all_kinds_are_drawn_and_by_the_key_alone(tmp_path: Path) -> None:
    noises = find_noises(write_musan(tmp_path), write_rirs(tmp_path))
    samples = recording(0.5)
    state = random.getstate(), np.random.get_state()[1].tolist()
    mixed = [noises.mix(samples, random.Random(key)) for key in range(40)]
    again = [noises.mix(samples, random.Random(key)) for key in range(40)]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state
    assert all(np.array_equal(x, y) for x, y in zip(mixed, again, strict=True))
    assert len({x.tobytes() for x in mixed}) > 20
    assert all(x.dtype == np.float32 and x.shape == samples.shape and np.isfinite(x).all() for x in mixed)


def test_folders_are_found_with_or_without_their_name(tmp_path: Path) -> None:
    musan, rirs = write_musan(tmp_path), write_rirs(tmp_path)
    (musan / "noise" / "free-sound" / "ANNOTATIONS").write_text("no sound")
    (musan / "noise" / "README").write_text("no sound")
    found = find_noises(musan, rirs)
    assert found == find_noises(tmp_path, tmp_path)
    assert [len(files) for files in (found.noise, found.music, found.speech, found.rirs)] == [8, 8, 8, 3]
    assert found.noise[0] == musan / "noise" / "free-sound" / "noise-free-sound-0000.wav"
    assert find_noises(None, rirs).rirs == found.rirs and not find_noises(None, rirs).noise


def test_missing_folders_say_where_to_get_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"MUSAN not found: .*noise is not a folder\. Get .*openslr\.org/17"):
        find_noises(tmp_path, None)
    with pytest.raises(DataError, match=r"RIRS_NOISES not found: .*simulated_rirs is not a folder\. .*openslr\.org/28"):
        find_noises(None, tmp_path / "nowhere")
    musan = write_musan(tmp_path)
    for file in (musan / "music").glob("*/*"):
        file.unlink()
    with pytest.raises(DataError, match=r"MUSAN not found: .*music has no recordings"):
        find_noises(musan, None)


def test_damaged_noise_is_named(tmp_path: Path) -> None:
    samples = recording(0.1)
    file = write_wav(tmp_path / "a.wav", np.ones(100, np.int16), rate=8_000)
    keys = [key for key in range(9) if random.Random(key).random() >= 1 / 3]
    with pytest.raises(DataError, match=re.escape(str(file)) + ": expected 16,000 samples a second, found 8,000"):
        Noises(music=(file,)).mix(samples, random.Random(keys[0]))
    file.write_bytes(b"no sound")
    with pytest.raises(DataError, match=re.escape(str(file)) + " cannot be decoded"):
        Noises(rirs=(file,)).mix(samples, random.Random(keys[0]))
