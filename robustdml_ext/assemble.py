"""From a recipe to data, model, loss and method; the only file that knows every name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from rich.console import Console
from torch import nn

from robustdml_ext import data, reporting
from robustdml_ext.attacks import PGD
from robustdml_ext.losses import ArcFaceLoss, MultiSimilarityLoss
from robustdml_ext.methods import Adversarial, AdvPropD, Context, MDProp, Method, Standard
from robustdml_ext.models import Embedder, build_embedder
from robustdml_ext.recipes import Published, Recipe, write_recipe_file
from robustdml_ext.training import Precision, Processes, Trainer, TrainingBatches, choose_precision
from robustdml_ext.training import folder as names
from robustdml_ext.training.result import evaluate_clean, finish_run


@dataclass(frozen=True)
class Assembled:
    """Everything that a recipe describes, ready to train."""

    recipe: Recipe
    splits: data.DataSplits
    batches: TrainingBatches
    method: Method
    processes: Processes
    context: Context
    precision: Precision

    def evaluate(self, method: Method) -> dict[str, float]:
        """Return the clean figures on the test classes."""
        return evaluate_clean(method.embedder, self.splits.test, self.recipe, self.precision)

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
        trainer = Trainer(
            self.method, self.batches, self.recipe, folder, self.processes, self.context, self.precision,
            evaluate=self.evaluate, console=console,
        )  # fmt: skip
        summary = trainer.run(go_on=go_on)
        if not self.processes.writes:
            return None
        result = finish_run(
            self.method, self.splits.test, self.recipe, published, folder, self.precision, summary, console
        )
        console.print(reporting.result_table(result))
        console.print(f"result: {folder / names.RESULT}", highlight=False, soft_wrap=True)
        return result


def assemble(recipe: Recipe, processes: Processes) -> Assembled:
    """Read the data set and build the model, loss and method of a recipe.

    Everything is built alike in every process: drawn from the recipe's seed, then taken from process 0.

    Raises:
        DataError: the data set is missing or broken.
        ValueError: a value that does not fit the data set or the architecture.
        FileNotFoundError: weights that are not there and cannot be downloaded.
    """
    splits = data.load(
        recipe.dataset,
        recipe.root,
        image_size=recipe.image_size,
        channels=recipe.channels,
        augment=recipe.augment,
        train_classes=recipe.train_classes,
        on_broken=recipe.on_broken,
    )
    sampler = data.PKSampler(splits.train.labels, recipe.batch_size, recipe.samples_per_class, recipe.seed)
    batches = TrainingBatches(splits.train, sampler, recipe.epochs, recipe.seed, processes, recipe.workers)
    precision = choose_precision(recipe.precision, processes.device)
    torch.manual_seed(recipe.seed)
    embedder = build_network(recipe, splits.channels)
    loss = LOSSES[recipe.loss](recipe, len(splits.train.class_names))
    method = METHODS[recipe.method](recipe, embedder, loss)
    precision.place(method)
    processes.agree_on_weights(method)
    if processes.world_size > 1:
        embedder.synchronize(torch.distributed.group.WORLD)
    context = Context(processes.world_size, processes.rank)
    return Assembled(recipe, splits, batches, method, processes, context, precision)


def build_network(recipe: Recipe, channels: int) -> Embedder:
    """Build the embedder: one distribution for clean images, one for each auxiliary norm of the method."""
    auxiliary = len(recipe.targets) if recipe.method in ("advprop", "mdprop") else 0
    return build_embedder(
        recipe.arch,
        embedding_dim=recipe.embedding_dim,
        weights=recipe.weights,
        channels=channels,
        distributions=1 + auxiliary,
        norm_noise=recipe.norm_noise,
        freeze_norm=recipe.freeze_norm,
    )


def _attack(recipe: Recipe) -> PGD:
    return PGD(recipe.epsilon, recipe.attack_steps, recipe.attack_step_size, random_start=recipe.random_start)


LOSSES: dict[str, Callable[[Recipe, int], nn.Module]] = {
    "multisimilarity": lambda recipe, classes: MultiSimilarityLoss(
        recipe.multisimilarity_alpha,
        recipe.multisimilarity_beta,
        recipe.multisimilarity_base,
        recipe.multisimilarity_epsilon,
    ),
    "arcface": lambda recipe, classes: ArcFaceLoss(
        classes, recipe.embedding_dim, recipe.arcface_margin, recipe.arcface_scale, recipe.arcface_center_lr
    ),
}

METHODS: dict[str, Callable[[Recipe, Embedder, nn.Module], Method]] = {
    "standard": lambda recipe, embedder, loss: Standard(embedder, loss),
    "adversarial": lambda recipe, embedder, loss: Adversarial(
        embedder, loss, recipe.targets, _attack(recipe), targets_from=recipe.targets_from
    ),
    "advprop": lambda recipe, embedder, loss: AdvPropD(
        embedder, loss, _attack(recipe), targets_from=recipe.targets_from, joint_loss=recipe.joint_loss
    ),
    "mdprop": lambda recipe, embedder, loss: MDProp(
        embedder,
        loss,
        recipe.targets,
        _attack(recipe),
        targets_from=recipe.targets_from,
        joint_loss=recipe.joint_loss,
    ),
}
