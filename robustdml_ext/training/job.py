"""A whole run: train, judge, and write its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from robustdml_ext import reporting
from robustdml_ext.data import DataSplits, PKSampler
from robustdml_ext.methods import Context, Method, Prototypes
from robustdml_ext.recipes import Published, Recipe, write_recipe_file
from robustdml_ext.training import folder as names
from robustdml_ext.training.batches import SideBySidePlans, TrainingBatches
from robustdml_ext.training.errors import RunRefusedError
from robustdml_ext.training.loop import Trainer
from robustdml_ext.training.precision import choose_precision
from robustdml_ext.training.processes import Processes
from robustdml_ext.training.result import evaluate_clean, evaluate_seen, finish_run
from robustdml_ext.training.task_result import evaluate_prototypes

SEEDS_APART = 1_000_003


class Job:
    """A recipe with everything that it describes, placed on this process's device and ready to run.

    Args:
        recipe: the options.
        splits: images to train on, and to test on.
        method: built alike in every process; its weights are then taken from process 0.
        processes: this process's place among those of the run.

    Raises:
        ValueError: the batch does not fit the data set, or there is no validation split to select on.
        RunRefusedError: the batch cannot be shared out evenly over the processes.
    """

    def __init__(self, recipe: Recipe, splits: DataSplits, method: Method, processes: Processes) -> None:
        if recipe.select_on == "validation" and recipe.selects and splits.validation is None:
            raise ValueError("splits: select_on validation needs a validation split; take one by data.hold_out")
        self.recipe, self.splits, self.method, self.processes = recipe, splits, method, processes
        # A method with several plans trains as many networks, each on an order of its own.
        samplers = [
            PKSampler(
                splits.train.labels, recipe.batch_size, recipe.samples_per_class, recipe.seed + SEEDS_APART * plan
            )
            for plan in range(method.plans)
        ]
        sampler = samplers[0] if method.plans == 1 else SideBySidePlans(samplers)
        self.batches = TrainingBatches(
            splits.train, sampler, recipe.epochs, recipe.seed, processes, recipe.workers, recipe.iterations
        )
        if recipe.hard_negatives and 0 < self.batches.epochs <= recipe.phases_before:
            raise RunRefusedError(
                "hard_negatives_pretrain and hard_negatives_alone must leave epochs for the metric to meet synthetic "
                f"negatives; got {recipe.hard_negatives_pretrain} and {recipe.hard_negatives_alone} of the "
                f"{self.batches.epochs} epochs of this run"
            )
        self.context = Context(processes.world_size, processes.rank)
        self.precision = choose_precision(recipe.precision, processes.device)
        self.precision.place(method)
        processes.agree_on_weights(method)
        if processes.world_size > 1:
            method.join(self.context)

    def train(self, folder: Path, console: Console | None = None, *, go_on: bool = False) -> Trainer:
        """Train to the end and return the trainer; ``folder`` must exist.

        Raises:
            RunRefusedError, NonFiniteLossError, InterruptedRunError: as :meth:`Trainer.run`.
        """
        trainer = Trainer(
            self.method,
            self.batches,
            self.recipe,
            folder,
            self.processes,
            self.context,
            self.precision,
            evaluate=self._evaluate,
            evaluate_seen=self._evaluate_seen if self.recipe.evaluate_seen else None,
            console=console,
        )
        trainer.run(go_on=go_on)
        return trainer

    def _evaluate(self, method: Method) -> dict[str, float]:
        """Judge what ``select_on`` names: validation images, each searched among the others, or the test images."""
        if isinstance(method, Prototypes):
            return evaluate_prototypes(method, self.splits, self.recipe, self.precision)
        judged, gallery = self.splits.test, self.splits.gallery
        if self.recipe.select_on == "validation" and self.splits.validation is not None:
            judged, gallery = self.splits.validation, None
        return evaluate_clean(method.embedder, judged, self.recipe, self.precision, gallery)

    def _evaluate_seen(self, method: Method) -> dict[str, float]:
        return evaluate_seen(method.embedder, self.splits.train, self.recipe, self.precision)

    def run(
        self, folder: Path, console: Console, *, go_on: bool = False, published: Published | None = None
    ) -> dict[str, Any] | None:
        """Train, judge, and write the run's folder; return its result, on process 0.

        Args:
            folder: made where it is missing; what an earlier run left in it is discarded, unless ``go_on``.
            console: where progress and the final table are shown.
            go_on: go on from ``last.pt``.
            published: figures to show beside this run's.

        Raises:
            RunRefusedError, NonFiniteLossError, InterruptedRunError: as :meth:`Trainer.run`.
        """
        if self.processes.writes:
            names.prepare_folder(folder, go_on=go_on)
            write_recipe_file(folder / names.RECIPE, self.recipe, published)
        self.processes.barrier()
        summary = self.train(folder, console, go_on=go_on).summary
        if not self.processes.writes:
            return None
        result = finish_run(self.method, self.splits, self.recipe, published, folder, self.precision, summary, console)
        console.print(reporting.result_table(result))
        console.print(f"result: {folder / names.RESULT}", highlight=False, soft_wrap=True)
        return result
