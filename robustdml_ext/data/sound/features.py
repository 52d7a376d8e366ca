"""Log-mel filter banks of a recording, and what is subtracted from them."""

from __future__ import annotations

from array import array

import numpy as np
import torch
from torch import Tensor

from robustdml_ext.data.sound.files import FULL_SCALE, RATE, SHORTEST

WINDOW_MS, HOP_MS = 25.0, 10.0
LOW_HZ, HIGH_HZ = 20.0, 7_600.0
MEAN_WINDOW = 300  # frames, 3 s


def filter_banks(sound: Tensor, bins: int) -> Tensor:
    """Log-mel energies of a recording, float32 [1, bins, frames]: one frame of 25 ms every 10 ms.

    They are Kaldi's: of each frame the mean is subtracted and a pre-emphasis of 0.97 made, the window is Povey's
    (Hann's to the power 0.85), and the power spectrum of 512 points is summed under `bins` triangles, which are evenly
    spaced on the mel scale from 20 to 7,600 Hz, as in Kaldi's recipe for VoxCeleb. Frame t is centered at sample
    160·t + 80, where need be beyond the recording's ends, at which the sound is mirrored; so there are T / 160 of them,
    rounded. Energies are floored at 2^−23. With samples in [−1, 1) that is where Kaldi's dither, one step of 16 bits,
    puts the floor; there is no dither here, so that the same sound always has the same features.

    `sound`: [1, T], int16, or float32 with full scale at 1; 16,000 samples a second, T >= 80.

    Raises: ValueError for another shape, or too few samples.
    """
    if sound.dim() != 2 or len(sound) != 1 or sound.shape[1] < SHORTEST:
        raise ValueError(f"sound: expected [1, T] with T of at least {SHORTEST} samples, got {list(sound.shape)}")
    import kaldi_native_fbank

    options = kaldi_native_fbank.FbankOptions()
    frame, mel = options.frame_opts, options.mel_opts
    frame.samp_freq, frame.frame_length_ms, frame.frame_shift_ms = float(RATE), WINDOW_MS, HOP_MS
    frame.dither, frame.snip_edges = 0.0, False
    mel.num_bins, mel.low_freq, mel.high_freq = bins, LOW_HZ, HIGH_HZ
    samples = sound[0].numpy().astype(np.float32)
    if sound.dtype == torch.int16:
        samples /= FULL_SCALE
    extractor = kaldi_native_fbank.OnlineFbank(options)
    # It takes any sequence, number by number: an array's come a quarter faster than numpy's.
    extractor.accept_waveform(float(RATE), array("f", samples.tobytes()))
    extractor.input_finished()
    frames = np.stack([extractor.get_frame(t) for t in range(extractor.num_frames_ready)], axis=1)
    return torch.from_numpy(frames)[None]


def subtract_mean(features: Tensor, window: int | None = None) -> Tensor:
    """Takes each bin's mean over the frames off a recording's features [1, bins, frames].

    With `window` w, off each frame t the mean of frames t − w/2 .. t + w/2 − 1; the window is shifted to lie within
    the recording, and is the whole of one that is shorter (Kaldi's centered sliding window; x-vectors have w of 3 s).

    Raises: ValueError for a window below 1.
    """
    if window is not None and window < 1:
        raise ValueError(f"window: expected at least 1 frame, got {window}")
    count = features.shape[-1]
    if window is None or window >= count:
        return features - features.mean(-1, keepdim=True, dtype=torch.float64).to(features.dtype)
    sums = torch.nn.functional.pad(features.to(torch.float64).cumsum(-1), (1, 0))
    first = (torch.arange(count) - window // 2).clamp_(0, count - window)
    return features - ((sums[..., first + window] - sums[..., first]) / window).to(features.dtype)
