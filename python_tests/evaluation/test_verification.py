from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from robustdml_ext.evaluation import pairs as all_pairs
from robustdml_ext.evaluation.pairs import all_pairs_det, all_pairs_eer
from robustdml_ext.evaluation.verification import det_points, eer, pair_scores


def by_scikit_learn(scores: np.ndarray, same: np.ndarray) -> float:
    """Where the interpolated ROC crosses its diagonal."""
    accepted_falsely, accepted_rightly, _ = roc_curve(same, scores, drop_intermediate=False)
    steps = np.arange(len(accepted_falsely))
    # Interpolated along the curve, not along one axis, whose steps may be vertical.
    at = brentq(
        lambda s: np.interp(s, steps, accepted_falsely) + np.interp(s, steps, accepted_rightly) - 1, 0, steps[-1]
    )
    return float(np.interp(at, steps, accepted_falsely))


@st.composite
def trials(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(2, 80))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    same = random.random(count) < draw(st.sampled_from([0.1, 0.5, 0.9]))
    same[:2] = True, False
    scores = random.normal(size=count) + same * draw(st.sampled_from([-1.0, 0.0, 1.0, 9.0]))
    return (np.round(scores) if draw(st.booleans()) else scores), same


@given(trials())
def test_eer_and_points_equal_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, same = case
    assert eer(scores, same) == pytest.approx(by_scikit_learn(scores, same), abs=1e-9)
    points = det_points(scores, same)
    accepts, right, thresholds = roc_curve(same, scores, drop_intermediate=False)
    np.testing.assert_allclose(points.false_accepts, accepts, atol=1e-12)
    np.testing.assert_allclose(points.false_rejects, 1 - right, atol=1e-12)
    np.testing.assert_array_equal(points.thresholds, thresholds)
    for threshold, accept, reject in zip(points.thresholds, points.false_accepts, points.false_rejects, strict=True):
        assert accept == pytest.approx((scores[~same] >= threshold).mean(), abs=1e-12)
        assert reject == pytest.approx((scores[same] < threshold).mean(), abs=1e-12)
    assert eer(torch.from_numpy(scores).float(), torch.from_numpy(same)) == pytest.approx(eer(scores, same), abs=1e-9)
    assert eer(-scores, ~same) == pytest.approx(eer(scores, same), abs=1e-12)


def test_eer_by_hand() -> None:
    assert eer([3.0, 2.0, 1.0, 0.0], [True, True, False, False]) == 0
    assert eer([0, 1, 2, 3], [1, 1, 0, 0]) == 1
    assert eer([1, 1, 1, 1, 1], [1, 0, 0, 0, 1]) == 0.5
    # Of 2 same 1 is above all; the other lies above one of 4: (0, 1/2) to (3/4, 1/2), whose crossing is at 1/2.
    assert eer([9, 8, 7, 6, 5, 4], [1, 0, 0, 0, 1, 0]) == 0.5
    # A tie of one of each: from (0, 1/2) to (1/3, 0), crossing where 1/2 - x / (1/3) / 2 = x.
    assert eer([9, 5, 5, 2, 1], [1, 1, 0, 0, 0]) == pytest.approx(0.2)
    assert math.isnan(eer([1.0, 2.0], [True, True])) and math.isnan(eer([1.0], [False]))


def every_pair(
    embeddings: np.ndarray, labels: np.ndarray, items: np.ndarray, item_labels: np.ndarray, distance: str, once: bool
) -> tuple[np.ndarray, np.ndarray]:
    scores, same = [], []
    for i, x in enumerate(embeddings.astype(np.float64)):
        for j, y in enumerate(items.astype(np.float64)):
            if once and j <= i:
                continue
            length = math.sqrt(float(x @ x) * float(y @ y)) or 1.0
            scores.append(float(x @ y) / length if distance == "cosine" else -math.sqrt(float(((x - y) ** 2).sum())))
            same.append(labels[i] == item_labels[j])
    return np.array(scores), np.array(same, dtype=bool)


