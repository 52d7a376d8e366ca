from __future__ import annotations

import re
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import wavfile

from robustdml_ext import data
from robustdml_ext.data.errors import DataError
from robustdml_ext.data.options import SoundOptions
from robustdml_ext.data.sets import voxceleb
from robustdml_ext.data.sets.voxceleb import VoxCeleb, find_speakers, of_split, read_sound, read_trials

SPEAKERS = {"dev": ["id10001", "id10269", "id10310", "id11251"], "test": ["id10270", "id10309"]}
LAYOUTS = {"one folder": ("wav", "wav"), "two folders": ("dev/wav", "test/wav"), "the root": (".", ".")}


def write_wav(file: Path, seed: int, length: int = 160) -> np.ndarray:
    file.parent.mkdir(parents=True, exist_ok=True)
    samples = np.random.default_rng(seed).integers(-(2**15), 2**15, length).astype(np.int16)
    wavfile.write(file, 16_000, samples)
    return samples


def write_set(root: Path, layout: str = "one folder") -> None:
    """Two videos of two recordings a speaker."""
    seed = 0
    for folder, names in zip(LAYOUTS[layout], SPEAKERS.values(), strict=True):
        for name in names:
            for video in ("1zcIwhmdeo4", "x6uYqmx31kE"):
                for number in (1, 2):
                    write_wav(root / folder / name / video / f"{number:05d}.wav", seed, 100 + seed)
                    seed += 1


@pytest.mark.parametrize("layout", LAYOUTS)
def test_speakers_are_split_as_published(tmp_path: Path, layout: str) -> None:
    write_set(tmp_path, layout)
    (tmp_path / "notes").mkdir()
    train, test = VoxCeleb(tmp_path), VoxCeleb(tmp_path, "test")
    assert train.classes == SPEAKERS["dev"] and test.classes == SPEAKERS["test"]
    assert (len(train), len(test)) == (16, 8) and test.targets == [0] * 4 + [1] * 4
    assert test.paths[5] == tmp_path / LAYOUTS[layout][1] / "id10309" / "1zcIwhmdeo4" / "00002.wav"
    assert voxceleb.probe(tmp_path).startswith("4 train and 2 test speakers, no lists of trials")


def test_the_official_test_speakers_are_forty() -> None:
    everyone = {f"id{number}": Path() for number in range(10001, 11252)}
    assert len(of_split(everyone, "test")) == 40 and len(of_split(everyone, "train")) == 1_211
    assert voxceleb.PUBLISHED["train"][1] == 1_211 and voxceleb.PUBLISHED["test"][1] == 40


def test_sound_is_float_between_minus_one_and_one(tmp_path: Path) -> None:
    write_set(tmp_path)
    test = VoxCeleb(tmp_path, "test", transform=lambda waveform: waveform * 2, target_transform=str)
    waveform, speaker = test[0]
    rate, samples = wavfile.read(test.paths[0])
    assert waveform.dtype == torch.float32 and waveform.shape == (1, len(samples)) and speaker == "0"
    assert np.array_equal(waveform[0].numpy(), samples / 2**14) and rate == 16_000
    extremes = np.array([-(2**15), 2**15 - 1, 0], dtype=np.int16)
    wavfile.write(tmp_path / "extremes.wav", 8_000, extremes)
    sound, rate = read_sound(tmp_path / "extremes.wav")
    assert sound.tolist() == [[-1.0, 1 - 2**-15, 0.0]] and rate == 8_000
    with pytest.raises(IndexError):
        test[8]


@pytest.mark.parametrize("keep", [0, 20, 44, 100])
def test_damaged_recordings_are_named(tmp_path: Path, keep: int) -> None:
    file = tmp_path / "a.wav"
    write_wav(file, 0)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=re.escape(str(file)) + " cannot be decoded"):
        read_sound(file)


def test_other_kinds_of_recordings_are_named(tmp_path: Path) -> None:
    file = tmp_path / "a.wav"
    wavfile.write(file, 16_000, np.zeros((50, 2), np.int16))
    with pytest.raises(DataError, match="one channel, found PCM_16 of 2"):
        read_sound(file)
    wavfile.write(file, 16_000, np.zeros(50, np.float32))
    with pytest.raises(DataError, match=r"16-bit samples .* found FLOAT"):
        read_sound(file)
    file.write_text("no sound")
    with pytest.raises(DataError, match=re.escape(str(file))):
        read_sound(file)
    with pytest.raises(DataError, match="is missing"):
        read_sound(tmp_path / "none.wav")


