"""From a recording to the features that a model sees, with randomness that depends on nothing but a key."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from robustdml_ext.data.options import SoundOptions
from robustdml_ext.data.sound.features import MEAN_WINDOW, filter_banks, subtract_mean
from robustdml_ext.data.sound.files import FULL_SCALE
from robustdml_ext.data.sound.noise import Noises
from robustdml_ext.data.transforms import to_float

SOUND_AUGMENTATIONS = ("crop", "noise-reverb", "none")


@dataclass(frozen=True)
class SoundTransform:
    """Brings a recording to filter banks float32 [1, bins, frames]; what `Transform` is for images.

    Their mean is taken off as `options.normalization` says, over the recording and before any crop. `augment="crop"`: a
    random stretch of `frames`; "noise-reverb": the same of the recording with what `noises` mix into it; "none": the
    middle. A shorter recording's features are repeated from their beginning.

    Raises: ValueError for another augmentation, or noise without `noises`.
    """

    options: SoundOptions
    frames: int
    augment: str = "none"
    noises: Noises | None = None

    def __post_init__(self) -> None:
        if self.augment not in SOUND_AUGMENTATIONS:
            raise ValueError(f"augment must be one of {', '.join(SOUND_AUGMENTATIONS)}, got {self.augment!r}")
        if (self.noises is not None) != (self.augment == "noise-reverb"):
            raise ValueError(f"noises: expected with augment 'noise-reverb' and only then, got {self.augment!r}")

    @property
    def random(self) -> bool:
        """Whether the result depends on a key."""
        return self.augment != "none"

    def features(self, sound: Tensor) -> Tensor:
        """A recording [1, T], int16 or float32 with full scale at 1, to all of its frames, [1, bins, frames]."""
        features = filter_banks(sound, self.options.bins)
        if self.options.normalization == "none":
            return features
        return subtract_mean(features, MEAN_WINDOW if self.options.normalization == "sliding" else None)

    def fixed(self, sound: Tensor) -> Tensor:
        """The part that is always the same; what memory may keep.

        A recording int16 [1, T] stays one where noise is to be mixed into it; else it becomes features, all of them
        where they are cropped at random. Features [1, bins, n], which memory has kept, are taken, too.
        """
        if sound.dim() == 2:
            if self.noises is not None:
                return sound
            sound = self.features(sound)
        if self.random:
            return sound
        sound = repeated(sound, self.frames)
        start = (sound.shape[-1] - self.frames) // 2
        return sound[..., start : start + self.frames].contiguous()  # else memory would keep all of it

    def cropped(self, sound: Tensor, key: int) -> Tensor:
        """The random part, to [1, bins, frames]: a function of (sound, key) alone."""
        if not self.random:
            return sound
        draw = random.Random(key)
        if self.noises is not None:
            samples = sound[0].numpy().astype(np.float32) / FULL_SCALE
            sound = self.features(torch.from_numpy(self.noises.mix(samples, draw))[None])
        sound = repeated(sound, self.frames)
        start = draw.randint(0, sound.shape[-1] - self.frames)
        return sound[..., start : start + self.frames]

    def finish(self, sound: Tensor, key: int) -> Tensor:
        """What is left after `fixed`: the random part. A function of (sound, key) alone."""
        return to_float(self.cropped(sound, key))

    def for_testing(self) -> SoundTransform:
        """The same without augmentation, at the length that testing looks at."""
        return replace(self, frames=self.options.frames_to_test, augment="none", noises=None)


def repeated(features: Tensor, frames: int) -> Tensor:
    """Features [1, bins, n] with at least `frames` frames: themselves, or over again until there are."""
    count = features.shape[-1]
    return features if count >= frames else features.repeat(1, 1, -(-frames // count))[..., :frames]
