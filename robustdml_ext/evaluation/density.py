"""Embedding space density: how far apart a class lies, against how far apart the classes are."""

from __future__ import annotations

import math

import numpy as np

from robustdml_ext.evaluation.inputs import Array, Labels, as_labels, as_matrix, unit


def density(embeddings: Array, labels: Labels) -> dict[str, float]:
    """pi_intra, pi_inter and pi_ratio = pi_intra / pi_inter of `embeddings` [N, D], `labels` [N].

    Equations 11 to 13 of MDProp, normalized as in Roth et al.'s protocol; d is the cosine distance 1 - cos,
    in [0, 2]. pi_intra: the mean over classes of the mean distance between two different members. Classes
    with a single member have none and are left out. pi_inter: the mean distance between the (re-normalized)
    means of two different classes. A lower ratio means tighter classes further apart. Where no class has two
    members pi_intra is NaN, where there is a single class pi_inter is NaN, and so is then the ratio; classes
    that all have the same mean make it infinite.

    The published code of Roth et al. differs where a class has a single member: it puts another class's mean distance
    in its place; and it divides by no less than 1e-8.

    From the sums S of a class's n unit vectors, the mean cosine of its pairs is (|S|² - n) / (n (n - 1)), and
    likewise over the class means: O(N D) altogether, no pair is ever formed.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, or values that are not finite.
    """
    vectors = unit(as_matrix(embeddings).cpu()).numpy()
    _, codes, counts = np.unique(as_labels(labels, len(vectors)), return_inverse=True, return_counts=True)
    first = np.cumsum(counts) - counts
    vectors = vectors[np.argsort(codes, kind="stable")]
    sums = np.add.reduceat(vectors, first, axis=0)
    # n, but for zero vectors, which have no direction and lie at distance 1 from everything.
    lengths = np.add.reduceat(np.square(vectors).sum(1), first)
    several = counts > 1
    n = counts[several].astype(np.float64)
    cosines = (np.square(sums[several]).sum(1) - lengths[several]) / (n * (n - 1))
    intra = _distance(float(cosines.mean())) if several.any() else math.nan

    means = unit(as_matrix(sums / counts[:, None])).numpy()
    inter = math.nan
    if len(means) > 1:
        cosine = (np.square(means.sum(0)).sum() - np.square(means).sum()) / (len(means) * (len(means) - 1))
        inter = _distance(float(cosine))
    return {"pi_intra": intra, "pi_inter": inter, "pi_ratio": _ratio(intra, inter)}


def _distance(cosine: float) -> float:
    return min(max(1 - cosine, 0.0), 2.0)  # rounding may leave the range by an ulp


def _ratio(intra: float, inter: float) -> float:
    if inter == 0:
        return math.inf if intra > 0 else math.nan
    return intra / inter
