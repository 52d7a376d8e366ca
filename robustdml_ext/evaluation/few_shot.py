"""Few-shot classification of new classes: the prototypes paper's section 3.2."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from robustdml_ext.evaluation.inputs import Array, Labels, as_labels, as_vectors
from robustdml_ext.evaluation.scorers import Scorer, all_scores, as_scorer

# Scores made at a time. Those between episodes are of no use, but cost less than asking the scorer for each episode:
# at 5 ways and 15 queries 9 episodes go together.
BLOCK = 2**15
# Random numbers drawn at a time: the draw must not depend on the block.
DRAWN = 2**22
# Of the normal distribution: 95 % lie within so many standard deviations.
NORMAL_95 = 1.96


@dataclass(frozen=True)
class FewShot:
    """Accuracies of few-shot episodes, fractions.

    Attributes:
        accuracy: their mean.
        half_width: of the 95 % confidence interval of the mean: 1.96 · s / √episodes, with s the sample standard
            deviation of the accuracies (dividing by episodes − 1); NaN for one episode.
        accuracies: float64 [episodes].
        classes: how many classes had images enough to be drawn.
    """

    accuracy: float
    half_width: float
    accuracies: npt.NDArray[np.float64]
    classes: int


def few_shot(
    scorer: Scorer | nn.Module,
    embeddings: Array,
    labels: Labels,
    ways: int = 5,
    shots: int = 1,
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
    *,
    block: int = BLOCK,
) -> FewShot:
    """Accuracy over random episodes, in each of which new classes are told apart by new prototypes.

    The prototypes paper's section 3.2: an episode draws `ways` classes, and `shots` + `queries` images of each, all
    different. C'_i is the mean embedding of the shots of class i (in float64, rounded to the embeddings' type); a
    query x goes to arg max_i S(E(x), C'_i), equation 4. Equal scores go to the class drawn first; equal prototypes
    have equal scores, however the scorer rounds. The paper leaves the protocol open: 600 episodes of 15 queries a
    class are what the field reports.

    `embeddings` [N, D], one for each image, with `labels` [N]: classes are those of the labels, which should be none
    that were trained on. Classes with fewer than `shots` + `queries` images are not drawn. `scorer` is one of
    `SCORERS`, any callable (queries, items) → scores, or a similarity network: S(query, prototype).

    The same for the same seed on every device. Many episodes are scored together, as long as no more than `block`
    scores come of it (or one episode's); of these only those within an episode count. The size of the blocks decides
    nothing but how the scorer may round.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, a number
    below its least value, too few classes with images enough, or a scorer that gives no finite scores.
    """
    sizes = {"ways": ways, "shots": shots, "queries": queries, "episodes": episodes, "block": block}
    for name, value in sizes.items():
        least = 2 if name == "ways" else 1
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number from {least}, got {value!r}")
    judge = as_scorer(scorer)
    vectors = as_vectors(embeddings)
    classes = as_labels(labels, len(vectors))
    begin, size = _drawable(classes, ways, shots, queries)
    members = torch.from_numpy(np.argsort(classes, kind="stable"))
    together = max(1, math.isqrt(block // (ways * ways * queries)))
    accuracies = []
    for places in _episodes(begin, size, ways, shots + queries, episodes, seed):
        for part in members[places].split(together):
            accuracies.append(_accuracies(judge, vectors, part.to(vectors.device), shots))
    found = torch.cat(accuracies).numpy()
    deviation = float(found.std(ddof=1)) if episodes > 1 else math.nan
    return FewShot(float(found.mean()), NORMAL_95 * deviation / math.sqrt(episodes), found, len(size))


def _drawable(labels: npt.NDArray[np.int64], ways: int, shots: int, queries: int) -> tuple[Tensor, Tensor]:
    """First places, in the order of classes, and sizes of the classes that have images enough."""
    sizes = np.unique(labels, return_counts=True)[1]
    begin = np.cumsum(sizes) - sizes
    enough = sizes >= shots + queries
    if enough.sum() < ways:
        raise ValueError(
            f"ways: {ways} classes of {shots} shots + {queries} queries = {shots + queries} images or more are needed; "
            f"of the {len(sizes)} classes {int(enough.sum())} have so many, the largest has {sizes.max()}"
        )
    return torch.from_numpy(begin[enough]), torch.from_numpy(sizes[enough])


def _episodes(begin: Tensor, size: Tensor, ways: int, images: int, episodes: int, seed: int) -> Iterator[Tensor]:
    """Places [e, ways, images] of the images of some episodes at a time; each draw without repetition."""
    generator = torch.Generator().manual_seed(seed)
    largest = int(size.max())
    at_once = max(1, DRAWN // max(len(size), ways * largest))
    for first in range(0, episodes, at_once):
        count = min(at_once, episodes - first)
        # The places of the largest of as many random numbers are a random subset in random order.
        keys = torch.rand(count, len(size), generator=generator, dtype=torch.float64)
        chosen = keys.topk(ways, dim=1).indices
        keys = torch.rand(count, ways, largest, generator=generator, dtype=torch.float64)
        keys.masked_fill_(torch.arange(largest) >= size[chosen][..., None], -1.0)
        yield begin[chosen][..., None] + keys.topk(images, dim=2).indices


def _accuracies(scorer: Scorer, vectors: Tensor, rows: Tensor, shots: int) -> Tensor:
    """Float64 [e], on the CPU, of episodes whose images are `rows` [e, ways, shots + queries] of `vectors`."""
    episodes, ways, images = rows.shape
    queries = images - shots
    prototypes = vectors[rows[..., :shots]].double().mean(2).to(vectors.dtype)
    asked = vectors[rows[..., shots:]]
    scores = all_scores(scorer, asked.flatten(0, 2), prototypes.flatten(0, 1))
    scores = scores.view(episodes, ways * queries, episodes, ways)
    own = torch.arange(episodes, device=scores.device)
    scores = scores[own, :, own]
    # Equal prototypes have the score of the first of them: rows of a matrix product may round differently.
    first = (prototypes[:, :, None] == prototypes[:, None]).all(3).int().argmax(2)
    scores = scores.gather(2, first[:, None].expand_as(scores))
    right = torch.arange(ways, device=scores.device).repeat_interleave(queries)
    # argmax takes the lowest of equal ones.
    return (scores.argmax(2) == right).double().mean(1).cpu()
