"""ρ-spectrum: in how many directions the embeddings vary."""

from __future__ import annotations

import math

import numpy as np
import torch

from robustdml_ext.evaluation.inputs import Array, as_matrix, scale_to_one, unit


def rho_spectrum(embeddings: Array, skip: int = 0, *, normalize: bool = True) -> float:
    """ρ, the spectral decay of `embeddings` [N, D]: 0 where all directions are used alike, larger where few are.

    Roth et al., "Revisiting Training Strategies and Generalization Performance in Deep Metric Learning" (2020),
    section 5: KL(U || S), the Kullback-Leibler divergence in nats from the singular values of the embedding matrix,
    scaled to the sum 1, to the uniform distribution over as many: with K values s, -mean(log(K s / Σ s)). The matrix
    is not centered. Its rows are scaled to unit length, as that paper's embeddings are, unless `normalize` is off.
    The paper takes the embeddings of the training images and finds a *lower* ρ to go with better generalization;
    which split was judged should be said with the figure.

    `skip` leaves the largest singular values out, for "a more robust estimate" (the published code's
    `rho_spectrum@k` is skip = k - 1). That code takes all D singular values where embeddings are on a GPU, as this
    function, but a randomized decomposition with D - 1 of them on the CPU: figures differ by what the smallest adds.

    There are K = min(N, D) - skip values. A singular value below eps max(N, D) times the largest, where eps = 2^-52, is
    rounding (the numerical rank ignores it) and counts as just that large, so that ρ stays finite for embeddings that
    leave directions out; float32 embeddings have noise of their own, about 1e-7 of the largest. NaN where all
    embeddings are zero or `skip` leaves no value.

    By QR and the singular values of R in float64, O(N D²): the Gram matrix would be as fast, but would square the
    condition number and lose all values below 1e-8 of the largest, on which the logarithm depends most.

    Raises: TypeError, ValueError for arguments of the wrong type or shape, values that are not finite, or a negative
    skip.
    """
    if isinstance(skip, bool) or not isinstance(skip, int) or skip < 0:
        raise ValueError(f"skip must be a whole number from 0, got {skip!r}")
    matrix = as_matrix(embeddings).cpu()
    matrix = unit(matrix) if normalize else matrix * scale_to_one(float(matrix.abs().max()))
    if len(matrix) > matrix.shape[1]:
        matrix = torch.linalg.qr(matrix, mode="r").R
    values = torch.linalg.svdvals(matrix)
    largest = float(values[0])
    if largest == 0 or len(values) <= skip:
        return math.nan
    values = values.clamp_min(largest * max(embeddings.shape) * float(np.finfo(np.float64).eps))[skip:]
    # Rounding may leave a flat spectrum an ulp below 0.
    return max(float((values / values.sum() * len(values)).log().mean().neg()), 0.0)
