"""The loop: resumed runs equal uninterrupted ones bit for bit; NaN, Ctrl-C, selection, curves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training.tiny import TinyMethod, same, tiny_recipe, tiny_trainer

from robustdml_ext.methods import Batch, Context, StepOutput
from robustdml_ext.training import InterruptedRunError, NonFiniteLossError, RunRefusedError
from robustdml_ext.training.checkpoint import load_checkpoint, save_checkpoint


def _final(folder: Path) -> dict[str, Any]:
    state = load_checkpoint(folder / "last.pt")
    del state["metrics"]["seconds"]
    return state


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    tiny_trainer(folder, tiny_recipe(save_every=7)).run()
    return folder


def test_it_learns_and_counts(tmp_path: Path) -> None:
    summary = tiny_trainer(tmp_path, tiny_recipe(epochs=4)).run()
    assert summary.steps == 60 and len(summary.epochs) == 4
    assert summary.epochs[-1] < 0.7 * summary.epochs[0]
    assert (tmp_path / "best.pt").read_bytes() == (tmp_path / "last.pt").read_bytes()


def test_the_same_recipe_gives_the_same_bits(whole: Path, tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(save_every=7)).run()
    assert same(_final(whole), _final(tmp_path))
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()
    tiny_trainer(tmp_path / "other", tiny_recipe(seed=1)).run()
    assert not same(_final(whole)["method"], _final(tmp_path / "other")["method"])


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deaths=st.lists(st.integers(1, 30), min_size=1, max_size=3))
def test_a_resumed_run_equals_an_uninterrupted_one(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, deaths: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("resumed")
    for death in [*deaths, None]:
        trainer = tiny_trainer(folder, tiny_recipe(save_every=7))
        assert isinstance(trainer.method, TinyMethod)
        trainer.method.die_at = death
        try:
            trainer.run(go_on=(folder / "last.pt").exists())
        except KeyboardInterrupt:
            continue
    assert same(_final(whole), _final(folder))
    assert (whole / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


_VICTIMS = """
import os, signal, sys
from pathlib import Path
import torch
from training.tiny import tiny_recipe, tiny_trainer

torch.set_num_threads(1)
folder = Path(sys.argv[1])


def run(moment, count):
    trainer = tiny_trainer(folder, tiny_recipe(save_every=7))
    save, step, seen = torch.save, trainer.method.training_step, 0

    def half(state, file):
        nonlocal seen
        seen += 1
        if seen == count:
            file.write(b"half a checkpoint")
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        save(state, file)

    def dying(*arguments):
        if trainer.step == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*arguments)

    if moment == "save":
        torch.save = half
    if moment == "step":
        trainer.method.training_step = dying
    trainer.run(go_on=(folder / "last.pt").exists())


