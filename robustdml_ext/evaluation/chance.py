"""Agreement of clusters and classes beyond what chance gives: AMI and the adjusted Rand index."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from robustdml_ext.evaluation.contingency import AVERAGES, Contingency, average_of
from robustdml_ext.evaluation.inputs import Labels, one_of

# Terms of the expectation held at a time.
TERMS = 2**20


def ami(clusters: Labels, labels: Labels, average: str = "arithmetic") -> float:
    """Adjusted mutual information (I - E) / (average(H(Ω), H(Y)) - E) of two labelings [N], at most 1.

    Vinh, Epps and Bailey, "Information Theoretic Measures for Clusterings Comparison" (2010). E is the mutual
    information that two random labelings with groups of these sizes have on average: 0 is what chance gives,
    whatever the number of clusters, while NMI of many small clusters is high for any clustering; a value may be
    negative. `average` as in `nmi`, "arithmetic" by default. 1 where both labelings are the same but for names; else 0
    where one of them is a single group or leaves every point alone (there scikit-learn's adjusted_mutual_info_score
    gives 1 or -1 for the averages "min" and "geometric", a quotient of rounding errors; it is the same otherwise).
    E is summed over the different *sizes* of clusters and classes, of which there are at most sqrt(2 N) each, so that
    many clusters take no longer than few.

    Raises: TypeError, ValueError for labelings that are empty, no integers, or of different lengths, or an average
    that is not offered.
    """
    one_of("average", average, AVERAGES)
    table = Contingency.of(clusters, labels)
    if len(table.cells) == len(table.rows) == len(table.columns):
        return 1.0
    # Whichever points a group of all points or groups of one point hold, information stays as it is: there is nothing
    # but chance. (Computed, it would be 0 / 0 for some averages.)
    if {len(table.rows), len(table.columns)} & {1, table.total}:
        return 0.0
    expected = _expected_information(table)
    most = average_of(table.row_entropy(), table.column_entropy(), average)
    return (table.information() - expected) / (most - expected)


def adjusted_rand_index(clusters: Labels, labels: Labels) -> float:
    """The Rand index of two labelings [N], adjusted for chance: 1 for the same partition, 0 on average by chance.

    Hubert and Arabie, "Comparing Partitions" (1985): (S - E) / ((A + B) / 2 - E) with S pairs that share cluster and
    class, A a cluster, B a class, and E = A B / C(N, 2); in exact integers up to the last division.

    Raises: TypeError, ValueError for labelings that are empty, no integers, or of different lengths.
    """
    table = Contingency.of(clusters, labels)
    shared, rows, columns = table.cell_pairs(), table.row_pairs(), table.column_pairs()
    if shared == rows == columns:
        return 1.0
    pairs = table.total * (table.total - 1) // 2
    return 2 * (shared * pairs - rows * columns) / ((rows + columns) * pairs - 2 * rows * columns)


def _expected_information(table: Contingency) -> float:
    """E: the mean over all cells of n / N · log(N n / (a b)), with n hypergeometric for margins a and b."""
    total = table.total
    logs = torch.lgamma(torch.arange(1, total + 2, dtype=torch.float64)).numpy()  # log n!
    sizes, times = np.unique(table.rows, return_counts=True)
    other_sizes, other_times = np.unique(table.columns, return_counts=True)
    a, b = (grid.ravel() for grid in np.meshgrid(sizes, other_sizes, indexing="ij"))
    weights = np.multiply.outer(times, other_times).ravel().astype(np.float64)
    lowest = np.maximum(a + b - total, 1)  # a cell without points has no information
    lengths = np.minimum(a, b) - lowest + 1
    expected = 0.0
    for pairs in _slices(lengths):
        each = lengths[pairs]
        cells = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each) + np.repeat(lowest[pairs], each)
        x, y = np.repeat(a[pairs], each), np.repeat(b[pairs], each)
        fixed = logs[a[pairs]] + logs[total - a[pairs]] + logs[b[pairs]] + logs[total - b[pairs]] - logs[total]
        probability = np.repeat(fixed, each) - logs[cells] - logs[x - cells] - logs[y - cells]
        np.exp(probability - logs[total - x - y + cells], out=probability)
        surprise = np.log(cells) + np.log(total) - np.log(x) - np.log(y)
        expected += float(np.sum(np.repeat(weights[pairs], each) * probability * surprise * (cells / total)))
    return expected


def _slices(lengths: npt.NDArray[np.int64]) -> Iterator[slice]:
    """Consecutive pairs of sizes with some `TERMS` terms together."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        reached = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, reached + TERMS, side="right")))
        yield slice(start, stop)
        start = stop
