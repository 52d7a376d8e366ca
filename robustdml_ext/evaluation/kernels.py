"""Kernels from a learned similarity: symmetric ones, one that is a Mercer kernel, and matrices made semi-definite."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.evaluation.inputs import Array, as_matrix, as_vectors, one_of
from robustdml_ext.evaluation.scorers import Scorer, all_scores, as_scorer

# What is made of S(x', x'') and S(x'', x'), by name.
REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "max": torch.maximum,
    "min": torch.minimum,
    "mean": lambda one, other: (one + other) / 2,
}
# What makes a score positive, by name; None leaves it as it is.
POSITIVE: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda scores: scores,
    "sigmoid": torch.sigmoid,
    "softplus": F.softplus,
}
# A matrix is symmetric where it differs from its transpose by less than this part of its largest entry.
SYMMETRIC = 1e-6


class Kernel(Protocol):
    """kernel(x [N, D], y [M, D]) → its values float64 [N, M], on the device of x; without y those of x with itself."""

    def __call__(self, x: Array, y: Array | None = None, /) -> Tensor:
        """Values of all pairs: with scikit-learn's kernel="precomputed" after `.cpu().numpy()`."""
        ...


class NearestPsd(NamedTuple):
    """The nearest positive semi-definite matrix, float64 [N, N], and the smallest eigenvalue of what it is nearest to.

    `projection` [N, N], onto the eigenvectors that were kept, does to rows of kernel values of other items with these
    N what was done to the matrix: matrix = gram @ projection.
    """

    matrix: Tensor
    smallest_eigenvalue: float
    projection: Tensor


def similarity_kernel(
    scorer: Scorer | nn.Module, reduce: str = "max", positive: str | None = None, landmarks: Array | None = None
) -> Kernel:
    """K_S(x', x'') = f(K(x', x''), K(x'', x')) of embeddings, with K = S: the prototypes paper's closing remark.

    The paper calls this a Mercer kernel; it is not one by that alone. Symmetry is enforced, but matrices of a learned
    score made symmetric may have negative eigenvalues: they are then no inner products, a support vector machine's
    problem is no longer convex, and MMD² may be negative between different distributions. `nearest_psd` tells and
    mends that for one matrix. With reduce="landmarks" the kernel is `landmark_kernel`'s, which is positive
    semi-definite whatever S is.

    Args:
        scorer: a similarity network, one of `SCORERS`, or any callable (queries, items) → scores.
        reduce: f: "max" (the paper's), "mean" or "min" of both orders; or "landmarks".
        positive: None: S as it is; "sigmoid": σ(S), in 0 .. 1, the probability that the two are of one class as the
            pair loss (equation 3) trains it; "softplus": log(1 + exp S), positive and unbounded. Applied to each
            order before f.
        landmarks: for "landmarks", `[L, D]`: for example the class prototypes.

    Raises:
        TypeError, ValueError: an unknown name; landmarks where they are of no use, or none where they are needed. The
            kernel raises them for embeddings that are no finite matrix, or a scorer that gives no finite scores.
    """
    one_of("reduce", reduce, (*REDUCTIONS, "landmarks"))
    if (landmarks is not None) != (reduce == "landmarks"):
        raise ValueError(f"landmarks: expected with reduce='landmarks' and only then, got reduce={reduce!r}")
    if landmarks is not None:
        return landmark_kernel(scorer, landmarks, positive)
    judge, combine, lift = as_scorer(scorer), REDUCTIONS[reduce], _positive(positive)

    def kernel(x: Array, y: Array | None = None, /) -> Tensor:
        left = as_vectors(x, "x")
        if y is None:
            forward = lift(all_scores(judge, left, left).double())
            return combine(forward, forward.T)
        right = as_vectors(y, "y").to(left.device)
        forward = lift(all_scores(judge, left, right).double())
        return combine(forward, lift(all_scores(judge, right, left).double()).T)

    return kernel


def landmark_kernel(
    scorer: Scorer | nn.Module, landmarks: Array, positive: str | None = None, *, normalize: bool = False
) -> Kernel:
    """K(x', x'') = ⟨φ(x'), φ(x'')⟩ with φ_l(x) = S(x, z_l) / √L: a Mercer kernel whatever S is.

    φ(x) are the scores of an embedding against L landmarks z_l, so that two embeddings are alike where the same
    landmarks score high: an inner product of features, symmetric and positive semi-definite by construction. Class
    prototypes are landmarks at hand. What S says of the pair itself is not used.

    Args:
        scorer: as in `similarity_kernel`; each embedding is the query, the landmarks are the items.
        landmarks: `[L, D]`.
        positive: as in `similarity_kernel`, of each score: with "sigmoid" the kernel is in 0 .. 1.
        normalize: the cosine of φ(x') and φ(x''), which is 1 of an embedding with itself; still a Mercer kernel.

    Raises:
        TypeError, ValueError: as `similarity_kernel`.
    """
    judge, lift = as_scorer(scorer), _positive(positive)
    anchors = as_vectors(landmarks, "landmarks")

    def features(embeddings: Tensor) -> Tensor:
        scores = lift(all_scores(judge, embeddings, anchors.to(embeddings.device)).double())
        return F.normalize(scores, dim=1) if normalize else scores / len(anchors) ** 0.5

    def kernel(x: Array, y: Array | None = None, /) -> Tensor:
        left = as_vectors(x, "x")
        of_x = features(left)
        of_y = of_x if y is None else features(as_vectors(y, "y").to(left.device))
        with torch.autocast(left.device.type, enabled=False):
            return of_x @ of_y.T

    return kernel


def nearest_psd(gram: Array) -> NearestPsd:
    """The positive semi-definite matrix nearest to a symmetric one [N, N]: negative eigenvalues become 0.

    Nearest in the Frobenius norm (Higham, "Computing a nearest symmetric positive semidefinite matrix", 1988). A
    smallest eigenvalue that is negative beyond rounding says that the values were no Mercer kernel's. O(N³).

    Raises: TypeError, ValueError for no finite symmetric matrix.
    """
    matrix = symmetric(gram, "gram")
    values, vectors = torch.linalg.eigh(matrix)
    kept = vectors[:, values > 0]
    projection = kept @ kept.T
    nearest = (kept * values[values > 0]) @ kept.T
    return NearestPsd((nearest + nearest.T) / 2, float(values[0]), projection)


def symmetric(gram: Array, name: str) -> Tensor:
    """A matrix [N, N] as float64, its two halves averaged. Raises: TypeError, ValueError where they are not equal."""
    matrix = as_matrix(gram, name)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must be square, got shape {list(matrix.shape)}")
    difference, largest = float((matrix - matrix.T).abs().max()), float(matrix.abs().max())
    if difference > SYMMETRIC * largest:
        raise ValueError(f"{name} must be symmetric; entries differ by up to {difference:.3g} from their mirror images")
    return (matrix + matrix.T) / 2


def _positive(name: str | None) -> Callable[[Tensor], Tensor]:
    if name not in POSITIVE:
        raise ValueError(f"positive must be None, 'sigmoid' or 'softplus', got {name!r}")
    return POSITIVE[name]
