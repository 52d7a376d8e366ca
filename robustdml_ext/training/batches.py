"""The stream of training batches: a pure function of the seed and the step, whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from robustdml_ext.data import EpochLoader, LabeledImages, PKSampler
from robustdml_ext.training.errors import RunRefusedError
from robustdml_ext.training.processes import Processes


class TrainingBatches:
    """All batches of a run, numbered by step.

    Args:
        images: the training split.
        sampler: plans each epoch's batches.
        epochs: passes over the images.
        seed: seed of the augmentation.
        processes: this process reads its own share of each batch.
        workers: reading processes; 0 reads here.

    Raises:
        RunRefusedError: the batch cannot be shared out evenly.
    """

    def __init__(
        self,
        images: LabeledImages,
        sampler: PKSampler,
        epochs: int,
        seed: int,
        processes: Processes,
        workers: int = 0,
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
        self.epochs = epochs
        self.steps_per_epoch = sampler.batches_per_epoch
        self.steps = epochs * self.steps_per_epoch

    def since(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield this process's images [b, C, H, W] and labels [b] from ``step`` on."""
        first, within = divmod(step, self.steps_per_epoch)
        for epoch in range(first, self.epochs):
            yield from self._loader.epoch(self._sampler.epoch(epoch), epoch, within if epoch == first else 0)
