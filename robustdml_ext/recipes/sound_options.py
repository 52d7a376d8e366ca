"""Options of data sets of sound: how a recording becomes what a network sees."""

from __future__ import annotations

from typing import Literal

from robustdml_ext.recipes.option_group import OptionGroup, option


class SoundOptions(OptionGroup):
    """Of voxceleb and voxceleb2: filter banks, and what recordings are mixed with to train."""

    bins: int = option(30, "Log-mel filter banks a frame; xvector takes as many.", ge=2)
    frames: int = option(300, "Length of the random stretch that is trained on, in steps of 10 ms.", ge=1)
    test_frames: int | None = option(
        None,
        "Length of the middle that is tested. None: the larger of frames and 400; above all recordings' lengths: whole "
        "ones, repeated.",
        ge=1,
    )
    sound_mean: Literal["sliding", "recording", "none"] = option(
        "sliding", "What is subtracted of each bin: its mean over 3 s, over the recording, or nothing."
    )
    musan: str | None = option(
        None, "Folder of MUSAN (openslr.org/17), whose noise, music and babble are mixed in to train.", neutral=True
    )
    rirs: str | None = option(
        None, "Folder of RIRS_NOISES (openslr.org/28), whose simulated rooms reverberate to train.", neutral=True
    )
