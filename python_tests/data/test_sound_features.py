"""Filter banks against their definition, written out in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustdml_ext.data.sound.features import filter_banks, subtract_mean

Array = npt.NDArray[np.float64]


def mel(hertz: Array | float) -> Array:
    return 1127.0 * np.log1p(np.asarray(hertz) / 700.0)


def written_out(samples: Array, bins: int) -> Array:
    """Kaldi's definition, frame by frame: samples in [−1, 1) to log-mel energies [bins, frames]."""
    count = len(samples)
    edges = np.linspace(mel(20.0), mel(7_600.0), bins + 2)
    at = mel(np.arange(257) * 16_000 / 512)
    rising = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    triangles = np.minimum(rising, falling).clip(min=0)
    window = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    columns = []
    for t in range((count + 80) // 160):
        places = np.arange(160 * t + 80 - 200, 160 * t + 80 + 200)
        while (places < 0).any() or (places >= count).any():
            places = np.where(places < 0, -places - 1, places)
            places = np.where(places >= count, 2 * count - 1 - places, places)
        frame = samples[places]
        frame = frame - frame.mean()
        frame = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(frame * window, 512)) ** 2
        columns.append(np.log(np.maximum(triangles @ power, 2.0**-23)))
    return np.stack(columns, axis=1)


@settings(deadline=None, max_examples=25)
@given(count=st.integers(80, 2_000), bins=st.sampled_from([5, 24, 30, 40]), seed=st.integers(0, 9))
def test_filter_banks_are_kaldis(count: int, bins: int, seed: int) -> None:
    samples = np.random.default_rng(seed).integers(-20_000, 20_000, count).astype(np.int16)
    features = filter_banks(torch.from_numpy(samples)[None], bins)
    expected = written_out(samples / 2**15, bins)
    assert features.dtype == torch.float32 and features.shape == (1, *expected.shape)
    assert np.abs(features[0].numpy() - expected).max() < 2e-4


def test_a_tone_is_loudest_in_its_bin() -> None:
    tone = np.sin(2 * np.pi * 1_000 * np.arange(8_000) / 16_000)
    features = filter_banks(torch.from_numpy(tone.astype(np.float32))[None], 30)
    centers = np.linspace(mel(20.0), mel(7_600.0), 32)[1:-1]
    assert features[0, :, 25].argmax() == np.abs(centers - mel(1_000.0)).argmin()


def test_integers_and_floats_are_alike_and_silence_is_the_floor() -> None:
    samples = torch.randint(-(2**15), 2**15, (1, 3_200), generator=torch.Generator().manual_seed(0)).to(torch.int16)
    assert torch.equal(filter_banks(samples, 30), filter_banks(samples.float() / 2**15, 30))
    silence = filter_banks(torch.zeros(1, 1_600, dtype=torch.int16), 30)
    assert silence.shape == (1, 30, 10) and (silence - np.log(2.0**-23)).abs().max() < 1e-5


@pytest.mark.parametrize("shape", [(1, 79), (1, 0), (2, 1_600), (1_600,)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"sound: expected \[1, T\] with T of at least 80 samples, got"):
        filter_banks(torch.zeros(shape), 30)


@settings(deadline=None, max_examples=50)
@given(count=st.integers(1, 60), window=st.none() | st.integers(1, 70), seed=st.integers(0, 9))
def test_means_are_of_the_window(count: int, window: int | None, seed: int) -> None:
    features = torch.randn(1, 3, count, generator=torch.Generator().manual_seed(seed)) - 10
    values = features[0].double().numpy()
    expected = np.empty_like(values)
    for t in range(count):
        width = count if window is None else min(window, count)
        first = min(max(t - (window or 0) // 2, 0), count - width)
        expected[:, t] = values[:, t] - values[:, first : first + width].mean(1)
    found = subtract_mean(features, window)
    assert found.dtype == torch.float32 and found.shape == features.shape
    assert np.abs(found[0].numpy() - expected).max() < 5e-6


def test_a_window_of_no_frames_is_refused() -> None:
    with pytest.raises(ValueError, match="window: expected at least 1 frame, got 0"):
        subtract_mean(torch.zeros(1, 3, 5), 0)
