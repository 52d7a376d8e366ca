"""VoxCeleb2 to train and VoxCeleb1 to test: where they lie, their trials, and batches by any number of workers."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import soundfile
import torch

from python_tests.data.sounds import VIDEOS, write_musan, write_rirs, write_speakers
from robustdml_ext import data
from robustdml_ext.data.sets import VoxCeleb2, voxceleb2

SOUND = data.SoundOptions(bins=8, frames=20, test_frames=30)
DEVELOPMENT, OTHERS, TEST = [12, 9_272], [10_001, 11_251], [10_270, 10_309]
LISTS = {
    "veri_test": "1 id10270/{0}/00001.wav id10270/{1}/00001.wav\n0 id10309/{0}/00001.wav id10270/{0}/00001.wav\n",
    "list_test_all": "0 id10001/{0}/00001.wav id11251/{0}/00001.wav\n1 id10001/{1}/00001.wav id10001/{0}/00001.wav\n",
    "list_test_hard2": "0 id10001/{0}/00001.wav id10270/{1}/00001.wav\n1 id11251/{1}/00001.wav id11251/{0}/00001.wav\n",
}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two recordings of each of two speakers that train and four that test, and three lists of trials."""
    write_speakers(tmp_path / "voxceleb2" / "dev" / "wav", DEVELOPMENT, 2, (0.2, 0.4))
    write_speakers(tmp_path / "voxceleb1" / "wav", OTHERS + TEST, 2, (0.2, 0.4))
    for name, lines in LISTS.items():
        (tmp_path / f"{name}.txt").write_text(lines.format(*VIDEOS))
    return tmp_path


def test_both_sets_are_read(root: Path) -> None:
    splits = data.load("voxceleb2", root, sound=SOUND)
    assert (splits.protocol, splits.channels, splits.image_size, splits.frames) == ("voxceleb1", 1, 8, 20)
    assert splits.train.class_names == ["id00012", "id09272"]
    assert splits.test.class_names == ["id10001", "id10270", "id10309", "id11251"]
    assert splits.train.batch(range(4))[0].shape == (4, 1, 8, 20)
    assert splits.test.batch(range(8))[0].shape == (8, 1, 8, 30)
    assert list(splits.trials) == ["veri_test", "list_test_all", "list_test_hard2"]
    assert all(trials.same.dtype == torch.bool and len(trials) == 2 for trials in splits.trials.values())
    assert splits.trials["list_test_hard2"].pairs.tolist() == [[0, 3], [7, 6]]
    for trials in splits.trials.values():
        assert torch.equal(
            trials.same, splits.test.labels[trials.pairs[:, 0]] == splits.test.labels[trials.pairs[:, 1]]
        )
    assert "2 train and 4 test speakers, trials in list_test_all.txt" in voxceleb2.probe(root)


def test_the_forty_test_speakers_alone(root: Path) -> None:
    splits = data.load("voxceleb2", root, sound=SOUND, protocol="voxceleb1-test")
    assert splits.test.class_names == ["id10270", "id10309"] and list(splits.trials) == ["veri_test"]
    assert splits.trials["veri_test"].pairs.tolist() == [[0, 1], [2, 0]]


def test_both_may_lie_in_one_folder_and_in_flac(root: Path) -> None:
    before = data.load("voxceleb2", root, sound=SOUND)
    recorded = before.train.batch([3], keys=[1])[0]
    for part in ("voxceleb2/dev", "voxceleb1"):
        for file in (root / part).rglob("*.wav"):
            samples, rate = soundfile.read(file, dtype="int16")
            soundfile.write(file.with_suffix(".flac"), samples, rate, subtype="PCM_16")
            file.unlink()
    (root / "dev").mkdir()
    shutil.move(root / "voxceleb2" / "dev" / "wav", root / "dev" / "aac")
    shutil.move(root / "voxceleb1" / "wav", root / "dev" / "wav")
    (root / "voxceleb1").rmdir()
    splits = data.load("voxceleb2", root, sound=SOUND)
    assert splits.train.class_names == before.train.class_names and splits.test.class_names == before.test.class_names
    assert torch.equal(splits.train.batch([3], keys=[1])[0], recorded)
    assert splits.trials["veri_test"].pairs.tolist() == before.trials["veri_test"].pairs.tolist()


def test_what_is_missing_is_said(root: Path) -> None:
    with pytest.raises(
        data.DataError, match=r"VoxCeleb2 not found: .* has no folder of a speaker of VoxCeleb2\. .*vox2"
    ):
        data.load("voxceleb2", root / "voxceleb1")
    with pytest.raises(data.DataError, match=r"VoxCeleb1 not found: .*vox1\.html"):
        data.load("voxceleb2", root / "voxceleb2")
    for file in (root / "voxceleb2" / "dev" / "wav" / "id09272").rglob("*.wav"):
        file.rename(file.with_suffix(".m4a"))
    with pytest.raises(data.DataError, match=r"id09272 has m4a files, which are to be converted first\. .*ffmpeg -i"):
        data.load("voxceleb2", root)


def test_counts_are_checked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        data.DataError, match="train has 4 recordings, -1,092,005 against the published 1,092,009; 2 sp"
    ):
        data.load("voxceleb2", root, check_counts=True)
    monkeypatch.setattr(voxceleb2, "PUBLISHED", (4, 2))
    with pytest.raises(data.DataError, match=r"test has 8 recordings, -153,508 .* published 153,516; 4 .*1,251"):
        data.load("voxceleb2", root, check_counts=True)
    with pytest.raises(data.DataError, match=r"test has 4 recordings, -4,870 against the published 4,874; 2 .* 40"):
        data.load("voxceleb2", root, check_counts=True, protocol="voxceleb1-test")
    assert len(VoxCeleb2(root, "test", protocol="voxceleb1-test")) == 4 and len(VoxCeleb2(root)) == 4
    with pytest.raises(ValueError, match="protocol must be one of voxceleb1, voxceleb1-test, got 'hard'"):
        VoxCeleb2(root, protocol="hard")


