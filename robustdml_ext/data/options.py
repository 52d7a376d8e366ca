"""What is asked of a data set when it is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NORMALIZATIONS = ("sliding", "recording", "none")
TEST_FRAMES = 400  # 4 s, what VoxCeleb's shortest recordings have


@dataclass(frozen=True)
class SoundOptions:
    """How recordings are made into features; for data sets of sound.

    `bins`: of the log-mel filter banks (30 as Kaldi's recipe for VoxCeleb; Snyder et al. 2018 have 24 at 8 kHz).
    `frames`: length of the stretch that is trained on, in steps of 10 ms. `test_frames`: of the one that is tested,
    from the recording's middle; None: the larger of `frames` and 400. Shorter recordings are repeated, so a number
    above all of them tests on whole recordings. `normalization`: what is subtracted of each bin: its mean over a window
    of 3 s that slides along ("sliding"), over the recording ("recording"), or nothing ("none"). `musan`, `rirs`: the
    folders of noise and of room impulse responses, for augmentation; see `robustdml_ext.data.sound.noise`.

    Raises: ValueError for numbers that are not whole and positive, or another normalization.
    """

    bins: int = 30
    frames: int = 300
    test_frames: int | None = None
    normalization: str = "sliding"
    musan: Path | None = None
    rirs: Path | None = None

    def __post_init__(self) -> None:
        for name in ("bins", "frames", "test_frames"):
            value = getattr(self, name)
            if value is None and name == "test_frames":
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a positive whole number, got {value!r}")
        if self.normalization not in NORMALIZATIONS:
            raise ValueError(f"normalization must be one of {', '.join(NORMALIZATIONS)}, got {self.normalization!r}")

    @property
    def frames_to_test(self) -> int:
        """Length of the stretch that is tested, in frames."""
        return max(self.frames, TEST_FRAMES) if self.test_frames is None else self.test_frames


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read; `data.load` documents each option, and has checked those that all sets share.

    `root` is None only for a set that needs none. `protocol` is one of the set's PROTOCOLS. `cache` is "default",
    "memory", "none", or the folder of a cache on disk. `train_classes` is for folders alone, and `sound` for sets
    of recordings alone.
    """

    root: Path | None
    image_size: int | None = None
    channels: int | None = None
    augment: str = "default"
    on_broken: str = "error"
    cache: str = "default"
    check_counts: bool | None = None
    train_classes: Path | None = None
    protocol: str = "default"
    sound: SoundOptions | None = None

    @property
    def resize_square(self) -> bool:
        """Whether all splits are resized as the training augmentation does, see `Transform`."""
        return self.augment == "resize-crop-flip"

    @property
    def folder(self) -> Path:
        """`root`, of a set that needs one."""
        assert self.root is not None
        return self.root
