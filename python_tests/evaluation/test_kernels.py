from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scorer_cases import network, plain_scores, plane

from robustdml_ext.evaluation import cosine_scorer, landmark_kernel, nearest_psd, similarity_kernel

LIFTS = {
    None: lambda s: s,
    "sigmoid": lambda s: 1 / (1 + np.exp(-s)),
    "softplus": lambda s: np.log1p(np.exp(s)),
}
BOTH = {"max": np.maximum, "min": np.minimum, "mean": lambda a, b: (a + b) / 2}


@given(
    st.sampled_from(sorted(BOTH)), st.sampled_from(list(LIFTS)), st.integers(1, 9), st.integers(1, 9),
    st.integers(0, 2**31),
)  # fmt: skip
def test_symmetrized_scores(reduce: str, positive: str | None, count: int, others: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    x, y = (random.normal(size=(n, 4)).astype(np.float32) for n in (count, others))
    net = network(4, seed % 5)
    kernel = similarity_kernel(net, reduce, positive)
    forward, backward = (LIFTS[positive](plain_scores("similarity", net, *pair)) for pair in ((x, y), (y, x)))
    found = kernel(x, torch.from_numpy(y))
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, BOTH[reduce](forward, backward.T), atol=2e-5, rtol=2e-5)
    np.testing.assert_allclose(kernel(y, x), found.T, atol=2e-5, rtol=2e-5)
    gram = kernel(x)
    assert torch.equal(gram, gram.T)
    np.testing.assert_allclose(gram, kernel(x, x), atol=2e-5, rtol=2e-5)
    if positive:
        assert (gram > 0).all() and (positive != "sigmoid" or (gram < 1).all())


def test_a_symmetric_score_need_not_be_a_mercer_kernel() -> None:
    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    gram = similarity_kernel(network(4))(x)
    assert torch.linalg.eigvalsh(gram)[0] < -1
    assert nearest_psd(gram).smallest_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(gram)[0]))


@given(st.sampled_from(list(LIFTS)), st.booleans(), st.integers(1, 12), st.integers(1, 8), st.integers(0, 2**31))
def test_landmarks_make_a_mercer_kernel(
    positive: str | None, normalize: bool, count: int, landmarks: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    x, y, anchors = (random.normal(size=(n, 4)).astype(np.float32) for n in (count, 5, landmarks))
    net = network(4, seed % 5)
    kernel = landmark_kernel(net, anchors, positive, normalize=normalize)
    of_x, of_y = (LIFTS[positive](plain_scores("similarity", net, rows, anchors)) for rows in (x, y))
    if normalize:
        of_x, of_y = (f / np.linalg.norm(f, axis=1, keepdims=True) for f in (of_x, of_y))
    else:
        of_x, of_y = of_x / np.sqrt(landmarks), of_y / np.sqrt(landmarks)
    np.testing.assert_allclose(kernel(x, y), of_x @ of_y.T, atol=2e-4, rtol=2e-4)
    gram = kernel(x)
    np.testing.assert_allclose(gram, of_x @ of_x.T, atol=2e-4, rtol=2e-4)
    assert torch.linalg.eigvalsh(gram)[0] > -1e-12 * max(float(gram.abs().max()), 1) * count
    if not normalize:
        by_name = similarity_kernel(net, "landmarks", positive, anchors)
        assert torch.equal(by_name(x), gram)


@given(st.integers(1, 10), st.integers(0, 2**31), st.sampled_from([1e-6, 1.0, 1e6]))
def test_nearest_psd(count: int, seed: int, scale: float) -> None:
    random = np.random.default_rng(seed)
    gram = random.normal(size=(count, count)) * scale
    gram = gram + gram.T
    found = nearest_psd(gram)
    values, vectors = np.linalg.eigh(gram)
    expected = sum((value * np.outer(v, v) for value, v in zip(values, vectors.T, strict=True) if value > 0), 0 * gram)
    np.testing.assert_allclose(found.matrix, expected, atol=1e-12 * scale)
    np.testing.assert_allclose(torch.from_numpy(gram) @ found.projection, expected, atol=1e-11 * scale)
    assert found.smallest_eigenvalue == pytest.approx(values[0], abs=1e-12 * scale)
    assert np.linalg.eigvalsh(found.matrix)[0] > -1e-12 * scale
    # Nobody nearer: small moves within the cone are farther away.
    for _ in range(5):
        step = random.normal(size=(count, count)) * scale
        assert np.linalg.norm(expected + 0.01 * step @ step.T / scale - gram) >= np.linalg.norm(expected - gram)
    again = nearest_psd(found.matrix)
    np.testing.assert_allclose(again.matrix, expected, atol=1e-12 * scale)


def test_scikit_learn_takes_the_values() -> None:
    from sklearn.svm import SVC

    random = np.random.default_rng(0)
    labels = random.integers(0, 3, 90)
    x = random.normal(size=(90, 5)) * 0.3 + np.eye(3, 5)[labels]
    kernel = landmark_kernel(network(5), x[:20], "sigmoid")
    machine = SVC(kernel="precomputed", C=100).fit(kernel(x[:60]), labels[:60])
    assert machine.score(kernel(x[60:], x[:60]), labels[60:]) > 0.8


def test_wrong_arguments() -> None:
    x = np.eye(3)
    with pytest.raises(ValueError, match="reduce must be one of max, min, mean, landmarks, got 'sum'"):
        similarity_kernel(plane, "sum")
    with pytest.raises(ValueError, match="positive must be None, 'sigmoid' or 'softplus', got 'exp'"):
        similarity_kernel(plane, positive="exp")
    for arguments in (("landmarks", None, None), ("max", None, x)):
        with pytest.raises(ValueError, match="landmarks: expected with reduce='landmarks' and only then"):
            similarity_kernel(plane, *arguments)
    with pytest.raises(TypeError, match="scorer must be a callable"):
        similarity_kernel(4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="y must be a non-empty matrix"):
        similarity_kernel(cosine_scorer())(x, np.empty((0, 3)))
    with pytest.raises(ValueError, match=r"gram must be square, got shape \[2, 3\]"):
        nearest_psd(np.ones((2, 3)))
    with pytest.raises(ValueError, match="gram must be symmetric; entries differ by up to 1 from"):
        nearest_psd(np.array([[0.0, 1.0], [2.0, 0.0]]))
