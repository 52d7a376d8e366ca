"""How well clusters agree with the classes: NMI, F1 over pairs, and purity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from robustdml_ext.evaluation.contingency import AVERAGES, Contingency, average_of
from robustdml_ext.evaluation.inputs import Labels, one_of


def nmi(clusters: Labels, labels: Labels, average: str = "arithmetic") -> float:
    """Normalized mutual information I(Ω, Y) / average(H(Ω), H(Y)) of two labelings [N], in [0, 1].

    `average` of the two entropies: "arithmetic" (the field's, 2 I / (H + H)), "geometric", "min" or "max". 1 where
    both labelings put everything into one group, 0 where only one of them does. Equation 10 of MDProp as printed,
    I / (2 (H + H)), is a quarter of the arithmetic one and could never exceed 1/4, against published values of 0.6
    and more: a misprint, surely. Its published values, as the field, are taken to mean the arithmetic average.

    Raises: TypeError, ValueError for labelings that are empty, no integers, or of different lengths, or an average
    that is not offered.
    """
    one_of("average", average, AVERAGES)
    table = Contingency.of(clusters, labels)
    if len(table.rows) == len(table.columns) == 1:
        return 1.0
    entropy = average_of(table.row_entropy(), table.column_entropy(), average)
    return min(max(table.information() / entropy, 0.0), 1.0) if entropy else 0.0


def f1(clusters: Labels, labels: Labels) -> float:
    """F1 over pairs of two labelings [N], in [0, 1]: "same cluster" as a guess at "same class".

    The harmonic mean of precision and recall. With n_ij points of class j in cluster i, 2 Σ C(n_ij, 2) / (Σ
    C(n_i, 2) + Σ C(n_j, 2)), in exact integers. 1 where there is no pair on either side, which is to say that
    both labelings leave every point alone. The code that HDML and Roth et al. published counts the same pairs
    (and calls precision recall, which the harmonic mean forgives); without any common pair it gives NaN where this
    gives 0.

    Raises: TypeError, ValueError for labelings that are empty, no integers, or of different lengths.
    """
    table = Contingency.of(clusters, labels)
    pairs = table.row_pairs() + table.column_pairs()
    return 2 * table.cell_pairs() / pairs if pairs else 1.0


def purity(clusters: Labels, labels: Labels) -> float:
    """The fraction of points that are of their cluster's most frequent class; of two labelings [N], in (0, 1].

    Not to be compared between different numbers of clusters: as many as there are points have purity 1.

    Raises: TypeError, ValueError for labelings that are empty, no integers, or of different lengths.
    """
    table = Contingency.of(clusters, labels)
    most: npt.NDArray[np.int64] = np.zeros_like(table.rows)
    np.maximum.at(most, table.row, table.cells)
    return int(most.sum()) / table.total
