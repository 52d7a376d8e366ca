"""From speakers' folders to what the package trains on, and to a data set class of torchvision's kind."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import VisionDataset

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions, SoundOptions
from robustdml_ext.data.sets._lists import ImageList
from robustdml_ext.data.sets._trials import trial_pairs
from robustdml_ext.data.sound.files import FULL_SCALE, SUFFIXES, SoundSource, read_samples
from robustdml_ext.data.sound.noise import find_noises
from robustdml_ext.data.sound.transform import SoundTransform
from robustdml_ext.data.splits import DataSplits, LabeledImages, TrialPairs

SPLITS = ("train", "test")
_SPEAKER = re.compile(r"id(\d{5})")


@dataclass(frozen=True)
class Corpus:
    """What sets one corpus of speakers apart from another.

    `speakers(root, protocol, split)` finds the folder of each speaker, by name; it opens none, and raises DataError.
    `published(protocol, split)` is how many recordings and speakers were published. `trials` names the official lists
    of trials that are of a protocol's test split, without ".txt".
    """

    name: str
    title: str
    where: str
    protocols: Mapping[str, str]
    speakers: Callable[[Path, str, str], dict[str, Path]]
    published: Callable[[str, str], tuple[int, int]]
    trials: Mapping[str, Sequence[str]]

    def read(self, root: Path, protocol: str, split: str, check_counts: bool | None) -> ImageList:
        """The recordings of one split, sorted by speaker. Raises: DataError where they are not as published."""
        speakers = self.speakers(root, protocol, split)
        if not speakers:
            raise DataError(f"{self.title}: {root} has no speaker of the {split} split. {self.where}")
        listed = list_recordings(speakers, self.title, self.where)
        self._check(listed, protocol, split, check_counts)
        return listed

    def lists(self, root: Path, protocol: str) -> dict[str, Path]:
        """The files of those of a protocol's lists of trials that lie in `root`, by name."""
        files = {name: root / f"{name}.txt" for name in self.trials[protocol]}
        return {name: file for name, file in files.items() if file.is_file()}

    def _check(self, listed: ImageList, protocol: str, split: str, check: bool | None) -> None:
        found, published = (len(listed.paths), len(listed.class_names)), self.published(protocol, split)
        if check is None:  # a few speakers are no damaged download
            check = 2 * found[0] >= published[0]
        wrong = [
            f"{have:,} {what}, {have - wanted:+,} against the published {wanted:,}"
            for what, have, wanted in zip(("recordings", "speakers"), found, published, strict=True)
            if have != wanted
        ]
        if check and wrong:
            raise DataError(
                f"{self.title} is not the published set: {split} has {'; '.join(wrong)}. {self.where} "
                "Where that is meant, turn the check off with check_counts=False."
            )


def speaker_folders(places: Iterable[Path], numbers: range) -> dict[str, Path]:
    """The folders of the speakers id00000 .. id99999 whose number is one of `numbers`, by name.

    Where a speaker has a folder in several of the `places`, the first counts.
    """
    found: dict[str, Path] = {}
    for place in places:
        if place.is_dir():
            for folder in place.iterdir():
                match = _SPEAKER.fullmatch(folder.name)
                if match and int(match[1]) in numbers and folder.is_dir():
                    found.setdefault(folder.name, folder)
    return dict(sorted(found.items()))


def list_recordings(speakers: Mapping[str, Path], title: str, where: str) -> ImageList:
    """All recordings <speaker>/<video>/<number>.wav or .flac, sorted, with their speakers' numbers.

    Raises: DataError naming a speaker's folder that has none.
    """
    paths: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(speakers.values()):
        found: list[str] = []  # as strings, which sort many times faster than paths
        other = False
        for video in os.scandir(folder):
            if video.is_dir():
                files = os.listdir(video.path)
                found += [os.path.join(video.path, file) for file in files if file.endswith(SUFFIXES)]
                other = other or any(file.endswith(".m4a") for file in files)
        if not found:
            what = "has m4a files, which are to be converted first" if other else "has no recording"
            raise DataError(f"{title}: the speaker's folder {folder} {what}. {where}")
        paths += map(Path, sorted(found))
        labels += [label] * len(found)
    return ImageList(paths, labels, list(speakers))


