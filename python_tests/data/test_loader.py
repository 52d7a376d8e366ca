from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from python_tests.data.images import truncate
from robustdml_ext import data
from robustdml_ext.data import EpochLoader, PKSampler, augmentation_keys, evaluation_batches

MakeFolder = Callable[..., Path]


@pytest.fixture
def train(make_folder: MakeFolder) -> data.LabeledImages:
    root = make_folder({name: 4 for name in "abcdef"}, "RGB", (24, 20))
    return data.load("folder", str(root), augment="crop-flip").train


def test_keys() -> None:
    keys = augmentation_keys(0, 0, 0, range(1000))
    assert len(set(keys)) == 1000 and all(0 <= key < 2**64 for key in keys)
    assert keys[500:510] == augmentation_keys(0, 0, 0, range(500, 510))
    parts = {augmentation_keys(s, e, t, [p])[0] for s in range(6) for e in range(6) for t in range(6) for p in range(6)}
    assert len(parts) == 6**4
    bits = torch.tensor([[key >> b & 1 for b in range(64)] for key in keys], dtype=torch.float32).mean(0)
    assert (bits - 0.5).abs().max() < 0.08
    augmentation_keys(-1, 0, 0, [0])


def test_same_pixels_on_any_number_of_workers_and_processes_and_after_a_resume(
    train: data.LabeledImages,
) -> None:
    plan = PKSampler(train.labels, 4, 2, 0).epoch(1)
    state = torch.get_rng_state()
    whole = list(EpochLoader(train, seed=3).epoch(plan, 1))
    assert len(whole) == 3 and whole[0][0].shape == (4, 3, 24, 24)
    assert [labels.tolist() for _, labels in whole] == [train.labels[batch].tolist() for batch in plan]
    for other in (
        list(EpochLoader(train, seed=3, num_workers=2).epoch(plan, 1)),
        [None, *EpochLoader(train, seed=3).epoch(plan, 1, start_step=1)],
    ):
        for expected, got in zip(whole, other, strict=True):
            if got is not None:
                assert torch.equal(expected[0], got[0]) and torch.equal(expected[1], got[1])
    shares = [list(EpochLoader(train, seed=3, rank=r, world_size=2).epoch(plan, 1)) for r in range(2)]
    for expected, *parts in zip(whole, *shares, strict=True):
        assert torch.equal(expected[0], torch.cat([images for images, _ in parts]))
        assert torch.equal(expected[1], torch.cat([labels for _, labels in parts]))
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(whole[0][0], next(EpochLoader(train, seed=4).epoch(plan, 1))[0])
    assert not torch.equal(whole[0][0], next(EpochLoader(train, seed=3).epoch(plan, 2))[0])


def test_wrong_arguments(train: data.LabeledImages) -> None:
    with pytest.raises(ValueError, match="rank=2"):
        EpochLoader(train, seed=0, rank=2, world_size=2)
    with pytest.raises(ValueError, match="cannot be shared evenly by 3"):
        EpochLoader(train, seed=0, world_size=3).epoch([[0, 1]], 0)
    with pytest.raises(ValueError, match="start_step"):
        EpochLoader(train, seed=0).epoch([[0, 1]], 0, -1)
    with pytest.raises(ValueError, match="batch_size"):
        evaluation_batches(train, 0)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_batches(train: data.LabeledImages, workers: int) -> None:
    batches = evaluation_batches(train, 5, num_workers=workers)
    assert len(batches) == 3
    for _ in range(2):
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert torch.equal(labels, train.labels)
        assert torch.equal(images, train.without_augmentation().batch(range(12))[0])


def test_an_error_in_a_worker_reads_like_one_at_home(sop_folder: Path) -> None:
    truncate(sop_folder / "bicycle_final" / "1001_1.JPG")
    train = data.load("sop", str(sop_folder), image_size=16).train
    with pytest.raises(data.DataError) as error:
        list(EpochLoader(train, seed=0, num_workers=1).epoch([[0, 4], [1, 5]], 0))
    assert str(error.value).startswith("image ") and "1001_1.JPG" in str(error.value)


def test_workers_report_broken_images_once(sop_folder: Path) -> None:
    truncate(sop_folder / "bicycle_final" / "1001_1.JPG")
    train = data.load("sop", str(sop_folder), image_size=16, on_broken="skip").train
    loader = EpochLoader(train, seed=0, num_workers=2)
    plan = [[0, 4], [1, 5], [1, 6], [1, 7]]
    with pytest.warns(UserWarning) as caught:
        labels = [labels.tolist() for epoch in range(2) for _, labels in loader.epoch(plan, epoch)]
    assert labels == [[0, 1]] * 8 and len([w for w in caught if "1001_1" in str(w.message)]) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_without_broken_images(sop_folder: Path, workers: int) -> None:
    for i in range(4):
        truncate(sop_folder / "cabinet_final" / f"1004_{i}.JPG")
    test = data.load("sop", str(sop_folder), image_size=16, on_broken="skip").test
    with pytest.warns(UserWarning):
        assert [labels.tolist() for _, labels in evaluation_batches(test, 4, num_workers=workers)] == [[1] * 4]
