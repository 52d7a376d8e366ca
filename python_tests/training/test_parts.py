"""The loop's small parts: means, curves, the watch, precision, folders, batches."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from training.tiny import ALONE, TinyMethod, tiny_recipe

from robustdml_ext.data import PKSampler, load
from robustdml_ext.training import Job, Processes, RunRefusedError, TrainingBatches, choose_precision
from robustdml_ext.training.folder import check_folder, prepare_folder
from robustdml_ext.training.metrics import MetricsLog, RunningMeans
from robustdml_ext.training.optimizer import build_optimizer
from robustdml_ext.training.watch import LossWatch


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20), cut=st.integers(0, 20))
def test_running_means_survive_a_checkpoint_to_the_bit(values: list[float], cut: int) -> None:
    whole, parted = RunningMeans(), RunningMeans()
    for number, value in enumerate(values):
        if number == cut:
            again = RunningMeans()
            again.restore(parted.state())
            parted = again
        for means in (whole, parted):
            means.add({"tensor": torch.tensor(value, dtype=torch.float64), "number": value})
    found = whole.read()
    assert found == parted.read()
    assert found["tensor"] == pytest.approx(sum(values) / len(values), rel=1e-9, abs=1e-6)
    assert found["number"] == pytest.approx(found["tensor"], rel=1e-9, abs=1e-6)
    assert whole.read() == {}


def test_a_name_is_averaged_over_the_steps_that_brought_it() -> None:
    means = RunningMeans()
    means.add({"a": torch.tensor(1.0), "b": 2.0})
    means.add({"a": torch.tensor(4.0)})
    again = RunningMeans()
    again.restore(means.state())
    again.add({"a": torch.tensor(7.0), "c": torch.tensor(5.0)})
    assert again.peek() == {"a": 4.0, "b": 2.0, "c": 5.0} == again.read()
    assert means.read() == {"a": 2.5, "b": 2.0} and means.read() == {}


def test_means_of_earlier_versions_checkpoints_go_on() -> None:
    means = RunningMeans()
    means.restore({"numbers": {"b": 4.0}, "names": ["a"], "sums": torch.tensor([2.0]), "count": 2})
    means.add({"b": 1.0, "a": torch.tensor(4.0)})
    assert means.read() == {"b": pytest.approx(5 / 3), "a": 2.0}
    means.restore({"numbers": {}, "names": [], "sums": None, "count": 0})
    assert means.read() == {}


def test_curves_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, tensorboard=False)
    log.write("train", 1, 1, {"loss": 0.5})
    position = log.sync()
    log.write("train", 2, 1, {"loss": 0.4})
    log.close()
    log = MetricsLog(tmp_path, position=position, step=1, tensorboard=False)
    log.write("train", 2, 1, {"loss": 0.3})
    log.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.5), (2, 0.3)]


def test_the_watch_reads_at_once_on_the_cpu() -> None:
    watch = LossWatch(torch.device("cpu"))
    batch = (torch.zeros(1), torch.zeros(1))
    (seen,) = watch.push(3, torch.tensor(0.5), torch.tensor([2.0]), batch, torch.zeros(1))
    assert (seen.step, seen.loss, seen.stop) == (3, 0.5, True)
    (seen,) = watch.push(4, torch.tensor(0.5), None, batch, torch.zeros(1))
    assert not seen.stop and watch.drain() == []


def test_the_watch_is_one_step_late_where_the_device_works_ahead() -> None:
    watch = LossWatch(torch.device("cuda"))  # losses on the CPU: only the order is looked at here
    batch = (torch.zeros(1), torch.zeros(1))
    assert watch.push(1, torch.tensor(float("nan")), None, batch, torch.zeros(1)) == []
    assert [seen.step for seen in watch.push(2, torch.tensor(1.0), None, batch, torch.zeros(1))] == [1]
    assert [seen.step for seen in watch.drain()] == [2]


@pytest.mark.parametrize(
    ("asked", "device", "name", "memory_format"),
    [
        ("auto", "cpu", "float32", torch.contiguous_format),
        ("auto", "cuda", "bfloat16", torch.channels_last),
        ("float32", "cuda", "float32", torch.channels_last),
        ("bfloat16", "cpu", "bfloat16", torch.contiguous_format),
    ],
)
def test_precision_by_device(asked: str, device: str, name: str, memory_format: torch.memory_format) -> None:
    precision = choose_precision(asked, torch.device(device))
    assert (precision.name, precision.memory_format) == (name, memory_format)


def test_bfloat16_reaches_the_network() -> None:
    with choose_precision("bfloat16", torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with choose_precision("float32", torch.device("cpu")).autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32
    with pytest.raises(ValueError, match="half"):
        choose_precision("half", torch.device("cpu"))


def test_a_run_is_never_overwritten_by_accident(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert check_folder(folder, resume=False, overwrite=False) is False
    prepare_folder(folder, go_on=False)
    (folder / "notes.txt").write_text("mine")
    assert check_folder(folder, resume=True, overwrite=False) is False  # nothing saved yet: starts afresh
    (folder / "metrics.jsonl").write_text("{}")
    (folder / ".last.pt.1.part").write_text("half")
    with pytest.raises(RunRefusedError, match=r"already holds a run \(metrics\.jsonl\).*--resume.*--overwrite.*--out"):
        check_folder(folder, resume=False, overwrite=False)
    (folder / "last.pt").write_text("x")
    assert check_folder(folder, resume=True, overwrite=False) is True
    with pytest.raises(RunRefusedError, match="one of them"):
        check_folder(folder, resume=True, overwrite=True)
    assert check_folder(folder, resume=False, overwrite=True) is False
    prepare_folder(folder, go_on=True)
    assert {path.name for path in folder.iterdir()} == {"notes.txt", "metrics.jsonl", "last.pt"}
    prepare_folder(folder, go_on=False)
    assert {path.name for path in folder.iterdir()} == {"notes.txt"}
    with pytest.raises(RunRefusedError, match="is a file"):
        check_folder(folder / "notes.txt", resume=False, overwrite=False)
    with pytest.raises(RunRefusedError, match="cannot make"):
        prepare_folder(folder / "notes.txt" / "run", go_on=False)


def test_batches_are_a_function_of_the_step_alone() -> None:
    images = load("digits").train
    sampler = PKSampler(images.labels, 60, 12, seed=3)
    batches = TrainingBatches(images, sampler, 2, 3, ALONE)
    assert (batches.steps_per_epoch, batches.steps) == (15, 30)
    everything = list(batches.since(0))
    assert len(everything) == 30
    later = list(batches.since(17))
    assert all(
        torch.equal(a, b) for x, y in zip(everything[17:], later, strict=True) for a, b in zip(x, y, strict=True)
    )
    halves = [next(TrainingBatches(images, sampler, 2, 3, Processes(r, 2, ALONE.device)).since(29)) for r in (0, 1)]
    assert torch.equal(torch.cat([half[0] for half in halves]), everything[29][0])
    with pytest.raises(RunRefusedError, match="60 for 7"):
        TrainingBatches(images, sampler, 2, 3, Processes(0, 7, ALONE.device))


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_optimizers_honor_the_groups(name: str) -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    groups = [{"params": [weights[0]], "weight_decay": 0.1}, {"params": [weights[1]], "lr": 0.0}]
    optimizer = build_optimizer(name, groups, 0.1)
    for weight in weights:
        weight.grad = torch.ones(2)
    optimizer.step()
    assert (weights[0] < 1).all() and torch.equal(weights[1], torch.ones(2))
    with pytest.raises(ValueError, match="lion"):
        build_optimizer("lion", groups, 0.1)


def test_selection_never_falls_back_to_test_classes() -> None:
    recipe = tiny_recipe(select_on="validation", evaluate_every=1)
    with pytest.raises(ValueError, match=r"validation split; take one by data\.hold_out"):
        Job(recipe, load("digits"), TinyMethod(), ALONE)
