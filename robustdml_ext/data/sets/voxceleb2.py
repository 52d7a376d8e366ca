"""VoxCeleb2 to train on, and VoxCeleb1, none of whose speakers it has, to test on."""

from __future__ import annotations

from pathlib import Path

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import ReadOptions
from robustdml_ext.data.sets import voxceleb
from robustdml_ext.data.sets._recordings import Corpus, Recordings, load_corpus, probe_corpus, speaker_folders
from robustdml_ext.data.splits import DataSplits

SUMMARY = "VoxCeleb2 to train, 1,092,009 recordings of 5,994 speakers, VoxCeleb1 to test; for xvector; needs --root"
PROTOCOLS = {
    "voxceleb1": "all 1,251 speakers of VoxCeleb1 test: its test trials, Extended (list_test_all) and Hard",
    "voxceleb1-test": "the 40 test speakers of VoxCeleb1 test: its test trials alone",
}
ARCHIVES = voxceleb.ARCHIVES
WHERE = (
    "VoxCeleb2 is given out on request, see https://www.robots.ox.ac.uk/~vgg/data/voxceleb/vox2.html; unpack "
    "vox2_dev_aac.zip and convert its m4a files, to 16,000 samples of 16 bits a second: ffmpeg -i 00001.m4a -ac 1 -ar "
    "16000 -sample_fmt s16 00001.flac (or 00001.wav). Give as --root the folder that holds voxceleb2 and voxceleb1: "
    "expected are voxceleb2/dev/wav/<speaker>/<video>/<number>.wav (or .flac; dev/flac and dev/aac are looked into, "
    "too), voxceleb1/wav/<speaker>/… (or voxceleb1/dev/wav and voxceleb1/test/wav), and beside them the lists of "
    "trials (veri_test.txt, list_test_all.txt, list_test_hard.txt, or those of the same names with a 2). Both sets may "
    "also lie in --root itself, as their speakers have different numbers. Of VoxCeleb1: " + voxceleb.WHERE
)
SPEAKERS = range(10_001)  # VoxCeleb1's begin at 10001
PUBLISHED = (1_092_009, 5_994)  # recordings, speakers of the development half
_TEST_LISTS = ("veri_test", "veri_test2")
_ALL_LISTS = (*_TEST_LISTS, "list_test_all", "list_test_all2", "list_test_hard", "list_test_hard2")


def find_speakers(root: Path) -> dict[str, Path]:
    """The folders of VoxCeleb2's speakers for development, by name, under `root`/voxceleb2/dev or `root`/dev.

    Raises: DataError where there is none.
    """
    places = [root / part / kind for part in ("voxceleb2/dev", "dev") for kind in ("wav", "flac", "aac")]
    found = speaker_folders(places, SPEAKERS)
    if not found:
        what = "has no folder of a speaker of VoxCeleb2" if root.is_dir() else "is not a folder"
        raise DataError(f"VoxCeleb2 not found: {root} {what}. {WHERE}")
    return found


def _speakers(root: Path, protocol: str, split: str) -> dict[str, Path]:
    if split == "train":
        return find_speakers(root)
    beside = root / "voxceleb1"
    found = voxceleb.find_speakers(beside if beside.is_dir() else root)
    return found if protocol == "voxceleb1" else voxceleb.of_split(found, "test")


def _published(protocol: str, split: str) -> tuple[int, int]:
    if split == "train":
        return PUBLISHED
    of_half = voxceleb.PUBLISHED
    if protocol == "voxceleb1-test":
        return of_half["test"]
    return of_half["train"][0] + of_half["test"][0], of_half["train"][1] + of_half["test"][1]


CORPUS = Corpus(
    "voxceleb2",
    "VoxCeleb2",
    WHERE,
    PROTOCOLS,
    speakers=_speakers,
    published=_published,
    trials={"voxceleb1": _ALL_LISTS, "voxceleb1-test": _TEST_LISTS},
)


class VoxCeleb2(Recordings):
    """VoxCeleb2 (Chung et al. 2018): "train" has its speakers for development, "test" VoxCeleb1's."""

    corpus = CORPUS


def load(options: ReadOptions) -> DataSplits:
    """Raises: DataError, ValueError; see `load_corpus`."""
    return load_corpus(CORPUS, options)


def probe(root: Path) -> str:
    """What is found of VoxCeleb2 and VoxCeleb1 under `root`; opens no recording. Raises: DataError."""
    return probe_corpus(CORPUS, root)
