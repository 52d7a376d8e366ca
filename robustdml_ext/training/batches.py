"""The stream of training batches: a pure function of the seed and the step, whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from robustdml_ext.data import EpochLoader, EvaluationBatches, LabeledImages, evaluation_batches
from robustdml_ext.recipes import Recipe
from robustdml_ext.training.errors import RunRefusedError
from robustdml_ext.training.precision import Precision
from robustdml_ext.training.processes import Processes


class Sampler(Protocol):
    """What plans epochs of batches, as `data.PKSampler` does."""

    batch_size: int
    batches_per_epoch: int

    def epoch(self, epoch: int) -> list[list[int]]: ...


def epochs_of(steps: int, steps_per_epoch: int) -> int:
    """The number of epochs that so many steps take, the last of them whole or not."""
    return -(-steps // steps_per_epoch)


def judging_batches(
    images: LabeledImages, recipe: Recipe, precision: Precision, chosen: Sequence[int] | None = None
) -> EvaluationBatches:
    """Return images to be judged, in order, as the recipe has it.

    Args:
        images: of a split.
        recipe: how many at once, and read by how many processes.
        precision: where they go.
        chosen: places of those to be judged alone; None: all.
    """
    pin = precision.device.type == "cuda"
    return evaluation_batches(
        images, recipe.eval_batch_size, num_workers=recipe.workers, pin_memory=pin, indices=chosen
    )


class SideBySidePlans:
    """Several samplers' batches, one after the other, as one batch.

    Raises:
        ValueError: no sampler, or epochs of different lengths.
    """

    def __init__(self, samplers: Sequence[Sampler]) -> None:
        if len({sampler.batches_per_epoch for sampler in samplers}) != 1:
            raise ValueError("samplers: expected at least one, and as many batches an epoch of each")
        self.samplers = list(samplers)
        self.batch_size = sum(sampler.batch_size for sampler in samplers)
        self.batches_per_epoch = samplers[0].batches_per_epoch

    def epoch(self, epoch: int) -> list[list[int]]:
        """The epoch's batches of indices."""
        plans = [sampler.epoch(epoch) for sampler in self.samplers]
        return [[index for part in parts for index in part] for parts in zip(*plans, strict=True)]


class TrainingBatches:
    """All batches of a run, numbered by step.

    Args:
        images: the training split.
        sampler: plans each epoch's batches.
        epochs: passes over the images.
        seed: seed of the augmentation.
        processes: this process reads its own share of each batch.
        workers: reading processes; 0 reads here.
        iterations: batches in all, in place of `epochs`; the last epoch is then cut short.

    Attributes:
        steps: batches in all.
        steps_per_epoch: batches of a whole epoch.
        epochs: how many there are, of which the last may be cut short.

    Raises:
        RunRefusedError: the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        images: LabeledImages,
        sampler: Sampler,
        epochs: int,
        seed: int,
        processes: Processes,
        workers: int = 0,
        iterations: int | None = None,
    ) -> None:
        if sampler.batch_size % processes.world_size:
            raise RunRefusedError(
                f"batch_size must be a multiple of the number of processes; got {sampler.batch_size} "
                f"for {processes.world_size}"
            )
        self._sampler = sampler
        self._loader = EpochLoader(
            images,
            seed=seed,
            num_workers=workers,
            pin_memory=processes.device.type == "cuda",
            rank=processes.rank,
            world_size=processes.world_size,
        )
        self.steps_per_epoch = sampler.batches_per_epoch
        self.steps = epochs * self.steps_per_epoch if iterations is None else iterations
        self.epochs = epochs if iterations is None else epochs_of(iterations, self.steps_per_epoch)

    def since(self, step: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield this process's images [b, C, H, W], labels [b] and places in the training set [b] from ``step`` on.

        A broken image's stand-in, of its class, has the place of the broken one.
        """
        first, within = divmod(step, self.steps_per_epoch)
        for epoch in range(first, self.epochs):
            left = self.steps - epoch * self.steps_per_epoch
            plan, start = self._sampler.epoch(epoch)[:left], within if epoch == first else 0
            read = self._loader.epoch(plan, epoch, start)
            for indices, (images, labels) in zip(plan[start:], read, strict=True):
                own = len(indices) // self._loader.world_size
                mine = indices[self._loader.rank * own : (self._loader.rank + 1) * own]
                yield images, labels, torch.tensor(mine)