def test_trials_of_recordings_that_are_not_there(root: Path) -> None:
    (root / "voxceleb1" / "wav" / "id10309" / VIDEOS[0] / "00001.wav").unlink()
    with pytest.raises(
        data.DataError, match=r"veri_test\.txt, line 2: the recording 'id10309/\w+/00001.wav' is not amo"
    ):
        data.load("voxceleb2", root, sound=SOUND)
    with pytest.warns(UserWarning, match=r"veri_test\.txt: 1 trials are of recordings that are not there"):
        splits = data.load("voxceleb2", root, sound=SOUND, on_broken="skip")
    assert splits.trials["veri_test"].same.tolist() == [True]
    (root / "veri_test.txt").write_text(f"0 id10309/{VIDEOS[0]}/00001.wav id10270/{VIDEOS[0]}/00001.wav\n")
    with pytest.raises(data.DataError, match=r"veri_test\.txt: none of its trials is of the 7 recordings"):
        data.load("voxceleb2", root, sound=SOUND, on_broken="skip")


@pytest.mark.parametrize("cache", ["none", "memory"])
@pytest.mark.parametrize("augment", ["crop", "noise-reverb", "none"])
def test_workers_and_memory_change_no_batch(root: Path, tmp_path: Path, cache: str, augment: str) -> None:
    options = SOUND
    if augment == "noise-reverb":
        options = data.SoundOptions(8, 20, 30, musan=write_musan(tmp_path), rirs=write_rirs(tmp_path))
    plan = [[0, 3, 1, 2], [2, 2, 0, 1]]
    epochs = []
    for kept, workers in (("none", 0), (cache, 2)):
        splits = data.load("voxceleb2", root, sound=options, cache=kept, augment=augment)
        loader = data.EpochLoader(splits.train, seed=3, num_workers=workers)
        epochs.append([*loader.epoch(plan, 0), *loader.epoch(plan, 1, start_step=1)])
        epochs[-1] += [*data.EvaluationBatches(splits.test, 5, workers), *data.EvaluationBatches(splits.train, 3)]
    assert len(epochs[0]) == len(epochs[1]) == 7
    for (images, labels), (same_images, same_labels) in zip(*epochs, strict=True):
        assert torch.equal(images, same_images) and torch.equal(labels, same_labels)
    assert torch.equal(epochs[0][1][0], epochs[0][2][0]) == (augment == "none")  # two epochs of one plan
    assert torch.equal(epochs[0][1][0][0], epochs[0][1][0][1]) == (augment == "none")  # one recording twice


def test_memory_keeps_features(root: Path) -> None:
    train = data.load("voxceleb2", root, sound=SOUND, cache="memory").train
    before = train.batch(range(4), keys=range(4))[0], train.without_augmentation().batch(range(4))[0]
    shutil.rmtree(root / "voxceleb2")
    assert torch.equal(train.batch(range(4), keys=range(4))[0], before[0])
    assert torch.equal(train.without_augmentation().batch(range(4))[0], before[1])


def test_held_out_speakers_are_judged_as_those_that_test(root: Path) -> None:
    write_speakers(root / "voxceleb2" / "dev" / "wav", [20, 30, 40], 2, (0.2, 0.4))
    splits = data.hold_out(data.load("voxceleb2", root, sound=SOUND), 0.4, 0)
    assert splits.validation is not None and list(splits.trials) == ["veri_test", "list_test_all", "list_test_hard2"]
    assert len(splits.train.class_names) == 3 and len(splits.validation.class_names) == 2
    assert splits.validation[0].shape == (1, 8, 30) and splits.train[0].shape == (1, 8, 20)


@pytest.mark.parametrize("workers", [0, 2])
def test_broken_recordings_are_named_or_skipped(root: Path, workers: int) -> None:
    file = root / "voxceleb2" / "dev" / "wav" / "id00012" / VIDEOS[0] / "00001.wav"
    file.write_bytes(file.read_bytes()[:500])
    strict = data.EpochLoader(data.load("voxceleb2", root, sound=SOUND).train, seed=0, num_workers=workers)
    with pytest.raises(data.DataError, match=re.escape(str(file)) + " cannot be decoded"):
        list(strict.epoch([[0, 2]], 0))
    train = data.load("voxceleb2", root, sound=SOUND, on_broken="skip").train
    with pytest.warns(UserWarning, match="skipped as on_broken"):
        images, labels = next(data.EpochLoader(train, seed=0, num_workers=workers).epoch([[0, 2]], 0))
    assert labels.tolist() == [0, 1] and images.shape == (2, 1, 8, 20)
    with pytest.warns(UserWarning, match="skipped as on_broken"):
        train = data.load("voxceleb2", root, sound=SOUND, on_broken="skip").train
        assert sum(len(labels) for _, labels in data.EvaluationBatches(train, 2, workers)) == 3


def test_damaged_noise_stops_a_worker_by_name(root: Path, tmp_path: Path) -> None:
    musan = write_musan(tmp_path, 1)
    for file in musan.rglob("*.wav"):
        file.write_bytes(b"no sound")
    splits = data.load("voxceleb2", root, sound=data.SoundOptions(8, 20, musan=musan))
    assert splits.train.transform.random
    with pytest.raises(data.DataError, match=r"musan/\w+/[\w-]+/[\w-]+-0000\.wav cannot be decoded"):
        list(data.EpochLoader(splits.train, seed=0, num_workers=1).epoch([[0, 1, 2, 3] * 3], 0))
