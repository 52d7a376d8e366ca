"""The contingency table of two labelings, its information and its pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from robustdml_ext.evaluation.inputs import Labels, as_labels

AVERAGES = ("arithmetic", "geometric", "min", "max")


@dataclass(frozen=True)
class Contingency:
    """The non-empty cells, n_ij points of class j in cluster i, and the margins.

    Attributes:
        row: int64 [cells], i.
        column: int64 [cells], j.
        cells: int64 [cells], n_ij.
        rows: int64 [clusters], points in each cluster.
        columns: int64 [classes], points of each class.
        total: N.
    """

    row: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    cells: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    total: int

    @classmethod
    def of(cls, clusters: Labels, labels: Labels) -> Contingency:
        """Raises: TypeError, ValueError for labelings that are empty, no integers, or of different lengths."""
        if len(clusters) == 0:
            raise ValueError("clusters and labels must not be empty")
        i = np.unique(as_labels(clusters, len(clusters), "clusters"), return_inverse=True)[1]
        j = np.unique(as_labels(labels, len(clusters)), return_inverse=True)[1]
        columns = np.bincount(j)
        codes, counts = np.unique(i * len(columns) + j, return_counts=True)
        return cls(codes // len(columns), codes % len(columns), counts, np.bincount(i), columns, len(clusters))

    def information(self) -> float:
        """Mutual information in nats."""
        surprise = math.log(self.total) + np.log(self.cells)
        surprise -= np.log(self.rows[self.row]) + np.log(self.columns[self.column])
        return float(np.sum(self.cells / self.total * surprise))

    def row_entropy(self) -> float:
        """Of the clusters, in nats."""
        return _entropy(self.rows / self.total)

    def column_entropy(self) -> float:
        """Of the classes, in nats."""
        return _entropy(self.columns / self.total)

    def cell_pairs(self) -> int:
        """Pairs of points that share cluster and class."""
        return _pairs(self.cells)

    def row_pairs(self) -> int:
        """Pairs of points that share a cluster."""
        return _pairs(self.rows)

    def column_pairs(self) -> int:
        """Pairs of points that share a class."""
        return _pairs(self.columns)


def average_of(first: float, second: float, average: str) -> float:
    """The arithmetic or geometric mean, or the smaller or larger, of two numbers that are not negative."""
    if average == "arithmetic":
        return (first + second) / 2
    if average == "geometric":
        return math.sqrt(first) * math.sqrt(second)
    return min(first, second) if average == "min" else max(first, second)


def _entropy(fractions: npt.NDArray[np.float64]) -> float:
    return -float(np.sum(fractions * np.log(fractions)))


def _pairs(counts: npt.NDArray[np.int64]) -> int:
    """Σ C(n, 2); Python's integers, which no number of points overflows."""
    return sum(n * (n - 1) // 2 for n in counts.tolist())
