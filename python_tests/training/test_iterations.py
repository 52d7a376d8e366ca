"""A run of so many optimizer steps: its last epoch is cut short, and is an end all the same."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from training.tiny import ALONE, TinyMethod, same, tiny_recipe, tiny_trainer

from robustdml_ext.data import PKSampler, load
from robustdml_ext.methods import Batch, Context, StepOutput
from robustdml_ext.training import RunRefusedError, TrainingBatches
from robustdml_ext.training.batches import epochs_of
from robustdml_ext.training.checkpoint import load_checkpoint
from robustdml_ext.training.schedule import learning_rate_factor


def _lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


@given(steps=st.integers(0, 200), per_epoch=st.integers(1, 20))
def test_epochs_of_steps(steps: int, per_epoch: int) -> None:
    epochs = epochs_of(steps, per_epoch)
    assert (epochs - 1) * per_epoch < steps <= epochs * per_epoch


@pytest.mark.parametrize(("iterations", "epochs"), [(1, 1), (15, 1), (16, 2), (37, 3)])
def test_the_stream_ends_after_so_many_batches(iterations: int, epochs: int) -> None:
    images = load("digits").train
    sampler = PKSampler(images.labels, 60, 12, seed=3)
    cut = TrainingBatches(images, sampler, 1, 3, ALONE, iterations=iterations)
    assert (cut.steps, cut.epochs, cut.steps_per_epoch) == (iterations, epochs, 15)
    whole, found = list(TrainingBatches(images, sampler, 3, 3, ALONE).since(0)), list(cut.since(0))
    assert len(found) == iterations
    assert all(same(a, b) for a, b in zip(whole, found, strict=False))
    assert [same(a, b) for a, b in zip(found[-1:], cut.since(iterations - 1), strict=True)] == [True]


def test_so_many_steps_are_the_first_of_a_longer_run(tmp_path: Path) -> None:
    summary = tiny_trainer(tmp_path / "cut", tiny_recipe(iterations=20, epochs=0)).run()
    assert summary.steps == 20 and len(summary.epochs) == 2
    tiny_trainer(tmp_path / "longer", tiny_recipe(epochs=2, save_every=20, keep=5)).run()
    cut = load_checkpoint(tmp_path / "cut" / "last.pt")
    assert same(cut["method"], load_checkpoint(tmp_path / "longer" / "step-00000020.pt")["method"])
    assert [(line["epoch"], line["step"]) for line in _lines(tmp_path / "cut", "epoch")] == [(1, 15), (2, 20)]
    assert summary.epochs == [line["loss"] for line in _lines(tmp_path / "cut", "epoch")]


def test_more_iterations_go_on_as_if_asked_for_at_once(tmp_path: Path) -> None:
    tiny_trainer(tmp_path / "parts", tiny_recipe(iterations=20)).run()
    resumed = tiny_trainer(tmp_path / "parts", tiny_recipe(iterations=37)).run(go_on=True)
    at_once = tiny_trainer(tmp_path / "whole", tiny_recipe(iterations=37)).run()
    parts, whole = (load_checkpoint(tmp_path / name / "last.pt") for name in ("parts", "whole"))
    assert same(parts["method"], whole["method"]) and same(parts["optimizer"], whole["optimizer"])
    # The epoch that was cut short is counted whole in the end.
    assert resumed.epochs == at_once.epochs and len(at_once.epochs) == 3
    first, *others = [line["loss"] for line in _lines(tmp_path / "parts", "epoch") if line["epoch"] != 2]
    assert [first, *others] == [at_once.epochs[0], at_once.epochs[2]]
    assert [line["step"] for line in _lines(tmp_path / "parts", "epoch")] == [15, 20, 30, 37]
    assert _lines(tmp_path / "parts", "train") == _lines(tmp_path / "whole", "train")
    with pytest.raises(RunRefusedError, match="37 steps, more than the 21 of --iterations 21"):
        tiny_trainer(tmp_path / "parts", tiny_recipe(iterations=21)).run(go_on=True)


def test_the_end_of_an_epoch_cut_short_selects(tmp_path: Path) -> None:
    scores = [0.4, 0.6]
    recipe = tiny_recipe(iterations=20, epochs=0, evaluate_every=1, select_on="validation")
    assert recipe.selects
    found = tiny_trainer(tmp_path, recipe, evaluate=lambda _: {"recall@1": scores.pop(0)}).run()
    assert found.best == {"recall@1": 0.6, "epoch": 2}
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 20
    assert [line["step"] for line in _lines(tmp_path, "validation")] == [15, 20]


@pytest.mark.parametrize(("every", "steps"), [(1, [15, 30, 37]), (2, [30, 37]), (7, [37]), (0, [])])
def test_a_curve_over_iterations_ends_with_the_run(tmp_path: Path, every: int, steps: list[int]) -> None:
    recipe = tiny_recipe(iterations=37, evaluate_every=every)
    tiny_trainer(tmp_path, recipe, evaluate=lambda _: {"recall@1": 0.5}).run()
    assert [line["step"] for line in _lines(tmp_path, "test")] == steps


def test_progress_counts_epochs_up_and_names_the_step(tmp_path: Path) -> None:
    out = io.StringIO()
    console = Console(file=out, width=100)
    tiny_trainer(tmp_path / "cut", tiny_recipe(iterations=20), console=console).run()
    first, last = out.getvalue().splitlines()
    assert first.startswith("epoch 1/2, step 15/20  loss") and last.startswith("epoch 2/2, step 20/20  loss")
    tiny_trainer(tmp_path / "whole", tiny_recipe(iterations=15), console=console).run()
    assert out.getvalue().splitlines()[-1].startswith("epoch 1/1  loss")


def test_a_cosine_ends_with_the_iterations(tmp_path: Path) -> None:
    recipe = tiny_recipe(schedule="cosine", iterations=20, epochs=100)
    tiny_trainer(tmp_path, recipe).run()
    rate = load_checkpoint(tmp_path / "last.pt")["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(0.01 * learning_rate_factor(recipe, 1, 2)) == pytest.approx(0.005)
    with pytest.raises(RunRefusedError, match=r"iterations: the run has 20, asked for 31(.|\n)*cosine"):
        tiny_trainer(tmp_path, tiny_recipe(schedule="cosine", iterations=31, epochs=100)).run(go_on=True)
    with pytest.raises(RunRefusedError, match=r"iterations: the run has 20, asked for None(.|\n)*cosine"):
        tiny_trainer(tmp_path, tiny_recipe(schedule="cosine", epochs=100)).run(go_on=True)
    # Within the epoch that was cut short the schedule is the same.
    assert tiny_trainer(tmp_path, tiny_recipe(schedule="cosine", iterations=30)).run(go_on=True).steps == 30


class _Noting(TinyMethod):
    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        output = super().training_step(batch, generator, context)
        output.log["at"] = float(self.epoch)
        return output


def test_a_method_knows_its_epoch_also_when_resumed_within_one(tmp_path: Path) -> None:
    assert TinyMethod().epoch == 0

    def run(iterations: int, *, go_on: bool) -> None:
        trainer = tiny_trainer(tmp_path, tiny_recipe(iterations=iterations, log_every=1))
        trainer.method.__class__ = _Noting
        trainer.run(go_on=go_on)
        assert type(trainer.method.epoch) is int

    run(20, go_on=False)
    run(47, go_on=True)
    found = [line["at"] for line in _lines(tmp_path, "train")]
    assert found == [float(step // 15) for step in range(47)]
