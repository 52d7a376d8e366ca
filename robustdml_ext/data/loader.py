"""From planned batches to tensors, on as many worker processes as wished, always with the same pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.splits import LabeledImages


def augmentation_keys(seed: int, epoch: int, step: int, positions: Sequence[int]) -> list[int]:
    """A 64-bit key for each position of a batch: SplitMix64's hash of (seed, epoch, step, position)."""
    state = np.zeros(len(positions), dtype=np.uint64)
    for part in (seed % 2**64, epoch, step, np.asarray(positions, dtype=np.uint64)):
        state = _mix(state ^ np.asarray(part, dtype=np.uint64))
    keys: list[int] = state.tolist()
    return keys


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    x += np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


class _Task(NamedTuple):
    indices: Sequence[int]
    keys: Sequence[int] | None
    drop_broken: bool


class _Fetched(NamedTuple):
    images: Tensor
    labels: Tensor
    broken: dict[int, str]
    error: str | None


class _Batches(Dataset[_Fetched]):
    """Answers a task with its batch; errors travel as text, which a DataLoader would bury in a traceback."""

    def __init__(self, images: LabeledImages) -> None:
        self.images = images

    def __getitem__(self, task: _Task) -> _Fetched:
        try:
            return _Fetched(*self.images.fetch(task.indices, task.keys, drop_broken=task.drop_broken), None)
        except DataError as error:
            return _Fetched(torch.empty(0), torch.empty(0), {}, str(error))


def _run(
    images: LabeledImages, tasks: list[_Task], num_workers: int, pin_memory: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    images.prepare()  # before the workers start, so that they share one copy
    loader: DataLoader[_Fetched] = DataLoader(
        _Batches(images),
        batch_size=None,
        sampler=tasks,
        num_workers=num_workers,
        pin_memory=pin_memory,
        collate_fn=_unchanged,
        generator=torch.Generator(),  # else the loader takes a number from the global generator
    )
    for fetched in loader:
        if fetched.error is not None:
            raise DataError(fetched.error)
        images.warn_of_broken(fetched.broken)
        if len(fetched.labels):
            yield fetched.images, fetched.labels


def _unchanged(fetched: Any) -> Any:
    return fetched


class EpochLoader:
    """Iterates over the batches of an epoch as (images [b, C, H, W] float32 in [0, 1], labels int64 [b]).

    What is drawn depends on (seed, epoch, step, position in the batch) only: not on `num_workers`, on the
    number of processes, or on where the epoch is taken up again. Process `rank` of `world_size` gets its
    contiguous share b = B / world_size of every batch.

    Raises: ValueError for a rank outside 0 .. world_size-1, or when a batch cannot be shared out evenly.
    """

    def __init__(
        self,
        images: LabeledImages,
        *,
        seed: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in 0 .. world_size-1, got rank={rank} and world_size={world_size}")
        self.images = images
        self.seed = seed
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.rank = rank
        self.world_size = world_size

    def epoch(
        self, batches: Sequence[Sequence[int]], epoch: int, start_step: int = 0
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches (lists of indices, as `PKSampler.epoch` plans them) from number `start_step` on."""
        if start_step < 0:
            raise ValueError(f"start_step must not be negative, got {start_step}")
        tasks = []
        for step in range(start_step, len(batches)):
            indices = batches[step]
            share, rest = divmod(len(indices), self.world_size)
            if rest:
                raise ValueError(f"a batch of {len(indices)} cannot be shared evenly by {self.world_size} processes")
            own = range(self.rank * share, (self.rank + 1) * share)
            keys = augmentation_keys(self.seed, epoch, step, own) if self.images.transform.random else None
            tasks.append(_Task([indices[i] for i in own], keys, False))
        return _run(self.images, tasks, self.num_workers, self.pin_memory)


class EvaluationBatches:
    """Every image once, in order, without augmentation; broken ones are left out (on_broken="skip").

    Or those at `indices` alone, in their order. Can be iterated again.
    """

    def __init__(
        self,
        images: LabeledImages,
        batch_size: int,
        num_workers: int = 0,
        pin_memory: bool = False,
        indices: Sequence[int] | None = None,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        self.images = images.without_augmentation()
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.indices = range(len(images)) if indices is None else indices

    def __len__(self) -> int:
        """The number of batches; one that consists of broken images only does not come."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        size, count = self.batch_size, len(self.indices)
        tasks = [_Task(self.indices[start : start + size], None, True) for start in range(0, count, size)]
        return _run(self.images, tasks, self.num_workers, self.pin_memory)


def evaluation_batches(
    images: LabeledImages,
    batch_size: int,
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    indices: Sequence[int] | None = None,
) -> EvaluationBatches:
    """Sequential batches (images, labels) for evaluation; see `EvaluationBatches`."""
    return EvaluationBatches(images, batch_size, num_workers, pin_memory, indices)
