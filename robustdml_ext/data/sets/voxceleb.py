"""VoxCeleb1: recordings of speakers, and the lists of trials that verification is judged by."""

from __future__ import annotations

from pathlib import Path

import torch

from robustdml_ext.data import archives
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets._recordings import (
    Corpus,
    Recordings,
    load_corpus,
    probe_corpus,
    read_sound,
    speaker_folders,
)
from robustdml_ext.data.sets._trials import Trials, trial_lines
from robustdml_ext.data.splits import DataSplits

__all__ = ["Trials", "VoxCeleb", "find_speakers", "load", "of_split", "probe", "read_sound", "read_trials"]

SUMMARY = "VoxCeleb1, 148,642 + 4,874 recordings of 1,211 + 40 speakers, for xvector; needs --root"
PROTOCOLS = {"dev-test": "the 40 speakers id10270 to id10309 test, the other 1,211 are for development"}
ARCHIVES = archives.VOXCELEB1_TRIALS
WHERE = (
    "The recordings are given out on request, see https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox1.html; unpack "
    "vox1_dev_wav.zip and vox1_test_wav.zip, and give the folder that holds wav, or dev/wav and test/wav, as --root; "
    "expected in them: <speaker>/<video>/<number>.wav, as id10001/1zcIwhmdeo4/00001.wav (or .flac). The lists of "
    "trials (veri_test.txt, veri_test2.txt) are at https://www.robots.ox.ac.uk/~vgg/data/voxceleb/meta/, from where "
    "download_archives(voxceleb.ARCHIVES, root) gets them; put them into the same folder."
)
SPEAKERS = range(10001, 11252)
TEST_SPEAKERS = range(10270, 10310)
PUBLISHED = {"train": (148_642, 1_211), "test": (4_874, 40)}  # recordings, speakers


def find_speakers(root: Path) -> dict[str, Path]:
    """Each speaker's folder, by name, under `root`/wav, `root`/dev/wav and `root`/test/wav, or in `root` itself.

    Raises: DataError where there is none.
    """
    found = speaker_folders((root / "dev" / "wav", root / "test" / "wav", root / "wav", root), SPEAKERS)
    if not found:
        what = "has no folder of a speaker" if root.is_dir() else "is not a folder"
        raise DataError(f"VoxCeleb1 not found: {root} {what}. {WHERE}")
    return found


def of_split(speakers: dict[str, Path], split: str) -> dict[str, Path]:
    """The 40 official test speakers ("test"), or the others ("train")."""
    return {name: folder for name, folder in speakers.items() if (int(name[2:]) in TEST_SPEAKERS) == (split == "test")}


CORPUS = Corpus(
    "voxceleb",
    "VoxCeleb1",
    WHERE,
    PROTOCOLS,
    speakers=lambda root, protocol, split: of_split(find_speakers(root), split),
    published=lambda protocol, split: PUBLISHED[split],
    trials={"dev-test": ("veri_test", "veri_test2")},  # the other lists are of all speakers
)


def read_trials(file: Path, root: Path | None = None) -> Trials:
    """A list of trials, as veri_test.txt, veri_test2.txt, list_test_all.txt or list_test_hard.txt.

    A line is "1 id10270/5r0dWxy17C8/00001.wav id10270/x6uYqmx31kE/00002.wav", or 0 for two speakers. With `root`, the
    data set's folder, the paths are those of its files; without, as they stand in the list. Raises: DataError naming
    file and line of what is none, or of a speaker that is not under `root`.
    """
    speakers = None if root is None else find_speakers(root)
    same: list[bool] = []
    pairs: list[list[Path]] = []
    for number, alike, *words in trial_lines(Path(file), WHERE):
        same.append(alike)
        pairs.append([_recording(word, speakers, f"{file}, line {number}") for word in words])
    return Trials(torch.tensor(same), [pair[0] for pair in pairs], [pair[1] for pair in pairs])


def _recording(word: str, speakers: dict[str, Path] | None, said_in: str) -> Path:
    if speakers is None:
        return Path(word)
    speaker, rest = word.split("/", 1)
    if speaker not in speakers:
        raise DataError(f"{said_in}: the speaker {speaker!r} has no folder. {WHERE}")
    return speakers[speaker] / rest


class VoxCeleb(Recordings):
    """VoxCeleb1 (Nagrani et al. 2017): "train" has the speakers for development, "test" the 40 that test."""

    corpus = CORPUS


def load(options: ReadOptions) -> DataSplits:
    """Raises: DataError, ValueError; see `load_corpus`."""
    return load_corpus(CORPUS, options)


def probe(root: Path) -> str:
    """What is found of VoxCeleb1 under `root`; opens no recording. Raises: DataError."""
    return probe_corpus(CORPUS, root)