for moment, count in (("step", 5), ("save", 2), ("step", 17), ("never", 0)):
    child = os.fork()
    if child == 0:
        run(moment, count)
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status == (0 if moment == "never" else -signal.SIGKILL), (moment, status)
"""


def test_killed_processes_resume_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", _VICTIMS, str(tmp_path)], check=True, env=environment)
    assert same(_final(whole)["method"], _final(tmp_path)["method"])
    assert same(_final(whole)["optimizer"], _final(tmp_path)["optimizer"])
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()


def test_more_epochs_go_on_as_if_asked_for_at_once(whole: Path, tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(epochs=1)).run()
    tiny_trainer(tmp_path, tiny_recipe(epochs=2)).run(go_on=True)
    assert same(_final(whole)["method"], _final(tmp_path)["method"])
    with pytest.raises(RunRefusedError, match="30 steps, more than the 15 of --epochs 1"):
        tiny_trainer(tmp_path, tiny_recipe(epochs=1)).run(go_on=True)


def test_reading_processes_change_nothing(whole: Path, tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(workers=1)).run()
    assert same(_final(whole)["method"], _final(tmp_path)["method"])


def test_resume_names_what_differs(whole: Path) -> None:
    before = (whole / "last.pt").read_bytes()
    with pytest.raises(RunRefusedError) as caught:
        tiny_trainer(whole, tiny_recipe(epsilon=0.5, batch_size=48, workers=1)).run(go_on=True)
    message = str(caught.value)
    assert "epsilon: the run has 0.01, asked for 0.5" in message and "batch_size" in message
    assert "workers" not in message and "seed" not in message
    assert (whole / "last.pt").read_bytes() == before


def test_resume_refuses_curves_that_are_not_its_own(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(epochs=1)).run()
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(RunRefusedError, match=r"metrics\.jsonl has 0 bytes"):
        tiny_trainer(tmp_path, tiny_recipe(epochs=2)).run(go_on=True)


def test_curves_hold_means_by_step_and_by_epoch(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train] == [4, 8, 12, 16, 20, 24, 28]
    assert [line["epoch"] for line in train] == [1, 1, 1, 2, 2, 2, 2]
    assert all(line["doubled"] == pytest.approx(2 * line["loss"], rel=1e-6) and line["one"] == 1.0 for line in train)
    epochs = [line for line in lines if line["kind"] == "epoch"]
    assert [(line["epoch"], line["step"]) for line in epochs] == [(1, 15), (2, 30)]


class _Nan(TinyMethod):
    at = 5
    value = float("nan")

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        output = super().training_step(batch, generator, context)
        if self.calls == self.at:
            output.loss = output.loss * self.value
        return output


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_non_finite_loss_stops_before_the_weights_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    trainer = tiny_trainer(tmp_path, tiny_recipe(save_every=2))
    trainer.method.__class__ = _Nan
    monkeypatch.setattr(_Nan, "value", value)
    with pytest.raises(NonFiniteLossError, match=r"step 5.*nan_batch\.pt"):
        trainer.run()
    saved = torch.load(tmp_path / "nan_batch.pt", weights_only=True)
    assert saved["step"] == 5 and saved["images"].shape == (60, 1, 8, 8) and saved["labels"].shape == (60,)
    assert all(torch.isfinite(weight).all() for weight in trainer.method.state_dict().values())
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 4
    # The saved generator and batch replay the step.
    expected = next(tiny_trainer(tmp_path / "again", tiny_recipe()).batches.since(4))
    assert torch.equal(saved["images"], expected[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_saves_at_the_step_boundary(whole: Path, tmp_path: Path, number: int) -> None:
    before = signal.getsignal(number)

    class Asked(TinyMethod):
        def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
            output = super().training_step(batch, generator, context)
            if self.calls == 9:
                os.kill(os.getpid(), number)
            return output

    trainer = tiny_trainer(tmp_path, tiny_recipe(save_every=7))
    trainer.method.__class__ = Asked
    with pytest.raises(InterruptedRunError, match=r"after step 9.*--resume"):
        trainer.run()
    assert signal.getsignal(number) == before
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 9
    tiny_trainer(tmp_path, tiny_recipe(save_every=7)).run(go_on=True)
    assert same(_final(whole), _final(tmp_path))
    assert (whole / "metrics.jsonl").read_bytes() == (tmp_path / "metrics.jsonl").read_bytes()


def test_training_works_outside_the_main_thread(tmp_path: Path) -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(tiny_trainer(tmp_path, tiny_recipe(epochs=1)).run().steps))
    thread.start()
    thread.join()
    assert found == [15]


def test_evaluations_are_recorded_and_do_not_touch_the_training(whole: Path, tmp_path: Path) -> None:
    def evaluate(method: torch.nn.Module) -> dict[str, float]:
        method.eval()
        return {"recall@1": float(torch.rand(()))}

    tiny_trainer(tmp_path, tiny_recipe(save_every=7, evaluate_every=1), evaluate=evaluate).run()
    assert same(_final(whole)["method"], _final(tmp_path)["method"])
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "test"] == [1, 2]


@pytest.mark.parametrize("select_on", ["validation", "test"])
def test_best_is_kept_only_where_selection_was_asked_for(tmp_path: Path, select_on: str) -> None:
    scores = [0.2, 0.9, 0.9, 0.4]

    def recipe(**fields: Any) -> Any:
        return tiny_recipe(epochs=4, evaluate_every=1, **fields)

    def run(name: str, **fields: Any) -> Any:
        left = list(scores)
        trainer = tiny_trainer(tmp_path / name, recipe(**fields), evaluate=lambda _: {"recall@1": left.pop(0)})
        return trainer.run()

    assert run("last").best is None
    assert load_checkpoint(tmp_path / "last" / "best.pt")["step"] == 60
    assert run("selected", select_on=select_on).best == {"recall@1": 0.9, "epoch": 2}
    assert load_checkpoint(tmp_path / "selected" / "best.pt")["step"] == 30
    assert load_checkpoint(tmp_path / "selected" / "last.pt")["step"] == 60


def test_older_checkpoints_are_kept_on_request(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(save_every=5, keep=2)).run()
    assert sorted(path.name for path in tmp_path.glob("step-*.pt")) == [
        "step-00000025.pt",
        "step-00000030.pt",
    ]


def test_no_epochs_is_a_run_too(tmp_path: Path) -> None:
    assert tiny_trainer(tmp_path, tiny_recipe(epochs=0)).run().steps == 0
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 0


def test_tensorboard_curves_are_written(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(epochs=1, tensorboard=True)).run()
    assert any(path.stat().st_size > 0 for path in (tmp_path / "tensorboard").iterdir())


def test_saving_right_after_a_resume_records_the_length_of_the_curves(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(epochs=1)).run()
    (tmp_path / "metrics.jsonl").write_bytes(
        (tmp_path / "metrics.jsonl").read_bytes() + b"written after the checkpoint"
    )
    for _ in range(2):
        trainer = tiny_trainer(tmp_path, tiny_recipe(epochs=2, log_every=100, save_every=1))
        assert isinstance(trainer.method, TinyMethod)
        trainer.method.die_at = 2
        with pytest.raises(KeyboardInterrupt):
            trainer.run(go_on=True)


def test_a_kill_between_the_two_checkpoints_loses_no_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = [0.2, 0.9]

    def run(*, go_on: bool) -> None:
        recipe = tiny_recipe(evaluate_every=1, select_on="test")
        tiny_trainer(tmp_path, recipe, evaluate=lambda _: {"recall@1": scores.pop(0)}).run(go_on=go_on)

    def dying(path: Path, state: dict[str, Any]) -> None:
        if path.name == "last.pt" and state["step"] == 30:
            raise KeyboardInterrupt("the process dies here")
        save_checkpoint(path, state)

    monkeypatch.setattr("robustdml_ext.training.loop.save_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        run(go_on=False)
    monkeypatch.undo()
    scores[:] = [0.9]
    run(go_on=True)
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 30 == load_checkpoint(tmp_path / "last.pt")["step"]


def test_what_selects_is_evaluated_after_the_last_epoch_too(tmp_path: Path) -> None:
    asked: list[int] = []

    def evaluate(_: torch.nn.Module) -> dict[str, float]:
        asked.append(1)
        return {"recall@1": 0.5 + len(asked) / 10}

    recipe = tiny_recipe(epochs=3, evaluate_every=2, select_on="validation")
    assert tiny_trainer(tmp_path, recipe, evaluate=evaluate).run().best == {"recall@1": 0.7, "epoch": 3}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines if line["kind"] == "validation"] == [2, 3]
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 45
