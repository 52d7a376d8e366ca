"""Which images make up a batch: P classes x K images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch


class PKSampler:
    """Plans epochs of batches with P distinct classes x K images; K = samples_per_class, P = batch_size / K.

    A pure function of (seed, epoch), without state: to resume, ask for the same epoch again. Classes are
    visited evenly: the batches walk through random orders of all classes one after the other, so that over an
    epoch no two classes differ by more than a few visits (by one, but for the exchanges where a batch meets
    the next order). So are the images of a class: its visits walk through a random order of its images.
    Within one visit the K images are distinct where the class has as many; a smaller class gives all its
    images and then some again. Images of a class stand next to each other in the batch.

    `labels`: int [N], any integers. `batches_per_epoch`: default N // batch_size, at least 1.

    Raises: ValueError where K does not divide the batch size or there are fewer than P classes.
    """

    def __init__(
        self,
        labels: torch.Tensor | npt.ArrayLike,
        batch_size: int,
        samples_per_class: int,
        seed: int,
        batches_per_epoch: int | None = None,
    ) -> None:
        numbers = np.asarray(labels)
        if numbers.ndim != 1 or not len(numbers) or not np.issubdtype(numbers.dtype, np.integer):
            raise ValueError(
                f"labels must be a non-empty vector of integers, got {numbers.dtype} of shape {numbers.shape}"
            )
        if samples_per_class < 1 or batch_size < 1 or batch_size % samples_per_class:
            raise ValueError(
                f"batch_size must be a multiple of samples_per_class, both positive; got "
                f"batch_size={batch_size} and samples_per_class={samples_per_class}"
            )
        if batches_per_epoch is not None and batches_per_epoch < 1:
            raise ValueError(f"batches_per_epoch must be positive, got {batches_per_epoch}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        _, self._labels, self._counts = np.unique(numbers, return_inverse=True, return_counts=True)
        self._first = np.cumsum(self._counts) - self._counts
        self.batch_size = batch_size
        self.samples_per_class = samples_per_class
        self.classes_per_batch = batch_size // samples_per_class
        if len(self._counts) < self.classes_per_batch:
            raise ValueError(
                f"a batch of {batch_size} with {samples_per_class} images a class needs "
                f"{self.classes_per_batch} classes, but there are only {len(self._counts)}; "
                "lower batch_size or raise samples_per_class (validation classes are held out before: see select_on)"
            )
        self.seed = seed
        self.batches_per_epoch = batches_per_epoch or max(1, len(numbers) // batch_size)

    def epoch(self, epoch: int) -> list[list[int]]:
        """The epoch's batches, each a list of `batch_size` indices."""
        random = np.random.default_rng([self.seed, epoch])
        by_class = np.lexsort((random.random(len(self._labels)), self._labels))  # each class's images in random order
        classes = self._class_visits(random)
        sizes = self._counts[classes][:, None]
        steps = _occurrence(classes)[:, None] * self.samples_per_class + np.arange(self.samples_per_class)
        images = by_class[self._first[classes][:, None] + steps % sizes]
        batches: list[list[int]] = images.reshape(self.batches_per_epoch, self.batch_size).tolist()
        return batches

    def _class_visits(self, random: np.random.Generator) -> npt.NDArray[np.int64]:
        """The class of every visit, [batches * P]; no class twice within a batch."""
        per_batch, classes = self.classes_per_batch, len(self._counts)
        visits = np.empty(self.batches_per_epoch * per_batch + classes, dtype=np.int64)
        filled = 0
        while filled < self.batches_per_epoch * per_batch:
            order = random.permutation(classes)
            begun = filled % per_batch
            if begun:  # the batch that the last order began must not meet one of its classes again
                free = np.flatnonzero(~np.isin(order, visits[filled - begun : filled]))[: per_batch - begun]
                order = np.concatenate([order[free], np.delete(order, free)])
            visits[filled : filled + classes] = order
            filled += classes
        return visits[: self.batches_per_epoch * per_batch]


def _occurrence(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each entry, how many equal ones stand before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    begins = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    lengths = np.diff(np.append(begins, len(ordered)))
    counts = np.empty_like(order)
    counts[order] = np.arange(len(ordered)) - np.repeat(begins, lengths)
    return counts
