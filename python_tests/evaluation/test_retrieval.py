from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from retrieval_cases import in_order, integer_embeddings, labels_for
from sklearn.neighbors import NearestNeighbors

from robustdml_ext.evaluation import recall_at_k

K = (1, 2, 3, 8, 100)


def brute_force(
    queries: np.ndarray,
    query_labels: np.ndarray,
    items: np.ndarray,
    item_labels: np.ndarray,
    distance: str,
    exclude_self: bool,
) -> dict[int, float]:
    hits = dict.fromkeys(K, 0)
    for label, order in zip(query_labels, in_order(queries, items, distance, exclude_self), strict=True):
        for k in K:
            hits[k] += any(item_labels[j] == label for j in order[:k])
    return {k: hit / len(queries) for k, hit in hits.items()}


@given(integer_embeddings(), st.sampled_from([2.0**-60, 1.0, 3.0, 2.0**60]))
def test_ties_and_duplicates_by_lowest_index(data: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    embeddings, labels = data
    expected = brute_force(embeddings, labels, embeddings, labels, "euclidean", True)
    scaled = embeddings * embeddings.dtype.type(scale)
    assert recall_at_k(scaled, labels, K, distance="euclidean") == expected
    assert recall_at_k(torch.from_numpy(scaled), torch.from_numpy(labels), K, distance="euclidean") == expected


@given(integer_embeddings(), st.data())
def test_gallery(data: tuple[np.ndarray, np.ndarray], more: st.DataObject) -> None:
    items, item_labels = data
    count = more.draw(st.sampled_from([1, len(items), 13]))
    random = np.random.default_rng(len(items))
    queries = random.integers(-2, 3, (count, items.shape[1])).astype(np.float32)
    labels = random.choice(np.append(item_labels, 5), count)
    got = recall_at_k(queries, labels, K, items, item_labels, distance="euclidean")
    assert got == brute_force(queries, labels, items, item_labels, "euclidean", False)
    if count == len(items):
        got = recall_at_k(queries, labels, K, items, item_labels, distance="euclidean", exclude_self=True)
        assert got == brute_force(queries, labels, items, item_labels, "euclidean", True)


@given(
    st.integers(2, 60),
    st.integers(2, 20),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from(["cosine", "euclidean"]),
    st.integers(0, 2**32),
    st.data(),
)
def test_random_embeddings_of_any_length(
    count: int, dims: int, dtype: type, distance: str, seed: int, more: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(count, dims)).astype(dtype)
    if distance == "cosine":
        embeddings *= 10.0 ** random.integers(-12, 13, (count, 1)).astype(dtype)
    labels = labels_for(more.draw, count)
    expected = brute_force(embeddings, labels, embeddings, labels, distance, True)
    assert recall_at_k(embeddings, labels, K, distance=distance) == expected


def test_against_scikit_learn() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 40, 900)
    embeddings = random.normal(size=(40, 16))[labels] + random.normal(size=(900, 16))
    neighbors = NearestNeighbors(n_neighbors=9, metric="cosine").fit(embeddings).kneighbors(embeddings)[1][:, 1:]
    got = recall_at_k(embeddings, labels)
    assert got == {k: (labels[neighbors[:, :k]] == labels[:, None]).any(1).mean() for k in (1, 2, 4, 8)}
    assert 0.2 < got[1] < got[8] < 1


@given(integer_embeddings(), st.booleans(), st.data())
def test_faiss_backend(data: tuple[np.ndarray, np.ndarray], separate: bool, more: st.DataObject) -> None:
    # Distances of random embeddings do not tie: here both backends must agree.
    random = np.random.default_rng(len(data[1]))
    embeddings, labels = random.normal(size=(len(data[1]), 9)), data[1]
    gallery = (random.normal(size=(17, 9)), random.choice(labels, 17)) if separate else ()
    distance = more.draw(st.sampled_from(["cosine", "euclidean"]))
    own = recall_at_k(embeddings, labels, K, *gallery, distance=distance)
    assert recall_at_k(embeddings, labels, K, *gallery, distance=distance, backend="faiss") == own
    # Where they do, only recall at every depth is sure.
    own = recall_at_k(*data, 100, distance="euclidean")
    assert recall_at_k(*data, 100, distance="euclidean", backend="faiss") == own


def test_pytorch_metric_learning_leaves_lone_queries_out() -> None:
    random = np.random.default_rng(0)
    labels = np.append(random.integers(0, 10, 80), [50, 51, 52])
    embeddings = (random.normal(size=(53, 8))[labels] + random.normal(size=(83, 8))).astype(np.float32)
    calculator = AccuracyCalculator(include=("precision_at_1",), k=1, device=torch.device("cpu"))
    theirs = calculator.get_accuracy(embeddings, labels)["precision_at_1"]
    got = recall_at_k(embeddings, labels, 1, distance="euclidean")[1]
    assert got == pytest.approx(theirs * 80 / 83, abs=1e-12) and 0.3 < got < 0.9


