from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom
from scorer_cases import network
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.svm import OneClassSVM
from torch import Tensor

from robustdml_ext.evaluation import (
    cosine_scorer,
    kernel_tasks,
    landmark_kernel,
    mmd_test,
    nearest_psd,
    novelty_detector,
    similarity_kernel,
)
from robustdml_ext.models import SimilarityNetwork


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    pixels, labels = load_digits(return_X_y=True)
    return torch.from_numpy(pixels).float() / 16, torch.from_numpy(labels)


@pytest.fixture(scope="module")
def trained(digits: tuple[Tensor, Tensor]) -> tuple[SimilarityNetwork, Tensor, Tensor]:
    """S trained by equation 3 on pixels of some digits 0 to 4; those, and the rest of 0 to 4."""
    pixels, labels = digits
    with torch.random.fork_rng():
        torch.manual_seed(0)
        chosen = torch.nonzero(labels < 5).flatten()
        chosen = chosen[torch.randperm(len(chosen))]
        known, rest = chosen[:400], chosen[400:]
        net = SimilarityNetwork(64, 128)
        optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-2)
        for _ in range(200):
            batch = known[torch.randperm(400)[:96]]
            scores = net(pixels[batch], pixels[batch])
            same, apart = labels[batch][:, None] == labels[batch], ~torch.eye(96, dtype=torch.bool)
            loss = F.softplus(-scores[same & apart]).mean() + F.softplus(scores[~same]).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net, pixels[known], pixels[rest]


@pytest.mark.parametrize("reduce", ["max", "mean", "min"])
def test_digits_that_were_never_seen_are_novel(
    reduce: str, digits: tuple[Tensor, Tensor], trained: tuple[SimilarityNetwork, Tensor, Tensor]
) -> None:
    (pixels, labels), (net, known, rest) = digits, trained
    kernel = similarity_kernel(net, reduce, "softplus")
    detector = novelty_detector(kernel, known, nu=0.1)
    scores = detector.scores(torch.cat([rest, pixels[labels >= 5]]))
    assert roc_auc_score(np.arange(len(scores)) < len(rest), scores) > 0.9
    # nu bounds the share of the known that are taken for novel.
    assert 0.05 < (detector.scores(known) < 0).mean() < 0.13
    assert detector.smallest_eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(kernel(known))[0]), rel=1e-6)
    assert detector.smallest_eigenvalue < -1 and detector.projection is not None


def test_clipped_scores_are_those_of_the_clipped_machine() -> None:
    random = np.random.default_rng(0)
    known, new = random.normal(size=(40, 3)), random.normal(size=(25, 3))
    kernel = similarity_kernel(network(3), "max", "softplus")
    detector = novelty_detector(kernel, known, 0.2)
    values, vectors = np.linalg.eigh(kernel(known).numpy())
    assert values[0] < -0.1
    # Features of the clipped matrix, of the known and of the new.
    kept = vectors[:, values > 0]
    features = kept * np.sqrt(values[values > 0])
    of_new = kernel(new, known).numpy() @ kept / np.sqrt(values[values > 0])
    scale = float(kernel(known).abs().max())
    machine = OneClassSVM(kernel="linear", nu=0.2).fit(features / scale**0.5)
    np.testing.assert_allclose(detector.scores(new), machine.decision_function(of_new / scale**0.5), atol=5e-3)
    np.testing.assert_allclose(detector.scores(known), machine.decision_function(features / scale**0.5), atol=5e-3)


def test_a_mercer_kernel_is_left_as_it_is() -> None:
    random = np.random.default_rng(0)
    known = random.normal(size=(60, 3)) + np.array([4, 0, 0])
    kernel = landmark_kernel(cosine_scorer(), np.eye(3))
    detector = novelty_detector(kernel, known, 0.3)
    assert detector.projection is None and abs(detector.smallest_eigenvalue) < 1e-12
    unit = known / np.linalg.norm(known, axis=1, keepdims=True)
    gram = unit @ unit.T / 3
    machine = OneClassSVM(kernel="precomputed", nu=0.3).fit(gram / gram.max())
    np.testing.assert_allclose(detector.scores(known), machine.decision_function(gram / gram.max()), atol=1e-6)
    assert detector.scores(np.array([[9.0, 0, 0]])) > 0 > detector.scores(np.array([[-9.0, 0, 0]]))


def test_an_origin_among_the_known_is_told() -> None:
    known = np.random.default_rng(0).normal(size=(50, 3))
    with pytest.raises(ValueError, match="the origin lies among the known embeddings"):
        novelty_detector(similarity_kernel(cosine_scorer()), known)
    for nu in (0.0, 1.5):
        with pytest.raises(ValueError, match="nu must be above 0 and at most 1"):
            novelty_detector(similarity_kernel(cosine_scorer()), known, nu)


