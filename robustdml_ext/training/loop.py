"""The training loop: one method, one stream of batches, checkpoints from which a run goes on bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from robustdml_ext.methods import Batch, Context, Method
from robustdml_ext.recipes import Recipe
from robustdml_ext.training import folder as names
from robustdml_ext.training.batches import TrainingBatches, epochs_of
from robustdml_ext.training.checkpoint import (
    copy_atomically,
    keep_copy,
    load_checkpoint,
    save_checkpoint,
    write_atomically,
)
from robustdml_ext.training.errors import InterruptedRunError, NonFiniteLossError, RunRefusedError
from robustdml_ext.training.metrics import MetricsLog, RunningMeans
from robustdml_ext.training.optimizer import build_optimizer
from robustdml_ext.training.precision import Precision
from robustdml_ext.training.processes import Processes
from robustdml_ext.training.progress import TrainingProgress
from robustdml_ext.training.schedule import Schedule
from robustdml_ext.training.state import (
    check_same_recipe,
    describe_recipe,
    load_weights,
    random_state,
    restore_random_state,
)
from robustdml_ext.training.stopwatch import Stopwatch
from robustdml_ext.training.summary import TrainingSummary
from robustdml_ext.training.watch import LossWatch, Seen, StopRequest, is_finite

Evaluate = Callable[[Method], dict[str, float]]


# What an epoch's line tells beside the loss: the players' terms, whose sum says little (figure 7 of DAML).
EPOCH_TERMS = ("loss/metric", "loss/generator")


class Trainer:
    """Trains a method.

    Args:
        method: on its device already.
        batches: the stream; its length is the number of steps of the whole run.
        recipe: the options; their training part is what a resumed run must share.
        folder: where the run is written; it must exist.
        processes: this process's place among those of the run.
        context: the same, as the method needs it.
        precision: arithmetic and memory order.
        evaluate: called on process 0 after every ``recipe.evaluate_every`` epochs; returns metrics to record.
        evaluate_seen: the same of the classes that are trained on, for the curves alone.
        console: where progress is shown.
    """

    def __init__(
        self,
        method: Method,
        batches: TrainingBatches,
        recipe: Recipe,
        folder: Path,
        processes: Processes,
        context: Context,
        precision: Precision,
        evaluate: Evaluate | None = None,
        evaluate_seen: Evaluate | None = None,
        console: Console | None = None,
    ) -> None:
        self.method, self.batches, self.recipe, self.folder = method, batches, recipe, folder
        self.processes, self.context, self.precision = processes, context, precision
        self.evaluate, self.evaluate_seen = evaluate, evaluate_seen
        self.console = console or Console()
        groups = method.parameter_groups(recipe.learning_rate, recipe.weight_decay)
        self.optimizer = build_optimizer(recipe.optimizer, groups, recipe.learning_rate)
        self._parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self._schedule = Schedule(self.optimizer, recipe, batches.epochs)
        # On the device: targets drawn on the CPU would make the GPU wait at every step.
        self.generator = torch.Generator(device=processes.device).manual_seed(recipe.seed)
        self.summary = TrainingSummary()
        self._clock = Stopwatch(processes.device, self.summary.seconds)
        method.measure = self._clock.measure
        self.log: MetricsLog | None = None
        self._means, self._epoch_mean = RunningMeans(), RunningMeans()
        self._watch = LossWatch(processes.device)
        self._saved = -1
        self._stopping = False

    @property
    def step(self) -> int:
        """Optimizer steps done."""
        return self.summary.steps

    def run(self, *, go_on: bool = False) -> TrainingSummary:
        """Train to the end of the stream, from the beginning or from ``last.pt``.

        Raises:
            RunRefusedError: the checkpoint is broken, or belongs to another recipe or a longer run.
            NonFiniteLossError: the loss became NaN or infinite.
            InterruptedRunError: Ctrl-C or SIGTERM; a checkpoint was saved.
        """
        position = self._restore() if go_on else 0
        if self.processes.writes:
            self.log = MetricsLog(self.folder, position=position, step=self.step, tensorboard=self.recipe.tensorboard)
        try:
            with StopRequest() as stop, self._progress() as progress:
                self._train(stop, progress)
        finally:
            if self.log is not None:
                self.log.close()
        return self.summary

    def _progress(self) -> TrainingProgress:
        return TrainingProgress(
            self.console,
            self.step,
            self.batches.steps,
            self.batches.steps_per_epoch,
            quiet=not self.processes.writes,
        )

    def _train(self, stop: StopRequest, progress: TrainingProgress) -> None:
        self.method.train()
        per_epoch, last = self.batches.steps_per_epoch, self.batches.steps
        save_every = self.recipe.save_every or per_epoch
        incoming = self.batches.since(self.step)
        self._clock.restart()
        while self.step < last:
            incoming_batch = next(incoming)
            self._clock.lap("data")
            if self.step % per_epoch == 0 or self._schedule.epoch is None:
                self.method.epoch = self.step // per_epoch
                self._schedule.begin(self.method.epoch)
            self._one_step(*incoming_batch, stop)
            self._clock.lap("step")
            progress.step(self.step)
            if self.step % self.recipe.log_every == 0:
                self._write("train", self._means.read(), progress)
                self._clock.lap("step")
                self._clock.read()
            best = None
            if self.step % per_epoch == 0 or self.step == last:
                best = self._end_epoch(progress)
                self._clock.lap("evaluation")
            if best is not None or self._stopping or self.step == last or self.step % save_every == 0:
                self.save(best=bool(best))
                self._clock.lap("checkpoint")
            if self._stopping:
                raise InterruptedRunError(self.step, self.folder / names.LAST)
        if self._saved != self.step:
            self.save()
        if self.processes.writes and not self.recipe.selects:
            copy_atomically(self.folder / names.LAST, self.folder / names.BEST)

    def _one_step(self, images: Tensor, labels: Tensor, indices: Tensor, stop: StopRequest) -> None:
        """Take one optimizer step, and find out whether all processes agree to stop after it."""
        device = self.processes.device
        places = indices.to(device, non_blocking=True)
        batch = Batch(self.precision.images(images), labels.to(device, non_blocking=True), places)
        before = self.generator.get_state()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.step = self.step
        with self.precision.autocast(), self._clock.measure("forward"):
            output = self.method.training_step(batch, self.generator, self.context)
        step = self.step + 1
        if device.type == "cpu" and not is_finite(output.loss.item()):
            # Nothing has to wait on the CPU, so the weights need not take the bad step either.
            self._refuse(Seen(step, output.loss.item(), False, (batch.images, batch.labels, places), before))
        with self._clock.measure("backward"):
            output.loss.backward()  # type: ignore[no-untyped-call]
            asked = self._gather_gradients(stop)
        with self._clock.measure("update"):
            self.optimizer.step()
        self.summary.steps = step
        self._means.add({"loss": output.loss, **output.log})
        self._epoch_mean.add({"loss": output.loss} | {k: v for k, v in output.log.items() if k in EPOCH_TERMS})
        self._stopping |= stop.asked if asked is None else False
        for seen in self._watch.push(step, output.loss, asked, (batch.images, batch.labels, places), before):
            self._judge(seen)

    def _gather_gradients(self, stop: StopRequest) -> Tensor | None:
        if self.processes.world_size == 1:
            return None
        self.method.before_sum(self.context)
        asked = torch.full((1,), float(stop.asked), device=self.processes.device)
        self.processes.sum_gradients(self._parameters, also=asked)
        return asked

    def _judge(self, seen: Seen) -> None:
        if not is_finite(seen.loss):
            self._refuse(seen)
        self._stopping |= seen.stop

    def _refuse(self, seen: Seen) -> None:
        path = self.folder / names.NAN_BATCH
        content = seen.content(self.context)
        if self.processes.writes:
            write_atomically(path, lambda file: torch.save(content, file))
        raise NonFiniteLossError(seen.step, seen.loss, path)

    def _write(self, kind: str, values: dict[str, float], progress: TrainingProgress) -> None:
        if self.log is None or not values:
            return
        self.log.write(kind, self.step, epochs_of(self.step, self.batches.steps_per_epoch), values)
        if "loss" in values:
            progress.loss(values["loss"])

    def _end_epoch(self, progress: TrainingProgress) -> bool | None:
        """Record the epoch; return None, or if it was evaluated, whether it is the best one so far.

        Every process answers None alike, so that all of them save, and read their losses, at the same steps.
        """
        per_epoch = self.batches.steps_per_epoch
        epoch, whole = epochs_of(self.step, per_epoch), self.step % per_epoch == 0
        # An epoch that --iterations cuts short goes on, and is counted whole, where the run is resumed with more.
        means = self._epoch_mean.read() if whole else self._epoch_mean.peek()
        self._clock.lap("step")  # as reading waits for the device
        self.summary.epochs[epoch - 1 :] = [means["loss"]]
        self._write("epoch", means, progress)
        device, every, best = self.processes.device, self.recipe.evaluate_every, None
        judged = self.recipe.select_on if self.recipe.selects else "test"
        # What selects, and a curve over iterations, end with the run; one over epochs with the last that is due.
        to_the_end = self.recipe.selects or self.recipe.iterations is not None
        ends = to_the_end and self.step == self.batches.steps
        due = bool(every) and (epoch % every == 0 or ends)
        drawn_on = [device] if device.type == "cuda" else []
        found: dict[str, float] = {}
        if due and self.evaluate is not None:
            best = False
            self.method.settle(self.context)
            if self.processes.writes:
                # The evaluation may draw; the training must not notice.
                with torch.random.fork_rng(drawn_on):
                    found = self.evaluate(self.method)
                    seen = {} if self.evaluate_seen is None else self.evaluate_seen(self.method)
                self.method.train()
                self._write(judged, found, progress)
                self._write("seen", seen, progress)
                # Before all of the method is at work there is nothing of it to choose.
                best = self.recipe.selects and epoch > self.recipe.phases_before and self.summary.improves(found, epoch)
            self.processes.barrier()
        progress.epoch(self.step, means, found, judged)
        return best

    def save(self, *, best: bool = False) -> None:
        """Write (``best.pt`` and) ``last.pt``, after every step so far is known to have had a finite loss."""
        for seen in self._watch.drain():
            self._judge(seen)
        self._saved = self.step
        self.method.settle(self.context)
        if self.log is None:
            return
        self._clock.read()
        last, state = self.folder / names.LAST, self._state(self.log.sync())
        if best:
            # First: once last.pt holds this score, a resumed run would never choose these weights again.
            save_checkpoint(self.folder / names.BEST, state)
        save_checkpoint(last, state)
        keep_copy(last, self.step, self.recipe.keep)

    def _state(self, position: int) -> dict[str, Any]:
        return {
            "recipe": describe_recipe(self.recipe, self.precision),
            "step": self.step,
            "epoch": self.step // self.batches.steps_per_epoch,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": random_state(self.generator, self.processes.device),
            "metrics": {
                "position": position,
                "means": self._means.state(),
                "epoch_mean": self._epoch_mean.state(),
                "seconds": dict(self.summary.seconds),
                "epochs": list(self.summary.epochs),
            },
            "best": self.summary.best,
        }

    def _restore(self) -> int:
        """Go back to ``last.pt``; return how many bytes of ``metrics.jsonl`` belong to it."""
        path = self.folder / names.LAST
        state = load_checkpoint(path)
        check_same_recipe(state["recipe"], self.recipe, self.precision, self.batches.steps_per_epoch)
        if state["step"] > self.batches.steps:
            iterations, epochs = self.recipe.iterations, self.recipe.epochs
            asked = f"--epochs {epochs}" if iterations is None else f"--iterations {iterations}"
            raise RunRefusedError(f"{path} has {state['step']} steps, more than the {self.batches.steps} of {asked}")
        load_weights(self.method, state["method"], str(path))
        self.optimizer.load_state_dict(state["optimizer"])
        restore_random_state(state["random"], self.generator, self.processes.device)
        metrics = state["metrics"]
        self._means.restore(metrics["means"])
        self._epoch_mean.restore(metrics["epoch_mean"])
        self.summary.steps, self.summary.best, self.summary.epochs = state["step"], state["best"], metrics["epochs"]
        self.summary.take_time(metrics["seconds"])
        self._saved = self.step
        return int(metrics["position"])
