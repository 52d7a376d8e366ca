"""Seconds by stage: parts within parts, what is left over, and a run whose parts add up to its wall time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from training.tiny import tiny_recipe, tiny_trainer

from robustdml_ext.training.stopwatch import PARTS, Stopwatch
from robustdml_ext.training.summary import STAGES, TrainingSummary


def test_an_inner_part_is_not_the_outer_ones() -> None:
    seconds: dict[str, float] = {}
    clock = Stopwatch(torch.device("cpu"), seconds)
    clock.restart()
    with clock.measure("forward"):
        time.sleep(0.02)
        with clock.measure("attack"):
            time.sleep(0.06)
    with clock.measure("backward"):
        time.sleep(0.03)
    time.sleep(0.01)
    clock.lap("step")
    clock.read()
    assert 0.02 <= seconds["forward"] < 0.05 and 0.06 <= seconds["attack"] < 0.09
    assert 0.03 <= seconds["backward"] < 0.05 and 0.01 <= seconds["other"] < 0.03 and seconds["update"] == 0
    before = dict(seconds)
    clock.read()
    assert seconds == before


def test_a_second_is_counted_once_where_the_device_works_while_the_loop_waits() -> None:
    """Parts longer than the steps' wall time, as events of a device give them, are scaled down to it."""
    seconds: dict[str, float] = {}
    clock = Stopwatch(torch.device("cpu"), seconds)
    clock.restart()
    with clock.measure("forward"):
        time.sleep(0.06)
    with clock.measure("backward"):
        time.sleep(0.02)
    clock.lap("data")  # the loop waited for images meanwhile
    time.sleep(0.02)
    clock.lap("step")
    clock.read()
    parts = seconds["forward"] + seconds["backward"]
    assert 0.02 <= parts < 0.04 and seconds["other"] == 0
    assert 2 < seconds["forward"] / seconds["backward"] < 4


def test_an_error_inside_leaves_the_clock_right() -> None:
    seconds: dict[str, float] = {}
    clock = Stopwatch(torch.device("cpu"), seconds)
    with pytest.raises(ValueError, match="x"), clock.measure("forward"), clock.measure("attack"):
        raise ValueError("x")
    with clock.measure("backward"):
        time.sleep(0.02)
    clock.lap("step")
    clock.read()
    assert seconds["backward"] >= 0.02 and seconds["forward"] < 0.01


def test_a_checkpoint_of_an_earlier_version_knows_steps_as_a_whole() -> None:
    summary = TrainingSummary(steps=3)
    summary.take_time({"data": 1.0, "step": 5.0, "evaluation": 2.0, "checkpoint": 0.5})
    assert list(summary.timing()["seconds"]) == list(STAGES)
    assert summary.seconds["other"] == 5.0 and summary.timing()["steps_per_second"] == 0.5


def test_the_stages_of_a_run_add_up(tmp_path: Path) -> None:
    trainer = tiny_trainer(tmp_path, tiny_recipe())
    began = time.perf_counter()
    seconds = trainer.run().timing()["seconds"]
    wall = time.perf_counter() - began
    assert 0.6 * wall < sum(seconds.values()) <= wall
    assert seconds["forward"] > 0 and seconds["backward"] > 0 and seconds["update"] > 0
    assert set(PARTS) < set(seconds)
