"""What a kernel of embeddings is good for: telling novelties, and whether two samples are of one distribution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation.inputs import Array, as_vectors
from robustdml_ext.evaluation.kernels import Kernel, nearest_psd, symmetric

# Entries of permutations' memberships held at a time: 32 MB.
BLOCK = 2**22
# An offset of a one-class machine that is this small is none: the values of all that support it round to 0.
NO_MARGIN = 1e-4
# Eigenvalues smaller than this part of the largest are rounding.
ROUNDING = 1e-10


@dataclass(frozen=True)
class NoveltyDetector:
    """A one-class support vector machine on a kernel of embeddings.

    Attributes:
        kernel: of two sets of embeddings.
        known: embeddings `[N, D]` it was fitted to.
        machine: the fitted `sklearn.svm.OneClassSVM`, of precomputed kernel values divided by `scale`.
        scale: the largest kernel value of the known embeddings.
        smallest_eigenvalue: of the kernel's matrix of the known embeddings, before any was set to 0.
        projection: float64 `[N, N]`, applied to kernel values with the known embeddings; None where the matrix was
            positive semi-definite.
    """

    kernel: Kernel
    known: Tensor
    machine: Any
    scale: float
    smallest_eigenvalue: float
    projection: Tensor | None

    def scores(self, embeddings: Array) -> npt.NDArray[np.float64]:
        """Decision scores float64 [M] of embeddings [M, D]: larger where they are like the known ones; novel below 0.

        In units of `scale`.

        Raises: TypeError, ValueError as the kernel does.
        """
        values = self.kernel(as_vectors(embeddings), self.known) / self.scale
        if self.projection is not None:
            values = values @ self.projection.to(values.device)
        scores: npt.NDArray[np.float64] = self.machine.decision_function(values.cpu().numpy())
        return scores


def novelty_detector(kernel: Kernel, embeddings: Array, nu: float = 0.1) -> NoveltyDetector:
    """A one-class SVM (Schölkopf et al. 2000) fitted to `embeddings` [N, D] by their kernel values.

    `nu`: at most about this fraction of the known embeddings is taken for novel, and at least this fraction supports
    the boundary. A kernel whose matrix of the known embeddings is not positive semi-definite (see `similarity_kernel`)
    is clipped as in `nearest_psd`, and new embeddings' values go through the same projection, without which they
    would be compared with other features than were fitted. O(N²) memory, O(N³) time.

    The machine separates the known embeddings from the origin, so kernel values should be positive: of a learned
    similarity as it is, which is negative between classes, the origin lies among them. positive="softplus" is a good
    choice, as "sigmoid" loses the differences between high scores.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, nu outside 0 <
    nu <= 1, or a kernel by which the origin lies among the known embeddings.
    """
    if not 0 < nu <= 1:
        raise ValueError(f"nu must be above 0 and at most 1, got {nu}")
    from sklearn.svm import OneClassSVM

    known = as_vectors(embeddings)
    gram = symmetric(kernel(known), "kernel's matrix")
    # The machine stops at a gap of its own size, whatever the kernel's is.
    scale = float(gram.abs().max()) or 1.0
    gram = gram / scale
    nearest = nearest_psd(gram)
    negative = nearest.smallest_eigenvalue < -ROUNDING * len(gram)
    machine = OneClassSVM(kernel="precomputed", nu=nu)
    machine.fit((nearest.matrix if negative else gram).cpu().numpy())
    # Coefficients add up to nu · N, and so the offset would at most be, were all values 1.
    if float(machine.offset_[0]) <= NO_MARGIN * nu * len(known):
        raise ValueError(
            "kernel: the origin lies among the known embeddings, which then cannot be told from it; give a kernel of "
            "positive values (of a similarity, positive='softplus')"
        )
    projection = nearest.projection if negative else None
    return NoveltyDetector(kernel, known, machine, scale, scale * nearest.smallest_eigenvalue, projection)


@dataclass(frozen=True)
class MMDTest:
    """A two-sample test by the maximum mean discrepancy.

    Attributes:
        statistic: the unbiased MMD² of the two samples; it may be negative.
        p_value: probability, were both of one distribution, of a statistic as large.
        permuted: float64 [permutations], the statistics of the permuted samples.
    """

    statistic: float
    p_value: float
    permuted: npt.NDArray[np.float64]


def mmd_test(kernel: Kernel, x: Array, y: Array, permutations: int = 1000, seed: int = 0) -> MMDTest:
    """Whether `x` [m, D] and `y` [n, D] are samples of one distribution: the kernel two-sample test by permutations.

    Gretton et al., "A Kernel Two-Sample Test" (2012), equation 3, the unbiased estimate

    MMD²_u = Σ_{i≠j} k(x_i, x_j) / (m (m − 1)) + Σ_{i≠j} k(y_i, y_j) / (n (n − 1)) − 2 Σ_{i,j} k(x_i, y_j) / (m n),

    and p = (1 + #{permuted MMD²_u ≥ MMD²_u}) / (1 + permutations), where all m + n are dealt out anew to samples of m
    and n. The test keeps its level for every symmetric k; that it has power against every difference needs a
    characteristic Mercer kernel (see `similarity_kernel`). Of a learned similarity give the "sigmoid" or "softplus":
    large scores of either sign drown the difference of the means.

    The kernel's joint matrix is made once; each permutation costs one row of a product with it. O((m + n)²) memory.
    The same for the same seed on every device, but for rounding.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, samples of fewer
    than 2, permutations < 1, or a kernel that is not symmetric.
    """
    if isinstance(permutations, bool) or not isinstance(permutations, int) or permutations < 1:
        raise ValueError(f"permutations must be a positive whole number, got {permutations!r}")
    first, second = as_vectors(x, "x"), as_vectors(y, "y")
    m, n = len(first), len(second)
    if m < 2 or n < 2:
        raise ValueError(f"x and y must hold at least 2 embeddings each, got {m} and {n}")
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"y must have x's {first.shape[1]} dimensions, got {second.shape[1]}")
    gram = symmetric(kernel(torch.cat([first, second.to(first.device)])), "kernel's matrix")
    # Scaled, so that what products round by is known.
    largest = float(gram.abs().max()) or 1.0
    gram = gram / largest
    gram.fill_diagonal_(0.0)
    observed = _statistics(gram, (torch.arange(m + n, device=gram.device) < m)[None].double(), m)
    generator = torch.Generator().manual_seed(seed)
    at_once = max(1, BLOCK // (m + n))
    permuted = []
    for begin in range(0, permutations, at_once):
        count = min(at_once, permutations - begin)
        chosen = torch.rand(count, m + n, generator=generator, dtype=torch.float64).argsort(1)[:, :m]
        members = torch.zeros(count, m + n, dtype=torch.float64).scatter_(1, chosen, 1.0)
        permuted.append(_statistics(gram, members.to(gram.device), m))
    found = torch.cat(permuted)
    # Equal statistics count as reached although they round.
    reached = int((found >= observed - ROUNDING).sum())
    return MMDTest(float(observed) * largest, (1 + reached) / (1 + permutations), (found * largest).cpu().numpy())


def _statistics(gram: Tensor, members: Tensor, m: int) -> Tensor:
    """MMD²_u [b] of partitions `members` [b, m + n]: 1 for what is in the first sample. The diagonal is zero."""
    n = len(gram) - m
    sums = gram.sum(1)
    within_first = ((members @ gram) * members).sum(1)
    across = members @ sums - within_first
    within_second = sums.sum() - within_first - 2 * across
    return within_first / (m * (m - 1)) + within_second / (n * (n - 1)) - 2 * across / (m * n)
