from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scorer_cases import NAMES, network, plain_scores, plane

from robustdml_ext.evaluation import (
    SCORERS,
    all_pairs_eer,
    eer,
    min_dcf,
    random_trials,
    scored_pairs,
    trial_scores,
    trials,
    verify,
)


def least_cost(scores: np.ndarray, same: np.ndarray, prior: float, miss_cost: float, accept_cost: float) -> float:
    """Every threshold by itself."""
    costs = []
    for threshold in [math.inf, *scores]:
        miss, accept = (scores[same] < threshold).mean(), (scores[~same] >= threshold).mean()
        costs.append(miss_cost * prior * miss + accept_cost * (1 - prior) * accept)
    return min(costs) / min(miss_cost * prior, accept_cost * (1 - prior))


@given(
    st.integers(2, 60), st.integers(0, 2**32), st.sampled_from([-1.0, 0.0, 1.0, 9.0]), st.booleans(),
    st.sampled_from([0.01, 0.05, 0.5, 0.9]), st.sampled_from([1.0, 10.0]), st.sampled_from([1.0, 3.0]),
)  # fmt: skip
def test_min_dcf(
    count: int, seed: int, apart: float, ties: bool, prior: float, miss_cost: float, accept_cost: float
) -> None:
    random = np.random.default_rng(seed)
    same = random.random(count) < 0.4
    same[:2] = True, False
    scores = random.normal(size=count) + apart * same
    scores = np.round(scores) if ties else scores
    got = min_dcf(scores, same, prior, miss_cost, accept_cost)
    assert got == pytest.approx(least_cost(scores, same, prior, miss_cost, accept_cost), abs=1e-12)
    assert 0 <= got <= 1 and min_dcf(torch.from_numpy(scores), same.tolist(), prior, miss_cost, accept_cost) == got


def test_min_dcf_by_hand() -> None:
    assert min_dcf([3, 2, 1, 0], [1, 1, 0, 0]) == 0
    # Accepting the first three: no miss, 1 of 2 false accepts; the first one alone: half the misses.
    assert min_dcf([3, 2, 1, 0], [1, 0, 1, 0], 0.5) == 0.5
    assert min_dcf([3, 2, 1, 0], [0, 1, 0, 1], 0.01) == 1
    assert math.isnan(min_dcf([1.0, 2.0], [1, 1]))
    for wrong in (0.0, 1.0, math.nan):
        with pytest.raises(ValueError, match="target_prior must be between 0 and 1"):
            min_dcf([3, 2], [1, 0], wrong)
    with pytest.raises(ValueError, match="miss_cost must be a positive number, got 0"):
        min_dcf([3, 2], [1, 0], miss_cost=0)


@given(
    st.sampled_from(NAMES), st.integers(1, 20), st.integers(0, 12), st.booleans(), st.booleans(),
    st.integers(0, 2**31), st.sampled_from([1, 12, 2**22]),
)  # fmt: skip
def test_scores_of_given_trials(
    name: str, count: int, asked: int, separate: bool, symmetric: bool, seed: int, gathered: int
) -> None:
    random = np.random.default_rng(seed)
    embeddings, others = (random.normal(size=(n, 4)).astype(np.float32) for n in (count, 9))
    right = others if separate else embeddings
    pairs = np.stack([random.integers(0, count, asked), random.integers(0, len(right), asked)], 1)
    net = network(4, seed % 5)
    expected = plain_scores(name, net, embeddings, right)
    if symmetric:
        expected = (expected + plain_scores(name, net, right, embeddings).T) / 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trials, "GATHERED", gathered)
        got = trial_scores(SCORERS[name](net), embeddings, pairs, others if separate else None, symmetric=symmetric)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, expected[pairs[:, 0], pairs[:, 1]], atol=2e-5, rtol=2e-5)


