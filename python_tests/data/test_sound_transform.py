"""Recordings as what a model is given: crops, repeats, keys, and what memory keeps."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from python_tests.data.sounds import voice, write_musan, write_rirs
from robustdml_ext.data.options import SoundOptions
from robustdml_ext.data.sound.features import filter_banks, subtract_mean
from robustdml_ext.data.sound.noise import find_noises
from robustdml_ext.data.sound.transform import SoundTransform, repeated


def recording(seconds: float) -> torch.Tensor:
    return torch.from_numpy(voice(1, 0, seconds))[None]


@settings(deadline=None, max_examples=40)
@given(count=st.integers(1, 40), frames=st.integers(1, 40), key=st.integers(0, 2**64 - 1))
def test_crops_are_stretches_of_the_features(count: int, frames: int, key: int) -> None:
    """Frame t of the features holds t, so that a crop tells where it is from."""
    features = torch.arange(count, dtype=torch.float32).expand(1, 2, count)
    expected = [t % count for t in range(max(count, frames))]
    middle = SoundTransform(SoundOptions(), frames).fixed(features)
    start = (len(expected) - frames) // 2
    assert middle.shape == (1, 2, frames) and middle[0, 1].tolist() == expected[start : start + frames]
    cropped = SoundTransform(SoundOptions(), frames, "crop").cropped(features, key)
    start = int(cropped[0, 0, 0])
    assert cropped[0, 1].tolist() == expected[start : start + frames]
    assert torch.equal(repeated(features, frames)[0, 0], torch.tensor(expected, dtype=torch.float32))


def test_every_stretch_is_drawn_and_by_the_key_alone() -> None:
    features = torch.arange(13.0).expand(1, 2, 13)
    transform = SoundTransform(SoundOptions(), 10, "crop")
    state = torch.get_rng_state()
    starts = [int(transform.cropped(features, key)[0, 0, 0]) for key in range(200)]
    assert starts == [int(transform.cropped(features, key)[0, 0, 0]) for key in range(200)]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(starts.count(start) > 25 for start in range(4)) and set(starts) == {0, 1, 2, 3}


@pytest.mark.parametrize(("normalization", "window"), [("sliding", 300), ("recording", None), ("none", 0)])
def test_means_are_taken_off_before_the_crop(normalization: str, window: int | None) -> None:
    sound = recording(3.5)
    whole = filter_banks(sound, 12)
    if window != 0:
        whole = subtract_mean(whole, window)
    options = SoundOptions(bins=12, frames=40, test_frames=60, normalization=normalization)
    middle = SoundTransform(options, 60).fixed(sound)
    assert torch.equal(middle, whole[..., 145:205])
    training = SoundTransform(options, 40, "crop")
    cropped = training.cropped(training.fixed(sound), 3)
    assert any(torch.equal(cropped, whole[..., t : t + 40]) for t in range(whole.shape[-1] - 39))


def test_testing_is_longer_and_takes_what_memory_keeps(tmp_path: Path) -> None:
    sound, noises = recording(1.0), find_noises(write_musan(tmp_path), write_rirs(tmp_path))
    options = SoundOptions(bins=12, frames=40, test_frames=60)
    crop, noise = SoundTransform(options, 40, "crop"), SoundTransform(options, 40, "noise-reverb", noises)
    assert crop.for_testing() == noise.for_testing() == SoundTransform(options, 60)
    tested = crop.for_testing().fixed(sound)
    for training in (crop, noise):
        assert training.random and not training.for_testing().random
        assert torch.equal(training.for_testing().fixed(training.fixed(sound)), tested)
    assert torch.equal(noise.fixed(sound), sound) and tested.is_contiguous()
    assert torch.equal(crop.for_testing().finish(tested, 5), tested)


def test_noise_is_heard_and_a_function_of_the_key(tmp_path: Path) -> None:
    sound, noises = recording(1.0), find_noises(write_musan(tmp_path), write_rirs(tmp_path))
    transform = SoundTransform(SoundOptions(frames=100), 100, "noise-reverb", noises)
    drawn = [transform.finish(sound, key) for key in range(30)]
    assert all(torch.equal(x, transform.finish(sound, key)) for key, x in enumerate(drawn))
    clean = transform.features(sound)
    assert 3 <= sum(torch.allclose(x, clean, atol=1e-4) for x in drawn) <= 18  # one in three, four deviations
    assert all(x.shape == (1, 30, 100) and x.dtype == torch.float32 and x.isfinite().all() for x in drawn)


def test_wrong_options_are_named() -> None:
    with pytest.raises(ValueError, match="augment must be one of crop, noise-reverb, none, got 'crop-flip'"):
        SoundTransform(SoundOptions(), 10, "crop-flip")
    with pytest.raises(ValueError, match="noises: expected with augment 'noise-reverb'"):
        SoundTransform(SoundOptions(), 10, "noise-reverb")
    for name in ("bins", "frames", "test_frames"):
        for value in (0, -1, 2.0, True, "30"):
            with pytest.raises(ValueError, match=f"{name} must be a positive whole number, got {value!r}"):
                SoundOptions(**{name: value})
    with pytest.raises(ValueError, match="normalization must be one of sliding, recording, none, got 'mean'"):
        SoundOptions(normalization="mean")
    options = SoundOptions()
    assert (options.frames_to_test, dataclasses.replace(options, frames=500).frames_to_test) == (400, 500)
    assert dataclasses.replace(options, test_frames=200).frames_to_test == 200
