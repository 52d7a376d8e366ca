from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext.evaluation import density


def brute_force(embeddings: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Equations 12 and 13 pair by pair in float64."""
    vectors = embeddings.astype(np.float64)
    vectors = vectors / np.sqrt((vectors**2).sum(1, keepdims=True))
    intra, means = [], []
    for label in np.unique(labels):
        members = vectors[labels == label]
        if len(members) > 1:
            intra.append(np.mean([1 - a @ b for a, b in permutations(members, 2)]))
        mean = members.mean(0)
        means.append(mean / (np.sqrt(mean @ mean) or 1))
    inter = [1 - a @ b for a, b in permutations(means, 2)]
    return float(np.mean(intra)) if intra else math.nan, float(np.mean(inter)) if inter else math.nan


@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=8),
    st.integers(1, 12),
    st.sampled_from([np.float32, np.float64]),
    st.integers(-12, 12),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_equals_the_equations(
    sizes: list[int], dims: int, dtype: type, scale: int, seed: int, duplicates: bool
) -> None:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(random.integers(0, 10**9, len(sizes)), sizes))
    embeddings = (random.normal(size=(len(labels), dims)) + 0.5).astype(dtype) * dtype(10.0**scale)
    if duplicates:
        embeddings[:] = embeddings[random.integers(0, len(labels), len(labels))]
    intra, inter = brute_force(embeddings, labels)
    got = density(embeddings, labels)
    assert got["pi_intra"] == pytest.approx(intra, abs=1e-11, nan_ok=True)
    assert got["pi_inter"] == pytest.approx(inter, abs=1e-9, nan_ok=True)
    if inter > 1e-6:
        assert got["pi_ratio"] == pytest.approx(intra / inter, rel=1e-4, abs=1e-9, nan_ok=True)
    assert density(torch.from_numpy(embeddings), torch.from_numpy(labels)) == pytest.approx(got, nan_ok=True)


def test_by_hand() -> None:
    # Class 0 on the x axis with a right angle inside it, class 1 opposite to class 0's mean, class 2 alone.
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [-1.0, -1.0], [-4.0, -4.0], [1.0, -1.0]])
    got = density(embeddings, np.array([0, 0, 1, 1, 2]))
    assert got["pi_intra"] == pytest.approx((1 + 0) / 2)  # the single member of class 2 does not count
    assert got["pi_inter"] == pytest.approx((2 + 1 + 1) / 3)
    assert got["pi_ratio"] == pytest.approx(0.375)


def test_undefined_figures_are_nan() -> None:
    one = density(np.eye(3), np.array([5, 5, 5]))
    assert one["pi_intra"] == pytest.approx(1) and math.isnan(one["pi_inter"]) and math.isnan(one["pi_ratio"])
    alone = density(np.eye(3), np.array([0, 1, 2]))
    assert math.isnan(alone["pi_intra"]) and alone["pi_inter"] == pytest.approx(1) and math.isnan(alone["pi_ratio"])


def test_collapsed_embeddings() -> None:
    got = density(np.ones((6, 1)), np.array([0, 0, 0, 1, 1, 1]))
    assert got["pi_intra"] == 0 and got["pi_inter"] == 0 and math.isnan(got["pi_ratio"])
    got = density(np.array([[1.0, 1.0], [1.0, -1.0]] * 2), np.array([0, 0, 1, 1]))
    assert got["pi_intra"] == pytest.approx(1) and got["pi_ratio"] > 1e12


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="NaN"):
        density(np.array([[np.nan]]), np.array([0]))
    with pytest.raises(ValueError, match=r"\[2\]"):
        density(np.eye(2), np.array([0]))
