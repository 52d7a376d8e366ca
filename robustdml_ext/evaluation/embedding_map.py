"""Embeddings in the plane, clean and attacked together: figure 4 of MDProp, with what an attack does to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, Labels, as_labels, as_matrix, unit
from robustdml_ext.evaluation.subject import broken

PERPLEXITY = 30.0
# Below so many points of each kind there are no neighborhoods to keep.
LEAST_IMAGES = 4
# Coordinates of unit vectors that differ by less differ by the rounding of float32.
_SAME = 1e-6

_Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class EmbeddingMap:
    """Places of the same images, clean and attacked, in one plane.

    Attributes:
        clean: float32 `[N, 2]`; NaN for an image whose clean or attacked embedding is not finite.
        attacked: likewise.
        perplexity: about how many neighbors each point keeps; smaller than asked for where the points are few.
        method: what made the map, with its version.
    """

    clean: Tensor
    attacked: Tensor
    perplexity: float
    method: str


def map_rows(labels: Labels, classes: int = 12, per_class: int = 40, seed: int = 0) -> Tensor:
    """Draws images for a map: at most so many of each of at most so many drawn classes; a function of the arguments.

    Args:
        labels: `[N]`.
        classes, per_class: at least 1.
        seed: of both draws, at least 0.

    Returns:
        Rows, int64, ascending.

    Raises:
        TypeError, ValueError: labels that are none, or a number out of its range.
    """
    for name, value, least in (("classes", classes, 1), ("per_class", per_class, 1), ("seed", seed, 0)):
        if value < least:
            raise ValueError(f"{name}: expected at least {least}, got {value}")
    numbers = as_labels(labels, len(labels))
    random = np.random.default_rng([seed, 0x3A9])
    drawn = random.permutation(np.unique(numbers))[:classes]
    rows = [random.permutation(np.flatnonzero(numbers == name))[:per_class] for name in drawn]
    return torch.from_numpy(np.sort(np.concatenate([np.empty(0, dtype=np.int64), *rows])))


def embedding_map(clean: Array, attacked: Array, *, perplexity: float = PERPLEXITY, seed: int = 0) -> EmbeddingMap:
    """Lays clean and attacked embeddings of the same images out in one plane, by t-SNE of their cosine distances.

    All points are laid out together, so that places of clean and of attacked images compare. On one thread and from a
    seed: the same embeddings give the same map. In float64, by openTSNE, with exact neighbors, starting from the first
    two principal components.

    An image is left out, and its places are NaN, where either of its embeddings is not finite. Embeddings that are all
    alike lie in one point.

    Args:
        clean: `[N, D]`; scaled to unit length.
        attacked: the same images under attack, `[N, D]`.
        perplexity: at least 1; at most a third of the points can be neighbors, and it is lowered to that.
        seed: at least 0.

    Raises:
        TypeError: no arrays of numbers.
        ValueError: shapes do not fit, a number out of its range, or fewer than 4 images with finite embeddings.
        ImportError: openTSNE is not installed.
    """
    if not perplexity >= 1 or seed < 0:
        raise ValueError(f"perplexity, seed: expected at least 1 and at least 0, got {perplexity} and {seed}")
    before, after = (torch.as_tensor(part).detach().cpu() for part in (clean, attacked))
    if before.dim() != 2 or before.shape != after.shape:
        raise ValueError(
            f"attacked: expected the clean embeddings' shape [N, D], got {list(after.shape)} for {list(before.shape)}"
        )
    whole = ~(broken(before) | broken(after))
    count = int(whole.sum())
    if count < LEAST_IMAGES:
        raise ValueError(f"clean: expected at least {LEAST_IMAGES} images with finite embeddings, got {count}")
    points = unit(torch.cat([as_matrix(part[whole], "clean") for part in (before, after)])).numpy()
    # openTSNE asks three times the perplexity of neighbors of each of the 2N points, itself apart.
    fitting = min(float(perplexity), (2 * count - 1) / 3)
    places, method = _laid_out(points, fitting, seed)
    maps = []
    for half in (places[:count], places[count:]):
        here = torch.full((len(before), 2), torch.nan)
        here[whole] = torch.from_numpy(half).float()
        maps.append(here)
    return EmbeddingMap(maps[0], maps[1], fitting, method)


def _laid_out(points: _Points, perplexity: float, seed: int) -> tuple[_Points, str]:
    """Places `[M, 2]` of unit vectors or zeros `[M, D]`, and what made them."""
    try:
        import openTSNE
    except ImportError as error:
        raise ImportError("embedding_map needs openTSNE, which is not installed: pip install openTSNE") from error

    method = f"t-SNE (openTSNE {openTSNE.__version__})"
    if np.abs(points - points[0]).max() <= _SAME:
        return np.zeros((len(points), 2)), method  # where t-SNE would draw a cloud of its own noise
    if points.shape[1] < 2:
        points = np.pad(points, ((0, 0), (0, 2 - points.shape[1])))  # two components to start from
    layout = openTSNE.TSNE(
        perplexity=perplexity,
        metric="cosine",
        neighbors="exact",
        initialization="pca",
        negative_gradient_method="bh",
        n_jobs=1,
        random_state=seed,
    )
    return np.asarray(layout.fit(points)), method