@st.composite
def labeled(draw: st.DrawFn, dims: int, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(1, 30))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = {
        "random": random.integers(0, 4, count) * 10**12,
        "one class": np.full(count, 3),
        "all distinct": random.permutation(count),
        "singletons": np.where(np.arange(count) < count // 2, np.arange(count) + 100, 3),
    }[draw(st.sampled_from(["random", "one class", "all distinct", "singletons"]))]
    means = random.normal(size=(count + 200, dims))[labels % 199]
    embeddings = random.integers(-2, 3, (count, dims)) if whole else means + random.normal(size=(count, dims))
    if draw(st.booleans()):
        embeddings = embeddings[random.integers(0, count, count)]
    return embeddings.astype(draw(st.sampled_from([np.float32, np.float64]))), labels


@given(st.data(), st.integers(1, 6), st.booleans(), st.booleans(), st.booleans())
def test_all_pairs(data: st.DataObject, dims: int, whole: bool, separate: bool, blocks: bool) -> None:
    # Whole numbers tie exactly in Euclidean distance; others tie only where they are duplicates.
    distance = "euclidean" if whole else data.draw(st.sampled_from(["euclidean", "cosine"]))
    queries, labels = data.draw(labeled(dims, whole))
    items, item_labels = data.draw(labeled(dims, whole)) if separate else (queries, labels)
    scores, same = every_pair(queries, labels, items, item_labels, distance, not separate)
    # Duplicates are equal but for rounding.
    expected = eer(np.round(scores, 9), same) if len(scores) else math.nan
    gallery = (items, item_labels) if separate else ()
    with pytest.MonkeyPatch.context() as patch:
        if blocks:
            patch.setattr(all_pairs, "ROWS", 3)
            patch.setattr(all_pairs, "COLUMNS", 5)
        assert all_pairs_eer(queries, labels, *gallery, distance=distance) == pytest.approx(
            expected, abs=1e-6, nan_ok=True
        )


@given(st.integers(0, 2**32), st.sampled_from(["cosine", "euclidean"]), st.booleans(), st.sampled_from([1, 3, 40]))
def test_all_pairs_from_a_guess(seed: int, distance: str, separate: bool, classes: int) -> None:
    random = np.random.default_rng(seed)
    labels = np.sort(random.integers(0, classes + 1, 120))
    embeddings = random.normal(size=(classes + 1, 5))[labels] + random.normal(size=(120, 5))
    gallery = (embeddings[30:] + 0.1, labels[30:]) if separate else ()
    items, item_labels = gallery or (embeddings, labels)
    scores, same = every_pair(embeddings, labels, items, item_labels, distance, not separate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(all_pairs, "SAMPLE", 400)
        patch.setattr(all_pairs, "BINS", 64)
        assert all_pairs_eer(embeddings, labels, *gallery, distance=distance) == pytest.approx(
            eer(scores, same), abs=1e-6
        )


@pytest.mark.parametrize("guess", [(0.99, 0.995), (-0.9, -0.8), (-0.2, 0.2)])
def test_a_wrong_guess_does_no_harm(guess: tuple[float, float], monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 9, 200)
    embeddings = random.normal(size=(9, 4))[labels] + random.normal(size=(200, 4))
    expected = eer(*every_pair(embeddings, labels, embeddings, labels, "cosine", True))
    asked = []
    monkeypatch.setattr(all_pairs, "SAMPLE", 16)
    monkeypatch.setattr(all_pairs, "_guess", lambda *_: asked.append(1) or guess)
    assert all_pairs_eer(embeddings, labels) == pytest.approx(expected, abs=1e-6)
    assert asked and 0.1 < expected < 0.5


@pytest.mark.parametrize("separate", [False, True])
def test_the_sample_is_of_pairs(separate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(all_pairs, "SAMPLE", 20_000)
    embeddings = np.arange(1.0, 9)[:, None] ** [[2, 1]]
    labels = np.array([0, 0, 0, 1, 1, 2, 3, 3])
    gallery = (embeddings[::-2] + 0.5, labels[::-2]) if separate else (None, None)
    items, item_labels = gallery if separate else (embeddings, labels)
    scores, same = every_pair(embeddings, labels, items, item_labels, "euclidean", not separate)
    pairs = all_pairs._pairs(embeddings, labels, *gallery, "euclidean")
    assert (pairs.same, pairs.different) == (same.sum(), (~same).sum())
    for sampled, expected in zip(pairs.sample(), (scores[same], scores[~same]), strict=True):
        values, counts = np.unique(pairs.given(sampled).numpy().round(9), return_counts=True)
        true, weights = np.unique(expected.round(9), return_counts=True)
        np.testing.assert_allclose(values, true)  # and so nobody is paired with itself
        np.testing.assert_allclose(counts / counts.sum(), weights / weights.sum(), atol=0.02)


def test_all_pairs_of_the_real_block_size() -> None:
    random = np.random.default_rng(1)
    labels = random.integers(0, 300, 2300)
    embeddings = random.normal(size=(300, 16))[labels] + random.normal(size=(2300, 16))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    upper = np.triu_indices(2300, 1)
    scores, same = (unit @ unit.T)[upper], (labels[:, None] == labels)[upper]
    assert all_pairs_eer(embeddings, labels) == pytest.approx(eer(scores, same), abs=1e-7)
    points = all_pairs_det(embeddings, labels, points=200)
    assert 100 < len(points.thresholds) <= 201 and points.thresholds[0] == math.inf
    assert (np.diff(points.thresholds) < 0).all()
    for threshold, accept, reject in list(
        zip(points.thresholds, points.false_accepts, points.false_rejects, strict=True)
    )[::17]:
        # A threshold is some pair's own score: that pair may fall on either side by rounding.
        assert accept == pytest.approx((scores[~same] >= threshold).mean(), abs=2 / len(scores))
        assert reject == pytest.approx((scores[same] < threshold).mean(), abs=2 / same.sum())
    assert points.false_rejects.min() < 0.01 and points.false_accepts[1] < 1e-3


def test_all_pairs_det_with_distances_and_gallery() -> None:
    random = np.random.default_rng(1)
    queries, items = random.integers(-9, 10, (40, 3)) * 1000, random.integers(-9, 10, (50, 3)) * 1000
    labels, item_labels = random.integers(0, 4, 40), random.integers(0, 4, 50)
    scores, same = every_pair(queries, labels, items, item_labels, "euclidean", False)
    points = all_pairs_det(queries, labels, items, item_labels, "euclidean", points=50)
    for threshold, accept, reject in zip(points.thresholds, points.false_accepts, points.false_rejects, strict=True):
        threshold -= abs(threshold) * 1e-12 if math.isfinite(threshold) else 0
        assert accept == pytest.approx((scores[~same] >= threshold).mean(), abs=1e-12)
        assert reject == pytest.approx((scores[same] < threshold).mean(), abs=1e-12)


def test_collapsed_embeddings_are_chance() -> None:
    vector = np.random.default_rng(0).normal(size=7)
    labels = np.arange(60) % 4
    for distance in ("cosine", "euclidean"):
        assert all_pairs_eer(np.tile(vector, (60, 1)), labels, distance=distance) == pytest.approx(0.5, abs=1e-9)
        assert all_pairs_eer(np.zeros((60, 2)), labels, distance=distance) == pytest.approx(0.5, abs=1e-9)
    assert math.isnan(all_pairs_eer(np.eye(3), [1, 1, 1])) and math.isnan(all_pairs_eer(np.eye(3), [1, 2, 3]))
    assert math.isnan(all_pairs_eer(np.eye(1), [1]))


def test_any_scale() -> None:
    random = np.random.default_rng(5)
    labels = random.integers(0, 5, 50)
    embeddings = random.integers(-3, 4, (50, 3)).astype(np.float64)
    figures = {all_pairs_eer(embeddings * 2.0**e, labels, distance="euclidean") for e in (-300, -3, 0, 300)}
    assert len(figures) == 1


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 2**32))
def test_pair_scores(count: int, dims: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    embeddings, others = random.integers(-2, 3, (count, dims)), random.normal(size=(9, dims))
    for distance in ("cosine", "euclidean"):
        pairs = np.argwhere(np.triu(np.ones((count, count)), 1))
        expected, _ = every_pair(embeddings, np.zeros(count), embeddings, np.zeros(count), distance, True)
        np.testing.assert_allclose(pair_scores(embeddings, pairs.reshape(-1, 2), distance), expected, atol=1e-12)
        pairs = np.argwhere(np.ones((count, 9)))
        expected, _ = every_pair(embeddings, np.zeros(count), others, np.zeros(9), distance, False)
        got = pair_scores(torch.from_numpy(embeddings), torch.from_numpy(pairs), distance, others)
        np.testing.assert_allclose(got, expected, atol=1e-12)


def test_trials_as_pairs() -> None:
    embeddings = np.array([[1.0, 0], [0, 1], [1, 1], [-1, 0]])
    scores = pair_scores(embeddings, [[0, 2], [1, 2], [0, 3], [0, 1]])
    assert scores == pytest.approx([math.sqrt(0.5), math.sqrt(0.5), -1, 0])
    assert eer(scores, [True, True, False, False]) == 0
    assert len(pair_scores(embeddings, np.empty((0, 2), dtype=int))) == 0


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="scores must be finite; 1 of 2 are NaN or infinite, the first is at index 1"):
        eer([1.0, math.nan], [True, False])
    with pytest.raises(ValueError, match=r"same must have shape \[2\]"):
        eer([1.0, 2.0], [True])
    with pytest.raises(TypeError, match="same must be bool"):
        eer([1.0, 2.0], [2, 0])
    with pytest.raises(ValueError, match="both kinds"):
        det_points([1.0, 2.0], [True, True])
    with pytest.raises(ValueError, match="non-empty"):
        eer([], [])
    with pytest.raises(ValueError, match="both kinds"):
        all_pairs_det(np.eye(2), [0, 1])
    with pytest.raises(ValueError, match="points must be a whole number from 2"):
        all_pairs_det(np.eye(2), [0, 1], points=1)
    with pytest.raises(ValueError, match="row 1"):
        all_pairs_eer(np.array([[0.0], [math.nan]]), [0, 1])
    with pytest.raises(ValueError, match=r"row numbers in 0 .. 1, got 0 .. 2"):
        pair_scores(np.eye(2), [[0, 0], [1, 2]])
    with pytest.raises(TypeError, match="pairs must be integers"):
        pair_scores(np.eye(2), np.ones((1, 2)))
    with pytest.raises(ValueError, match=r"pairs must have shape \[P, 2\]"):
        pair_scores(np.eye(2), [0, 1])
