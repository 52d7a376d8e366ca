"""How well clusters agree with the classes: NMI and F1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustdml_ext.evaluation.inputs import Array, as_labels


def nmi(clusters: Array, labels: Array) -> float:
    """Normalized mutual information 2 I(Ω, Y) / (H(Ω) + H(Y)) of two labelings [N], in [0, 1].

    Arithmetic averaging of the two entropies; 1 where both labelings put everything into one group. Equation
    10 of MDProp as printed, I / (2 (H + H)), is a quarter of this and could never exceed 1/4, against
    published values of 0.6 and more: a misprint, surely. Its published values, as the field, are taken to
    mean the arithmetic average.
    """
    cluster, label, cells, rows, columns = _contingency(clusters, labels)
    if len(rows) == len(columns) == 1:
        return 1.0
    total = float(len(clusters))
    surprise = np.log(total) + np.log(cells) - np.log(rows[cluster]) - np.log(columns[label])
    information = float(np.sum(cells / total * surprise))
    entropies = _entropy(rows / total) + _entropy(columns / total)
    return min(max(2 * information / entropies, 0.0), 1.0)


def f1(clusters: Array, labels: Array) -> float:
    """F1 over pairs of two labelings [N], in [0, 1]: "same cluster" as a guess at "same class".

    The harmonic mean of precision and recall. With n_ij points of class j in cluster i, 2 Σ C(n_ij, 2) / (Σ
    C(n_i, 2) + Σ C(n_j, 2)), in exact integers. 1 where there is no pair on either side, which is to say that
    both labelings leave every point alone.
    """
    _, _, cells, rows, columns = _contingency(clusters, labels)
    pairs = _pairs(rows) + _pairs(columns)
    return 2 * _pairs(cells) / pairs if pairs else 1.0


def _contingency(clusters: Array, labels: Array) -> tuple[npt.NDArray[np.int64], ...]:
    """The contingency table's non-empty cells, as row, column and count of each, and the table's margins."""
    if len(clusters) == 0:
        raise ValueError("clusters and labels must not be empty")
    i = np.unique(as_labels(clusters, len(clusters), "clusters"), return_inverse=True)[1]
    j = np.unique(as_labels(labels, len(clusters)), return_inverse=True)[1]
    columns = np.bincount(j)
    codes, counts = np.unique(i * len(columns) + j, return_counts=True)
    return codes // len(columns), codes % len(columns), counts, np.bincount(i), columns


def _entropy(fractions: npt.NDArray[np.float64]) -> float:
    return -float(np.sum(fractions * np.log(fractions)))


def _pairs(counts: npt.NDArray[np.int64]) -> int:
    """Σ C(n, 2); Python's integers, which no number of points overflows."""
    return sum(n * (n - 1) // 2 for n in counts.tolist())
