"""VoxCeleb1: recordings of speakers, and the lists of trials that verification is judged by."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import VisionDataset

from robustdml_ext.data import archives
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.splits import DataSplits

SUMMARY = "VoxCeleb1, 148,642 + 4,874 recordings of 1,211 + 40 speakers; for the library, no model here takes sound"
PROTOCOLS = {"dev-test": "the 40 speakers id10270 to id10309 test, the other 1,211 are for development"}
ARCHIVES = archives.VOXCELEB1_TRIALS
WHERE = (
    "The recordings are given out on request, see https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html; unpack "
    "vox1_dev_wav.zip and vox1_test_wav.zip, and give the folder that holds wav, or dev/wav and test/wav, as --root; "
    "expected in them: <speaker>/<video>/<number>.wav, as id10001/1zcIwhmdeo4/00001.wav. The lists of trials "
    "(veri_test.txt, veri_test2.txt) are at https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/, from where "
    "download_archives(voxceleb.ARCHIVES, root) gets them."
)
TEST_SPEAKERS = range(10270, 10310)
PUBLISHED = {"train": (148_642, 1_211), "test": (4_874, 40)}  # recordings, speakers
_SPEAKER = re.compile(r"id(\d{5})")


def find_speakers(root: Path) -> dict[str, Path]:
    """Each speaker's folder, by name, under `root`/wav, `root`/dev/wav and `root`/test/wav, or in `root` itself.

    Raises: DataError where there is none.
    """
    found: dict[str, Path] = {}
    for place in (root / "dev" / "wav", root / "test" / "wav", root / "wav", root):
        if place.is_dir():
            for folder in place.iterdir():
                if _SPEAKER.fullmatch(folder.name) and folder.is_dir():
                    found.setdefault(folder.name, folder)
    if not found:
        what = "has no folder of a speaker" if root.is_dir() else "is not a folder"
        raise DataError(f"VoxCeleb1 not found: {root} {what}. {WHERE}")
    return dict(sorted(found.items()))


def of_split(speakers: dict[str, Path], split: str) -> dict[str, Path]:
    """The 40 official test speakers ("test"), or the others ("train")."""
    return {name: folder for name, folder in speakers.items() if (int(name[2:]) in TEST_SPEAKERS) == (split == "test")}


def read_sound(file: Path) -> tuple[Tensor, int]:
    """A recording of 16 bits and one channel: float32 [1, T] in [-1, 1), and its samples a second.

    Raises: DataError naming the file where it is missing, damaged or of another kind.
    """
    # Takes half a second to import, and listing the data sets never needs it.
    from scipy.io import wavfile

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Reached EOF", category=wavfile.WavFileWarning)
            warnings.filterwarnings("ignore", message="Chunk", category=wavfile.WavFileWarning)
            rate, samples = wavfile.read(file)
    except FileNotFoundError as error:
        raise DataError(f"recording {file} is missing. {WHERE}") from error
    except Exception as error:  # damaged headers end in any kind of error
        raise DataError(f"recording {file} cannot be decoded ({error}); is it truncated? Get it again") from error
    if samples.dtype != np.int16 or samples.ndim != 1:
        channels = 1 if samples.ndim == 1 else samples.shape[1]
        raise DataError(
            f"recording {file}: expected 16-bit samples of one channel, found {samples.dtype} of {channels}"
        )
    return torch.from_numpy(samples.astype(np.float32) / 2**15)[None], int(rate)


@dataclass(frozen=True)
class Trials:
    """P pairs of recordings: whether each is of the same speaker, bool [P], and the two files."""

    same: Tensor
    first: list[Path]
    second: list[Path]

    def __len__(self) -> int:
        return len(self.first)


def read_trials(file: Path, root: Path | None = None) -> Trials:
    """A list of trials, as veri_test.txt, veri_test2.txt, list_test_all.txt or list_test_hard.txt.

    A line is "1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00002.wav", or 0 for two speakers. With `root`, the
    data set's folder, the paths are those of its files; without, as they stand in the list. Raises: DataError naming
    file and line of what is none, or of a speaker that is not under `root`.
    """
    speakers = None if root is None else find_speakers(root)
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list of trials {file} cannot be read: {error}. {WHERE}") from error
    same: list[bool] = []
    pairs: list[list[Path]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        words = line.split()
        if len(words) != 3 or words[0] not in ("0", "1"):
            raise DataError(f"{file}, line {number}: expected '0 or 1, recording, recording', found {line!r}")
        same.append(words[0] == "1")
        pairs.append([_recording(word, speakers, f"{file}, line {number}") for word in words[1:]])
    if not pairs:
        raise DataError(f"{file} lists no trials")
    return Trials(torch.tensor(same), [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _recording(word: str, speakers: dict[str, Path] | None, said_in: str) -> Path:
    path = PurePosixPath(word)
    if path.is_absolute() or ".." in path.parts or len(path.parts) < 2:
        raise DataError(f"{said_in}: expected a path as id10270/5r0dWxy17C8/00001.wav, found {word!r}")
    if speakers is None:
        return Path(path)
    if path.parts[0] not in speakers:
        raise DataError(f"{said_in}: the speaker {path.parts[0]!r} has no folder. {WHERE}")
    return speakers[path.parts[0]].joinpath(*path.parts[1:])


class VoxCeleb(VisionDataset):
    """VoxCeleb1 (Nagrani et al. 2017): (waveform float32 [1, T] in [-1, 1), speaker) pairs, 16,000 samples a second.

    Args: `root`, see WHERE; `split`, "train" for the speakers for development or "test" for the 40 that test;
    `transform` of the waveform and `target_transform` of the speaker's number; `check_counts`, whether to compare with
    the published counts (by default where at least half of the published recordings are there).

    Attributes: `paths`, one a recording; `targets`, N numbers 0 .. C-1; `classes`, the C speakers' names;
    `class_to_idx`; `split`.

    Raises: DataError where the data set is missing or not the published one, and, when a recording is asked for, where
    its file is damaged; ValueError for another split.
    """

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        check_counts: bool | None = None,
    ) -> None:
        folder = Path(root).expanduser()
        super().__init__(folder, transform=transform, target_transform=target_transform)
        if split not in PUBLISHED:
            raise ValueError(f"split must be one of {', '.join(PUBLISHED)}, got {split!r}")
        speakers = of_split(find_speakers(folder), split)
        if not speakers:
            raise DataError(f"VoxCeleb1: {folder} has no speaker of the {split} split. {WHERE}")
        self.split = split
        self.classes = list(speakers)
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}
        self.paths: list[Path] = []
        self.targets: list[int] = []
        for name, place in speakers.items():
            recordings = sorted(place.glob("*/*.wav"))
            if not recordings:
                raise DataError(f"VoxCeleb1: the speaker's folder {place} has no recording. {WHERE}")
            self.paths += recordings
            self.targets += [self.class_to_idx[name]] * len(recordings)
        self._check_counts(check_counts)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        index = range(len(self))[index]
        waveform: Any = read_sound(self.paths[index])[0]
        target: Any = self.targets[index]
        if self.transforms is not None:
            waveform, target = self.transforms(waveform, target)
        return waveform, target

    def extra_repr(self) -> str:
        return f"Split: {self.split}\nSpeakers: {len(self.classes)}"

    def _check_counts(self, check: bool | None) -> None:
        found, published = (len(self.paths), len(self.classes)), PUBLISHED[self.split]
        if check is None:  # a few speakers are no damaged download
            check = 2 * found[0] >= published[0]
        wrong = [
            f"{have:,} {what}, {have - wanted:+,} against the published {wanted:,}"
            for what, have, wanted in zip(("recordings", "speakers"), found, published, strict=True)
            if have != wanted
        ]
        if check and wrong:
            raise DataError(
                f"VoxCeleb1 is not the published set: {self.split} has {'; '.join(wrong)}. {WHERE} "
                "Where that is meant, turn the check off with check_counts=False."
            )


def load(options: ReadOptions) -> DataSplits:
    """Raises: DataError, always: no model of this version takes sound."""
    raise DataError(
        f"VoxCeleb holds sound, and no model of this version takes it ({probe(options.folder)}). Use it as a library: "
        "robustdml_ext.data.sets.voxceleb has the data set (VoxCeleb) and the trials (read_trials)."
    )


def probe(root: Path) -> str:
    """What is found of VoxCeleb1 under `root`; opens no recording. Raises: DataError."""
    speakers = find_speakers(root)
    lists = sorted(file.name for file in root.glob("*_test*.txt"))
    counts = " and ".join(f"{len(of_split(speakers, split)):,} {split}" for split in PUBLISHED)
    return f"{counts} speakers, {'trials in ' + ', '.join(lists) if lists else 'no lists of trials'}, under {root}"