def test_unknown_chunks_are_passed_over(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    file = tmp_path / "a.wav"
    samples = write_wav(file, 0)
    content = file.read_bytes() + b"xyzw" + struct.pack("<I", 4) + b"1234"
    file.write_bytes(content[:4] + struct.pack("<I", len(content) - 8) + content[8:])
    assert np.array_equal(read_sound(file)[0][0].numpy() * 2**15, samples)
    assert not recwarn.list


def test_counts_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path)
    with pytest.raises(DataError, match="8 recordings, -4,866 against the published 4,874; 2 speakers, -38"):
        VoxCeleb(tmp_path, "test", check_counts=True)
    monkeypatch.setitem(voxceleb.PUBLISHED, "test", (9, 2))
    with pytest.raises(DataError, match=r"test has 8 recordings, -1 against the published 9\. "):
        VoxCeleb(tmp_path, "test")
    assert len(VoxCeleb(tmp_path, "test", check_counts=False)) == 8


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"VoxCeleb1 not found: .* has no folder of a speaker"):
        find_speakers(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        voxceleb.probe(tmp_path / "nowhere")
    write_wav(tmp_path / "wav" / "id10001" / "video" / "00001.wav", 0)
    with pytest.raises(DataError, match="has no speaker of the test split"):
        VoxCeleb(tmp_path, "test")
    (tmp_path / "wav" / "id10270").mkdir()
    with pytest.raises(DataError, match=r"id10270 has no recording"):
        VoxCeleb(tmp_path, "test")
    with pytest.raises(ValueError, match="split must be one of train, test, got 'dev'"):
        VoxCeleb(tmp_path, "dev")


LINES = [
    "1 id10270/1zcIwhmdeo4/00001.wav id10270/x6uYqmx31kE/00002.wav",
    "0 id10270/1zcIwhmdeo4/00001.wav id10001/x6uYqmx31kE/00001.wav",
    "",
    "1 id10309/1zcIwhmdeo4/00001.wav id10309/x6uYqmx31kE/00002.wav",
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_trials_lead_to_recordings(tmp_path: Path, layout: str) -> None:
    write_set(tmp_path, layout)
    (tmp_path / "veri_test2.txt").write_text("\n".join(LINES) + "\n")
    trials = read_trials(tmp_path / "veri_test2.txt", tmp_path)
    assert len(trials) == 3 and trials.same.dtype == torch.bool and trials.same.tolist() == [True, False, True]
    assert all(path.is_file() for path in trials.first + trials.second)
    assert trials.second[1].parts[-3:] == ("id10001", "x6uYqmx31kE", "00001.wav")
    assert "trials in veri_test2.txt" in voxceleb.probe(tmp_path)
    plain = read_trials(tmp_path / "veri_test2.txt")
    assert plain.first[0] == Path("id10270/1zcIwhmdeo4/00001.wav")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 id10270/a/1.wav id10270/b/1.wav", "expected '0 or 1, recording, recording'"),
        ("1 id10270/a/1.wav", "expected '0 or 1, recording, recording'"),
        ("1 id10270/a/1.wav id10270/b/1.wav more", "expected '0 or 1, recording, recording'"),
        ("1 id10270/a/1.wav ../../secret.wav", "expected a path as id10270"),
        ("1 /etc/passwd id10270/b/1.wav", "expected a path as id10270"),
        ("1 id10270/a/1.wav id10271/b/1.wav", "the speaker 'id10271' has no folder"),
    ],
)
def test_malformed_lines_are_named(tmp_path: Path, line: str, said: str) -> None:
    write_set(tmp_path)
    file = tmp_path / "trials.txt"
    file.write_text("\n".join([*LINES, line]))
    with pytest.raises(DataError, match=re.escape(f"{file}, line 5: ") + said):
        read_trials(file, tmp_path)


def test_lists_without_trials_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_trials(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(DataError, match="lists no trials"):
        read_trials(tmp_path / "empty.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot be read"):
        read_trials(tmp_path / "bytes.txt")


def test_splits_are_features_of_the_speakers(tmp_path: Path) -> None:
    write_set(tmp_path)
    (tmp_path / "veri_test2.txt").write_text(
        "1 id10270/1zcIwhmdeo4/00001.wav id10270/x6uYqmx31kE/00002.wav\n"
        "0 id10309/x6uYqmx31kE/00001.wav id10270/1zcIwhmdeo4/00002.wav\n"
    )
    (tmp_path / "list_test_all.txt").write_text("1 id10001/1zcIwhmdeo4/00001.wav id10001/x6uYqmx31kE/00002.wav\n")
    splits = data.load("voxceleb", tmp_path, sound=SoundOptions(bins=8, frames=5, test_frames=7))
    assert (splits.name, splits.protocol, splits.zero_shot) == ("voxceleb", "dev-test", True)
    assert (splits.channels, splits.image_size, splits.frames) == (1, 8, 5)
    assert splits.train.class_names == SPEAKERS["dev"] and splits.test.class_names == SPEAKERS["test"]
    assert splits.train.batch([0, 15])[0].shape == (2, 1, 8, 5) and splits.test.batch([7])[0].shape == (1, 1, 8, 7)
    assert list(splits.trials) == ["veri_test2"], "the others are of speakers that train"
    assert splits.trials["veri_test2"].same.tolist() == [True, False]
    assert splits.trials["veri_test2"].pairs.tolist() == [[0, 3], [6, 1]]
    data.check_classes(splits)


def test_speakers_of_the_other_set_are_passed_over(tmp_path: Path) -> None:
    write_set(tmp_path)
    write_wav(tmp_path / "wav" / "id00012" / "video" / "00001.wav", 0)
    assert set(find_speakers(tmp_path)) == {*SPEAKERS["dev"], *SPEAKERS["test"]}