def written_out(gram: np.ndarray, first: list[int], second: list[int]) -> float:
    m, n = len(first), len(second)
    within = sum(gram[i, j] for i in first for j in first if i != j) / (m * (m - 1))
    other = sum(gram[i, j] for i in second for j in second if i != j) / (n * (n - 1))
    return within + other - 2 * sum(gram[i, j] for i in first for j in second) / (m * n)


@given(st.integers(2, 6), st.integers(2, 6), st.integers(1, 12), st.integers(0, 2**31), st.sampled_from([1, 20, 2**22]))
def test_mmd_against_loops(m: int, n: int, permutations: int, seed: int, block: int) -> None:
    random = np.random.default_rng(seed)
    x, y = random.normal(size=(m, 3)), random.normal(size=(n, 3)) + 0.5
    kernel = similarity_kernel(network(3, seed % 5), "mean")
    gram = kernel(np.concatenate([x, y])).numpy()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel_tasks, "BLOCK", block)
        found = mmd_test(kernel, x, y, permutations, seed)
    size = np.abs(gram).max()
    assert found.statistic == pytest.approx(written_out(gram, [*range(m)], [*range(m, m + n)]), abs=1e-5 * size)
    possible = np.array(
        [
            written_out(gram, [*part], [i for i in range(m + n) if i not in part])
            for part in itertools.combinations(range(m + n), m)
        ]
    )
    assert len(found.permuted) == permutations
    assert (np.abs(found.permuted[:, None] - possible).min(1) < 1e-5 * size).all()
    reached = (found.permuted >= found.statistic - 1e-9 * size).sum()
    assert found.p_value == (1 + reached) / (1 + permutations)


def test_every_partition_comes_as_often_and_by_seed() -> None:
    kernel = similarity_kernel(network(2), "mean")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(2, 2)), random.normal(size=(3, 2))
    found = mmd_test(kernel, x, y, 4000, 1)
    gram = kernel(np.concatenate([x, y])).numpy()
    possible = np.array(
        [written_out(gram, [*p], [i for i in range(5) if i not in p]) for p in itertools.combinations(range(5), 2)]
    )
    which = np.abs(found.permuted[:, None] - possible).argmin(1)
    assert (np.abs(np.bincount(which, minlength=10) - 400) < 5 * 20).all()
    assert (mmd_test(kernel, x, y, 4000, 1).permuted == found.permuted).all()
    assert (mmd_test(kernel, x, y, 4000, 2).permuted != found.permuted).any()


def test_the_level_is_kept_and_a_shift_is_found(
    digits: tuple[Tensor, Tensor], trained: tuple[SimilarityNetwork, Tensor, Tensor]
) -> None:
    (pixels, labels), (net, _, rest) = digits, trained
    kernel = similarity_kernel(net, "max", "sigmoid")
    generator = torch.Generator().manual_seed(0)
    p = []
    for draw in range(300):
        chosen = torch.randperm(len(rest), generator=generator)[:40]
        p.append(mmd_test(kernel, rest[chosen[:20]], rest[chosen[20:]], 99, draw).p_value)
    # P(p <= a) is a at steps of 1/100; each count lies where 99.9 % of binomial ones do.
    for level in (0.05, 0.25, 0.5, 0.75):
        low, high = binom.interval(0.999, 300, level)
        assert low <= (np.array(p) <= level).sum() <= high
    novel = pixels[labels >= 5]
    assert all(mmd_test(kernel, rest[i::8], novel[i::20], 199, i).p_value == 1 / 200 for i in range(8))


def test_equal_values_are_no_evidence() -> None:
    # The joint matrix is constant: every permutation gives the same, however it rounds.
    found = mmd_test(landmark_kernel(cosine_scorer(), np.eye(3)), np.full((7, 3), 0.1), np.full((5, 3), 0.1), 50)
    assert found.p_value == 1 and abs(found.statistic) < 1e-12


def test_wrong_arguments() -> None:
    kernel = similarity_kernel(cosine_scorer())
    with pytest.raises(ValueError, match="x and y must hold at least 2 embeddings each, got 2 and 1"):
        mmd_test(kernel, np.eye(2), np.eye(1, 2))
    with pytest.raises(ValueError, match="y must have x's 2 dimensions, got 3"):
        mmd_test(kernel, np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="permutations must be a positive whole number, got 0"):
        mmd_test(kernel, np.eye(2), np.eye(2), 0)
    with pytest.raises(ValueError, match="kernel's matrix must be symmetric"):
        mmd_test(lambda x, y=None: torch.arange(16.0).view(4, 4), np.eye(2), np.eye(2))
    assert nearest_psd(np.zeros((2, 2))).smallest_eigenvalue == 0