def test_any_number_type_and_container() -> None:
    random = np.random.default_rng(0)
    embeddings, labels = random.integers(0, 100, (60, 5)), random.integers(0, 6, 60)
    expected = recall_at_k(embeddings, labels)
    for dtype in (np.int8, np.uint16, np.float16, np.float32, np.longdouble, ">f8"):
        assert recall_at_k(embeddings.astype(dtype), labels.astype(np.uint8).tolist()) == expected
    for dtype in (torch.int32, torch.uint8, torch.bfloat16, torch.float16):
        assert recall_at_k(torch.from_numpy(embeddings).to(dtype), tuple(labels.tolist())) == expected
    frozen = embeddings.astype(np.float64)
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert recall_at_k(frozen, labels) == expected
        assert recall_at_k(embeddings[::-1], labels[::-1])[8] > 0
        assert recall_at_k(np.asfortranarray(embeddings), labels) == expected


@pytest.mark.parametrize("count,dims", [(1037, 64), (333, 7), (2050, 100)])
def test_equal_vectors_tie_however_the_matrix_product_rounds(count: int, dims: int) -> None:
    # All vectors alike: the nearest is item 0 for everyone, and item 1 for item 0.
    vector = torch.randn(dims, generator=torch.Generator().manual_seed(0)).expand(count, dims)
    labels = torch.arange(count) % 2
    labels[0] = 2
    assert recall_at_k(vector, labels, (1, 2, 3)) == {
        1: 0.0,
        2: (count // 2 - 1) / count,
        3: (count - 2) / count,
    }


def test_crowded_embeddings_keep_their_order() -> None:
    # Angles of 1e-5: 1 - cos is 1e-10, far below what float32 similarities resolve.
    labels = torch.arange(50).repeat_interleave(2)
    angles = (labels * 2 + torch.arange(100) % 2 * 0.5).double() * 1e-5
    assert recall_at_k(torch.stack([angles.cos(), angles.sin()], 1), labels, 1) == {1: 1.0}


def test_self_is_left_out_by_index_not_by_position() -> None:
    embeddings = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert recall_at_k(embeddings, np.array([0, 0, 1, 2]), 1) == {1: 0.5}
    assert recall_at_k(embeddings, np.array([0, 1, 0, 1]), 1) == {1: 0.0}


def test_zero_vectors_and_single_items() -> None:
    assert recall_at_k(np.zeros((1, 3)), np.array([4])) == dict.fromkeys((1, 2, 4, 8), 0.0)
    assert recall_at_k(np.zeros((3, 3)), np.array([4, 4, 4]), 1) == {1: 1.0}
    assert recall_at_k(np.zeros((2, 3), dtype=np.float64), np.array([0, 0]), 1, distance="euclidean") == {1: 1.0}


@pytest.mark.parametrize("scale", [1e-320, 1e-30, 1e30, 1e300])
def test_extreme_scales(scale: float) -> None:
    embeddings = np.array([[1.0, 2.0], [1.0, 2.1], [-1.0, 3.0], [-1.0, 3.1]]) * scale
    for distance in ("cosine", "euclidean"):
        assert recall_at_k(embeddings, np.array([0, 0, 1, 1]), 1, distance=distance) == {1: 1.0}


E2 = np.ones((4, 2))
L4 = np.array([0, 0, 1, 1])


@pytest.mark.parametrize(
    "arguments,error,message",
    [
        ({"embeddings": np.array([[1.0, np.nan]] * 4), "labels": L4}, ValueError, "NaN"),
        (
            {"embeddings": np.array([[1.0], [1.0], [np.inf], [1.0]]), "labels": L4},
            ValueError,
            "first is row 2",
        ),
        ({"embeddings": np.ones(4), "labels": L4}, ValueError, r"\[N, D\]"),
        ({"embeddings": np.ones((0, 2)), "labels": L4[:0]}, ValueError, "non-empty"),
        ({"embeddings": [[1.0]], "labels": L4}, TypeError, "list"),
        ({"embeddings": E2, "labels": L4[:3]}, ValueError, r"\[4\]"),
        ({"embeddings": E2, "labels": L4 + 0.5}, TypeError, "integers"),
        ({"embeddings": E2, "labels": L4, "k": 0}, ValueError, "k must"),
        ({"embeddings": E2, "labels": L4, "k": ()}, ValueError, "k must"),
        ({"embeddings": E2, "labels": L4, "distance": "hamming"}, ValueError, "hamming"),
        ({"embeddings": E2, "labels": L4, "gallery": E2}, ValueError, "together"),
        ({"embeddings": E2, "labels": L4, "backend": "gpu"}, ValueError, "backend must be one of own, faiss"),
        ({"embeddings": E2 > 0, "labels": L4}, TypeError, "real numbers, got bool"),
        ({"embeddings": E2 * 1j, "labels": L4}, TypeError, "real numbers, got complex"),
        (
            {"embeddings": E2, "labels": L4, "gallery": np.ones((4, 3)), "gallery_labels": L4},
            ValueError,
            "2 dim",
        ),
        (
            {
                "embeddings": E2,
                "labels": L4,
                "gallery": E2[:2],
                "gallery_labels": L4[:2],
                "exclude_self": True,
            },
            ValueError,
            "exclude_self",
        ),
    ],
)
def test_wrong_arguments(arguments: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recall_at_k(**arguments)