def load_corpus(corpus: Corpus, options: ReadOptions) -> DataSplits:
    """Reads and checks a corpus, and builds its splits: speakers that train and speakers that test have none in common.

    Raises: DataError where recordings, lists of trials or noises are missing or wrong; ValueError for a cache on disk,
    or noise without a folder of it.
    """
    if options.cache not in ("default", "memory", "none"):
        raise ValueError(f"cache must be default, memory or none for {corpus.name!r}, got {options.cache!r}")
    sound = options.sound or SoundOptions()
    training = _training_transform(options.augment, sound)
    transforms = {"train": training, "test": SoundTransform(sound, sound.frames_to_test)}
    listed = {split: corpus.read(options.folder, options.protocol, split, options.check_counts) for split in SPLITS}
    built = {
        split: LabeledImages(
            SoundSource(recordings.paths),
            torch.tensor(recordings.labels, dtype=torch.int64),
            recordings.class_names,
            transforms[split],
            on_broken=options.on_broken,
            cache=options.cache == "memory",
        )
        for split, recordings in listed.items()
    }
    trials: dict[str, TrialPairs] = {
        name: trial_pairs(file, listed["test"].paths, corpus.where, options.on_broken)
        for name, file in corpus.lists(options.folder, options.protocol).items()
    }
    return DataSplits(
        corpus.name,
        built["train"],
        built["test"],
        1,
        sound.bins,
        protocol=options.protocol,
        frames=sound.frames,
        trials=trials,
    )


def _training_transform(augment: str, sound: SoundOptions) -> SoundTransform:
    given = sound.musan is not None or sound.rirs is not None
    if augment == "default":
        augment = "noise-reverb" if given else "crop"
    if augment != "noise-reverb":
        return SoundTransform(sound, sound.frames, augment)
    if not given:
        raise ValueError("augment 'noise-reverb' needs a folder of noise, of impulse responses, or both: musan, rirs")
    return SoundTransform(sound, sound.frames, augment, find_noises(sound.musan, sound.rirs))


def probe_corpus(corpus: Corpus, root: Path) -> str:
    """What is found of a corpus under `root`; lists and opens no recording. Raises: DataError."""
    protocol = next(iter(corpus.protocols))
    counts = []
    for split in SPLITS:
        speakers = corpus.speakers(root, protocol, split)
        counts.append(f"{len(speakers):,} {split}")
    lists = sorted(file.name for file in corpus.lists(root, protocol).values())
    found = f"trials in {', '.join(lists)}" if lists else "no lists of trials"
    return f"{' and '.join(counts)} speakers, {found}, under {root}"


def read_sound(file: Path) -> tuple[Tensor, int]:
    """A recording of 16 bits and one channel, wav or flac: float32 [1, T] in [-1, 1), and its samples a second.

    Raises: DataError naming the file where it is missing, damaged or of another kind.
    """
    samples, rate = read_samples(Path(file))
    return torch.from_numpy(samples.astype(np.float32) / FULL_SCALE)[None], rate


class Recordings(VisionDataset):
    """Base of the data set classes: (waveform float32 [1, T] in [-1, 1), speaker) pairs, 16,000 samples a second.

    Args: `root`, the data set's folder; `split`, "train" or "test"; `transform` of the waveform and `target_transform`
    of the speaker's number; `protocol`, one of the data set's PROTOCOLS, of which the first is the default;
    `check_counts`, whether to compare with the published counts (by default where at least half of the published
    recordings are there).

    Attributes: `paths`, one a recording; `targets`, N numbers 0 .. C-1; `classes`, the C speakers' names;
    `class_to_idx`; `split`.

    Raises: DataError where the data set is missing or not the published one, and, when a recording is asked for, where
    its file is damaged; ValueError for another split or protocol.
    """

    corpus: ClassVar[Corpus]

    def __init__(
        self,
        root: str | Path,
        split: str = "train",
        transform: Callable[[Any], Any] | None = None,
        target_transform: Callable[[Any], Any] | None = None,
        *,
        protocol: str = "default",
        check_counts: bool | None = None,
    ) -> None:
        folder = Path(root).expanduser()
        super().__init__(folder, transform=transform, target_transform=target_transform)
        known = self.corpus.protocols
        if protocol == "default":
            protocol = next(iter(known))
        for argument, value, allowed in (("split", split, SPLITS), ("protocol", protocol, tuple(known))):
            if value not in allowed:
                raise ValueError(f"{argument} must be one of {', '.join(allowed)}, got {value!r}")
        listed = self.corpus.read(folder, protocol, split, check_counts)
        self.split = split
        self.paths, self.targets, self.classes = listed.paths, listed.labels, listed.class_names
        self.class_to_idx = {name: number for number, name in enumerate(self.classes)}

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
