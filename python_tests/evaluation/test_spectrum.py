from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from robustdml_ext.evaluation.spectrum import rho_spectrum


def brute_force(embeddings: np.ndarray, skip: int, normalize: bool) -> float:
    """The whole matrix' singular values, SciPy's divergence."""
    matrix = embeddings.astype(np.float64)
    if normalize:
        lengths = np.sqrt((matrix**2).sum(1, keepdims=True))
        matrix = matrix / np.where(lengths > 0, lengths, 1)
    values = np.linalg.svd(matrix, compute_uv=False)
    values = np.maximum(values, values[0] * max(matrix.shape) * np.finfo(np.float64).eps)[skip:]
    return float(entropy(np.full(len(values), 1 / len(values)), values / values.sum()))


@given(
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(0, 3),
    st.booleans(),
    st.sampled_from([np.float32, np.float64, np.int16]),
    st.integers(0, 2**32),
)
def test_equals_the_definition(count: int, dims: int, skip: int, normalize: bool, dtype: type, seed: int) -> None:
    random = np.random.default_rng(seed)
    embeddings = (random.normal(size=(count, dims)) * 100 * 0.5 ** np.arange(dims)).astype(dtype)
    got = rho_spectrum(embeddings, skip, normalize=normalize)
    if skip >= min(count, dims) or not embeddings.any():
        assert math.isnan(got)
        return
    rank = np.linalg.matrix_rank(embeddings)
    # A value that should be 0 is all rounding; whether it lies above the floor is another question in every algorithm.
    close = 1e-9 if rank == min(count, dims) else 2.0
    assert got == pytest.approx(brute_force(embeddings, skip, normalize), abs=close)
    assert rho_spectrum(torch.from_numpy(embeddings), skip, normalize=normalize) == got


def test_small_directions_are_not_lost() -> None:
    # As a Gram matrix these values would be squared to 1e-24, below its rounding.
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(500, 6)))[0]
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(6, 6)))[0]
    values = 10.0 ** -np.arange(0, 12, 2)
    expected = -np.mean(np.log(6 * values / values.sum()))
    assert rho_spectrum(basis * values @ turn, normalize=False) == pytest.approx(expected, abs=1e-4)
    wide = rho_spectrum((basis * values @ turn).T, normalize=False)
    assert wide == pytest.approx(expected, abs=1e-4)


def test_flat_and_collapsed_spectra() -> None:
    assert rho_spectrum(np.eye(8)) == 0
    assert rho_spectrum(np.concatenate([np.eye(8), -np.eye(8)] * 3)) == pytest.approx(0, abs=1e-12)
    one = np.zeros((50, 4))
    one[:, 0] = np.arange(1, 51)
    # One direction; three at the floor of 50 eps.
    floor = 50 * np.finfo(np.float64).eps
    shares = np.array([1, floor, floor, floor]) / (1 + 3 * floor)
    assert rho_spectrum(one) == pytest.approx(-np.mean(np.log(4 * shares)), rel=1e-12)
    assert rho_spectrum(one[:, :1]) == 0
    assert math.isnan(rho_spectrum(np.zeros((5, 3)))) and math.isnan(rho_spectrum(np.eye(3), skip=3))


def test_published_modes() -> None:
    # The GPU branch of Roth et al.'s code: rho_spectrum@k leaves k - 1 values out.
    embeddings = np.random.default_rng(0).normal(size=(300, 16)) * np.linspace(0.1, 2, 16)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    values = torch.svd(torch.from_numpy(embeddings))[1].numpy()
    for mode in (1, 2, 5):
        kept = values[mode - 1 :]
        published = entropy(np.ones(len(kept)) / len(kept), kept / kept.sum())
        assert rho_spectrum(embeddings, mode - 1) == pytest.approx(published, abs=1e-10)
    assert rho_spectrum(embeddings * 1e-200) == pytest.approx(rho_spectrum(embeddings), abs=1e-12)
    lengths = np.random.default_rng(1).uniform(1, 9, (300, 1))
    assert rho_spectrum(embeddings * lengths) == pytest.approx(rho_spectrum(embeddings), abs=1e-12)
    assert abs(rho_spectrum(embeddings * lengths, normalize=False) - rho_spectrum(embeddings)) > 1e-4


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="row 2"):
        rho_spectrum(np.array([[1.0], [2.0], [np.inf]]))
    for skip in (-1, 1.0, True):
        with pytest.raises(ValueError, match="skip must be a whole number from 0"):
            rho_spectrum(np.eye(2), skip)  # type: ignore[arg-type]
