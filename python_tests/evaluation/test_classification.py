from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, top_k_accuracy_score
from sklearn.neighbors import NearestCentroid

from robustdml_ext.evaluation.classification import accuracy, nearest_prototype_accuracy


@given(st.integers(1, 40), st.integers(1, 8), st.integers(1, 9), st.integers(0, 2**32))
def test_accuracy_with_ties_by_the_lower_class(count: int, classes: int, k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.integers(-2, 3, (count, classes)).astype(np.float32)
    labels = random.integers(0, classes, count)
    hits = 0
    for row, label in zip(logits, labels, strict=True):
        order = sorted(range(classes), key=lambda c: (-row[c], c))
        hits += int(label in order[:k])
    assert accuracy(logits, labels, k) == hits / count
    assert accuracy(torch.from_numpy(logits).bfloat16(), labels.tolist(), k) == hits / count
    if k == 1:
        assert accuracy(logits, labels) == accuracy(logits.argmax(1), labels)


def test_accuracy_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(size=(300, 7)), random.integers(0, 7, 300)
    labels[:150] = logits[:150].argmax(1)
    for k in (1, 2, 5):
        assert accuracy(logits, labels, k) == pytest.approx(top_k_accuracy_score(labels, logits, k=k), abs=1e-12)
    assert accuracy(logits.argmax(1), labels) == accuracy_score(labels, logits.argmax(1)) == accuracy(logits, labels)
    assert 0.5 < accuracy(logits, labels) < accuracy(logits, labels, 2) < 1


def test_nearest_prototype_is_scikit_learns_nearest_centroid() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 6, 400) * 3 - 5
    points = random.normal(size=(30, 5))[labels] + random.normal(size=(400, 5))
    model = NearestCentroid().fit(points, labels)
    expected = float((model.predict(points) == labels).mean())
    got = nearest_prototype_accuracy(points, labels, model.centroids_, model.classes_, "euclidean")
    assert got == pytest.approx(expected, abs=1e-12) and 0.4 < got < 1


def test_nearest_prototype_by_hand() -> None:
    prototypes = np.array([[1, 0], [0, 1], [0, 2]])
    points = np.array([[3, 1], [1, 3], [1, 1], [0, 5]])
    # [0, 1] and [0, 2] are one direction.
    assert nearest_prototype_accuracy(points, [0, 1, 0, 2], prototypes) == 0.75
    assert nearest_prototype_accuracy(points, [0, 1, 0, 1], prototypes) == 1
    assert nearest_prototype_accuracy(points, [0, 1, 0, 2], prototypes, distance="euclidean") == 0.75
    assert nearest_prototype_accuracy(points, [0, 2, 0, 2], prototypes, distance="euclidean") == 1
    assert nearest_prototype_accuracy(points, [4, 9, 4, 9], prototypes, [4, 9, 9]) == 1


def test_wrong_arguments() -> None:
    logits = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"labels must be in 0 .. 2.*got 0 .. 3"):
        accuracy(logits, [0, 3])
    with pytest.raises(ValueError, match="k must be a positive"):
        accuracy(logits, [0, 1], 0)
    with pytest.raises(ValueError, match="k must be 1 for predicted classes"):
        accuracy([0, 1], [0, 1], 2)
    with pytest.raises(ValueError, match="row 1"):
        accuracy(np.array([[0.0], [np.nan]]), [0, 0])
    with pytest.raises(TypeError, match="predictions must be integers"):
        accuracy([0.5, 1.0], [0, 1])
    with pytest.raises(ValueError, match="empty"):
        accuracy([], [])
    with pytest.raises(ValueError, match="prototypes must have the embeddings' 3 dimensions, got 2"):
        nearest_prototype_accuracy(logits, [0, 0], np.eye(2))
    with pytest.raises(ValueError, match=r"prototype_labels must have shape \[3\]"):
        nearest_prototype_accuracy(logits, [0, 0], np.eye(3), [0, 1])
