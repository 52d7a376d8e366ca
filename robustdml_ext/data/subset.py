"""Some images of a set that are too many to look at every time, every class alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor


def choose_evenly(labels: Tensor, most: int, seed: int) -> list[int]:
    """Draws at most `most` of N images, as many of each class; a function of the arguments alone.

    A class that has fewer gives all of its images. Of every class that has two or more come at least two, as an image
    without another of its class has nothing to be found by; where the classes are too many for that, two images each
    of `most` // 2 drawn classes.

    `labels`: int64 [N]. Returns the indices, ascending; all N of them where N <= `most`.

    Raises: ValueError for `most` below 2.
    """
    if most < 2:
        raise ValueError(f"most: expected at least 2 images, got {most}")
    if len(labels) <= most:
        return list(range(len(labels)))
    random = np.random.default_rng([seed, 0x5EE7])
    order = random.permutation(len(labels))
    _, owner, counts = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    # Each image's place among those of its class, in a random order.
    by_class = order[np.argsort(owner[order], kind="stable")]
    place = np.empty(len(labels), dtype=np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    share = _share(counts, most)
    if share < 2:
        pairs = random.permutation(np.flatnonzero(counts >= 2))[: most // 2]
        return np.flatnonzero(np.isin(owner, pairs) & (place < 2)).tolist()
    # What is left over goes to classes that are drawn, an image each.
    larger = random.permutation(np.flatnonzero(counts > share))[: most - np.minimum(counts, share).sum()]
    return np.flatnonzero(place < share + np.isin(owner, larger)).tolist()


def _share(counts: npt.NDArray[np.int64], most: int) -> int:
    """The largest number that can be had of each class without exceeding `most` in all."""
    shares = np.arange(most + 1)
    below = np.searchsorted(np.sort(counts), shares)  # classes that have fewer
    taken = np.concatenate([[0], np.cumsum(np.sort(counts))])[below] + shares * (len(counts) - below)
    return int(shares[taken <= most][-1])
