from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scorer_cases import NAMES, network, plain_scores, plane
from torch import Tensor

from robustdml_ext.evaluation import SCORERS, cosine_scorer, few_shot, nearest_prototype_accuracy
from robustdml_ext.evaluation.few_shot import _drawable, _episodes


def episodes_of(
    labels: np.ndarray, ways: int, shots: int, queries: int, episodes: int, seed: int
) -> list[list[list[int]]]:
    """Rows of the images of each class of each episode, from the places that are drawn."""
    order = np.argsort(labels, kind="stable")
    drawn = _episodes(*_drawable(labels, ways, shots, queries), ways, shots + queries, episodes, seed)
    return [[[int(order[place]) for place in row] for row in episode] for part in drawn for episode in part.tolist()]


@given(
    st.sampled_from(NAMES), st.integers(2, 4), st.integers(1, 3), st.integers(1, 4), st.integers(1, 7),
    st.integers(0, 2**31), st.sampled_from([1, 100, 2**15]), st.sampled_from([np.float32, np.float64]),
)  # fmt: skip
def test_against_a_loop(
    name: str, ways: int, shots: int, queries: int, episodes: int, seed: int, block: int, dtype: type
) -> None:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(6) * 10**9, random.integers(shots + queries, 12, 6)))
    embeddings = random.normal(size=(len(labels), 5)).astype(dtype)
    net = network(5, seed % 5)
    expected = []
    for episode in episodes_of(labels, ways, shots, queries, episodes, seed):
        prototypes = np.stack([embeddings[rows[:shots]].astype(np.float64).mean(0) for rows in episode])
        right = 0
        for true, rows in enumerate(episode):
            for scores in plain_scores(name, net, embeddings[rows[shots:]], prototypes.astype(dtype)):
                right += int(np.argmax(scores) == true)
        expected.append(right / (ways * queries))
    got = few_shot(SCORERS[name](net), embeddings, labels, ways, shots, queries, episodes, seed, block=block)
    np.testing.assert_allclose(got.accuracies, expected, atol=1e-12)
    assert got.accuracy == pytest.approx(np.mean(expected)) and got.classes == 6
    if episodes == 1:
        assert math.isnan(got.half_width)
    else:
        variance = sum((value - np.mean(expected)) ** 2 for value in expected) / (episodes - 1)
        assert got.half_width == pytest.approx(1.96 * math.sqrt(variance / episodes))
    again = few_shot(
        SCORERS[name](net), torch.from_numpy(embeddings), labels.tolist(), ways, shots, queries, episodes, seed
    )
    assert (again.accuracies == got.accuracies).all()


@given(st.integers(2, 5), st.integers(1, 5), st.integers(0, 2**31))
def test_episodes_are_drawn_without_repetition(ways: int, images: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.permutation(np.repeat(np.arange(9) - 4, [9, 1, 8, images + 1, 7, 6, 2, 6, 6]))
    for episode in episodes_of(labels, ways, 1, images, 5, seed):
        classes = [labels[rows] for rows in episode]
        assert all(len(set(row.tolist())) == 1 for row in classes)
        assert len({int(row[0]) for row in classes}) == ways
        rows = [row for one in episode for row in one]
        assert len(set(rows)) == len(rows) == ways * (images + 1)


def test_every_image_and_class_is_drawn_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    # The package's attribute of this name is the function.
    monkeypatch.setattr(import_module("robustdml_ext.evaluation.few_shot"), "DRAWN", 999)
    labels = np.repeat([7, 3, 5, 1], [4, 6, 5, 2])
    drawn = np.array(episodes_of(labels, 2, 1, 2, 6000, 0))
    assert drawn.shape == (6000, 2, 3)
    # Two of the three classes with images enough, and three of its images: in every place as often.
    for place in np.ndindex(2, 3):
        counts = np.bincount(drawn[(slice(None), *place)], minlength=17)
        expected = 6000 / 3 / np.repeat([4, 6, 5, math.inf], [4, 6, 5, 2])
        assert (np.abs(counts - expected) <= 5 * np.sqrt(expected)).all()


def test_seeds() -> None:
    labels = np.arange(200) % 10
    embeddings = np.random.default_rng(0).normal(size=(200, 4)) + np.eye(10, 4)[labels]
    one, again, other = (few_shot(cosine_scorer(), embeddings, labels, episodes=50, seed=seed) for seed in (1, 1, 2))
    assert (one.accuracies == again.accuracies).all() and (one.accuracies != other.accuracies).any()
    assert 0.2 < one.accuracy < 0.9


def test_ties_go_to_the_class_drawn_first() -> None:
    labels = np.repeat(np.arange(5), 4)
    found = few_shot(lambda q, i: torch.zeros(len(q), len(i)), np.eye(20), labels, 3, 1, 3, 11)
    assert (found.accuracies == 1 / 3).all()

    def noisy(queries: Tensor, items: Tensor) -> Tensor:
        return torch.randn(len(queries), len(items), generator=torch.Generator().manual_seed(0))

    # Prototypes that are all alike have one score, whatever the scorer rounds; different ones keep theirs.
    assert (few_shot(noisy, np.ones((20, 2)), labels, 3, 1, 3, 11).accuracies == 1 / 3).all()
    first = np.repeat([[1.0], [0.0]], [4, 16], 0)
    assert (few_shot(lambda q, i: q @ i.T - i.T / 2, first, labels, 5, 1, 3, 40).accuracies == 0.4).all()


def test_one_episode_of_everything_is_nearest_prototype() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 20)
    embeddings = random.normal(size=(6, 8))[labels] + random.normal(size=(120, 8))
    found = few_shot(cosine_scorer(), embeddings, labels, 6, 5, 15, 1, seed=3)
    (episode,) = episodes_of(labels, 6, 5, 15, 1, 3)
    shots, asked = ([rows[:5] for rows in episode], [rows[5:] for rows in episode])
    expected = nearest_prototype_accuracy(
        embeddings[np.ravel(asked)], labels[np.ravel(asked)], embeddings[np.array(shots)].mean(1),
        [labels[rows[0]] for rows in episode],
    )  # fmt: skip
    assert found.accuracy == pytest.approx(expected) and 0.4 < expected < 1


def test_the_scorer_is_asked_in_blocks() -> None:
    asked = []

    def counted(queries: Tensor, items: Tensor) -> Tensor:
        asked.append(len(queries) * len(items))
        return plane(queries, items)

    labels = np.repeat(np.arange(8), 10)
    embeddings = np.random.default_rng(0).integers(-3, 4, (80, 3)).astype(np.float32)
    few_shot(counted, embeddings, labels, 4, 1, 6, 30, block=4 * 4 * 6 * 9 + 5)
    assert asked == [12 * 3 * 6 * 4] * 10


def test_wrong_arguments() -> None:
    labels = [0] * 4 + [1] * 3 + [2] * 2
    x = np.eye(9)
    with pytest.raises(
        ValueError,
        match=r"3 classes of 1 shots \+ 2 queries = 3 images or more are needed; of the 3 classes 2 have so many, the "
        "largest has 4",
    ):
        few_shot(plane, x, labels, 3, 1, 2)
    for name, wrong in (("ways", 1), ("shots", 0), ("queries", 0), ("episodes", 0), ("block", 0), ("shots", True)):
        with pytest.raises(ValueError, match=f"{name} must be a whole number from"):
            few_shot(plane, x, labels, **{"ways": 2, "queries": 1, name: wrong})
    with pytest.raises(ValueError, match="finite scores"):
        few_shot(lambda q, i: torch.full((len(q), len(i)), torch.nan), x, labels, 2, 1, 1)