def test_trials_of_any_callable() -> None:
    embeddings = torch.randint(-3, 4, (200, 3), generator=torch.Generator().manual_seed(0)).float()
    pairs = torch.randint(200, (300, 2), generator=torch.Generator().manual_seed(1))
    expected = plane(embeddings, embeddings)[pairs[:, 0], pairs[:, 1]]
    assert (trial_scores(plane, embeddings, pairs) == expected.numpy()).all()
    turned = plane(embeddings, embeddings)[pairs[:, 1], pairs[:, 0]]
    assert (turned != expected).any()
    assert (trial_scores(plane, embeddings, pairs, symmetric=True) == ((expected + turned) / 2).numpy()).all()


@given(st.integers(2, 30), st.integers(1, 6), st.integers(0, 2**31))
def test_random_trials_are_what_they_say(count: int, classes: int, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, classes, count) * 10**9
    every = list(itertools.combinations(range(count), 2))
    targets = sum(labels[i] == labels[j] for i, j in every)
    most = int(min(2 * targets + 1, 2 * (len(every) - targets)))
    generator = torch.Generator().manual_seed(seed)
    for wanted in {1, most // 2, most}:
        if not 1 <= wanted <= most:
            continue
        pairs, same = random_trials(labels, wanted, generator)
        assert pairs.shape == (wanted, 2) and same.sum() == wanted // 2
        assert ((labels[pairs[:, 0]] == labels[pairs[:, 1]]) == same).all()
        unordered = {tuple(sorted(pair)) for pair in pairs.tolist()}
        assert len(unordered) == wanted and all(i < j for i, j in unordered)
    with pytest.raises(ValueError, match=rf"{most + 1} trials need \d+ pairs of (one class|two classes), labels make"):
        random_trials(labels, most + 1, generator)


def test_random_trials_are_uniform_and_seeded() -> None:
    labels = [0, 0, 0, 1, 1, 2]
    counts: dict[tuple[int, int], int] = {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(3000):
        for pair in random_trials(labels, 2, generator)[0].tolist():
            counts[tuple(pair)] = counts.get(tuple(pair), 0) + 1
    # Of 4 pairs of one class and 11 of two, each in 2 orders.
    for i, j in itertools.permutations(range(6), 2):
        expected = 3000 / (8 if labels[i] == labels[j] else 22)
        assert abs(counts[i, j] - expected) < 5 * math.sqrt(expected)
    many = np.repeat(np.arange(50), 20)
    one, other = (random_trials(many, 400, torch.Generator().manual_seed(3)) for _ in range(2))
    assert (one[0] == other[0]).all() and (one[0] != random_trials(many, 400, torch.Generator())[0]).any()
    # A few of very many: kinds and both orders in random order.
    assert 100 < one[1][:400].cumsum()[300] < 200 and 150 < (one[0][:, 0] < one[0][:, 1]).sum() < 250


def every_trial(scores: np.ndarray, labels: np.ndarray, symmetric: bool) -> tuple[np.ndarray, np.ndarray]:
    same = labels[:, None] == labels
    if symmetric:
        upper = np.triu_indices(len(labels), 1)
        return ((scores + scores.T) / 2)[upper], same[upper]
    apart = ~np.eye(len(labels), dtype=bool)
    return scores[apart], same[apart]


@given(st.integers(3, 30), st.integers(2, 5), st.integers(0, 2**31), st.booleans(), st.sampled_from([1, 4, 100]))
def test_all_pairs(count: int, classes: int, seed: int, symmetric: bool, tile: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    labels[:3] = 0, 0, 1
    embeddings = random.integers(-2, 3, (count, 3)).astype(np.float32)
    vectors = torch.from_numpy(embeddings)
    scores, same = every_trial(plane(vectors, vectors).double().numpy(), labels, symmetric)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scored_pairs, "TILE", tile)
        for held in (2**22, 0):
            # With nothing held, a sample of everything makes every score a threshold: the figures are exact.
            patch.setattr(scored_pairs, "HELD", held)
            found = verify(plane, embeddings, labels, symmetric=symmetric, target_priors=(0.2,))
            assert (found.targets, found.nontargets) == (same.sum(), (~same).sum())
            assert found.figures == pytest.approx(
                {"eer": eer(scores, same), "min_dcf@0.2": least_cost(scores, same, 0.2, 1, 1)}, abs=1e-12
            )
            points = found.points
            assert (np.diff(points.thresholds) < 0).all() and points.thresholds[-1] == scores.min()
            assert (points.false_accepts[-1], points.false_rejects[-1]) == (1, 0)
            for threshold, accept, reject in zip(
                points.thresholds, points.false_accepts, points.false_rejects, strict=True
            ):
                assert accept == pytest.approx((scores[~same] >= threshold).mean(), abs=1e-12)
                assert reject == pytest.approx((scores[same] < threshold).mean(), abs=1e-12)


@pytest.mark.parametrize("symmetric", [False, True])
def test_more_trials_than_are_held(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 60, 1100)
    embeddings = random.normal(size=(60, 16))[labels] + random.normal(size=(1100, 16))
    # A sample of a twentieth of the trials.
    for name, value in {"TILE": 500, "HELD": 10**5, "THRESHOLDS": 2**12, "ROWS": 64, "RUN": 64, "RUNS": 12}.items():
        monkeypatch.setattr(scored_pairs, name, value)
    found = verify(SCORERS["cosine"](network(16)), embeddings, labels, symmetric=symmetric)
    assert found.targets + found.nontargets == 1100 * 1099 // (2 if symmetric else 1)
    assert 1000 < len(found.points.thresholds) <= 2**12 + 2
    exact, points = all_pairs_eer(embeddings, labels), found.points
    after = int(np.argmax(points.false_accepts >= points.false_rejects))
    # The exact one, too, lies between the two points.
    assert max(points.false_accepts[after - 1], points.false_rejects[after]) - 1e-7 <= exact
    assert min(points.false_accepts[after], points.false_rejects[after - 1]) + 1e-7 >= exact
    assert found.figures["eer"] == pytest.approx(exact, abs=2e-4) and 0.02 < exact < 0.3
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores, same = every_trial((unit @ unit.T).round(13), labels, True)
    for prior in (0.01, 0.05):
        least = min_dcf(scores, same, prior)
        assert least - 1e-9 <= found.figures[f"min_dcf@{prior}"] <= least + 0.003 and 0.3 < least < 1


def test_given_trials() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 10, 100)
    embeddings = random.normal(size=(10, 6))[labels] + random.normal(size=(100, 6))
    net = network(6)
    pairs, same = random_trials(labels, 500, torch.Generator().manual_seed(0))
    found = verify(net, embeddings, labels, pairs)
    scores = trial_scores(net, embeddings, pairs)
    costs = {f"min_dcf@{prior}": min_dcf(scores, same, prior) for prior in (0.01, 0.05)}
    assert found.figures == {"eer": eer(scores, same), **costs}
    assert (found.targets, found.nontargets) == (250, 250)
    turned = verify(net, embeddings, labels, pairs[:, ::-1])
    assert turned.figures != found.figures
    both = verify(net, embeddings, labels, pairs, symmetric=True)
    assert both.figures["eer"] == eer((scores + trial_scores(net, embeddings, pairs[:, ::-1])) / 2, same)


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="both kinds, got 0 of one class and 3 of two"):
        verify(plane, np.eye(3), [0, 1, 2], symmetric=True)
    with pytest.raises(ValueError, match="trials must be of both kinds, got 1 of one class and 0 of two"):
        verify(plane, np.eye(3), [0, 0, 1], [[0, 1]])
    with pytest.raises(ValueError, match=r"trials must be row numbers in 0 .. 2, got 3 .. 3"):
        verify(plane, np.eye(3), [0, 0, 1], [[0, 3]])
    with pytest.raises(TypeError, match="pairs must be integers"):
        trial_scores(plane, np.eye(3), [[0.0, 1.0]])
    with pytest.raises(ValueError, match="others must have the embeddings' 3 dimensions, got 2"):
        trial_scores(plane, np.eye(3), [[0, 1]], np.eye(2))
    with pytest.raises(ValueError, match="count must be a positive whole number, got 0"):
        random_trials([0, 0, 1], 0)
