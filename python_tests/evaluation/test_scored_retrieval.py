from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retrieval_cases import integer_embeddings, labels_for
from scorer_cases import NAMES, network, plain_scores, plane
from torch import Tensor

from robustdml_ext.evaluation import SCORERS, cosine_scorer, recall_at_k, scored_recall_at_k

K = (1, 2, 3, 8, 100)


def written_out(
    scores: np.ndarray, labels: np.ndarray, item_labels: np.ndarray, exclude_self: bool
) -> dict[int, float]:
    hits = dict.fromkeys(K, 0)
    for i, row in enumerate(scores):
        order = sorted((-score, j) for j, score in enumerate(row.tolist()) if not (exclude_self and i == j))
        for k in K:
            hits[k] += any(item_labels[j] == labels[i] for _, j in order[:k])
    return {k: hit / len(scores) for k, hit in hits.items()}


@given(
    st.integers(1, 60), st.integers(1, 20), st.integers(0, 2**32), st.booleans(), st.booleans(),
    st.sampled_from([1, 17, 100, 2**25]), st.data(),
)  # fmt: skip
def test_the_cosines_figures_are_recall_at_k(
    count: int, dims: int, seed: int, duplicates: bool, separate: bool, block: int, more: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(count, dims)).astype(random.choice([np.float32, np.float64]))
    if duplicates:
        embeddings = embeddings[random.integers(0, max(1, count // 2), count)]
    embeddings *= 2.0 ** random.integers(-20, 20)
    labels = labels_for(more.draw, count)
    gallery = ()
    if separate:
        gallery = (embeddings[random.integers(0, count, 31)], random.choice(labels, 31))
    expected = recall_at_k(embeddings, labels, K, *gallery)
    assert scored_recall_at_k(cosine_scorer(), embeddings, labels, K, *gallery, block=block) == expected
    if not separate:
        twin = (embeddings, labels)
        expected = recall_at_k(embeddings, labels, K, *twin, exclude_self=True)
        got = scored_recall_at_k(cosine_scorer(), embeddings, labels, K, *twin, exclude_self=True, block=block)
        assert got == expected


@given(integer_embeddings(), st.sampled_from([1, 7, 50, 1000]), st.booleans())
def test_ties_go_to_the_lower_index(data: tuple[np.ndarray, np.ndarray], block: int, itself: bool) -> None:
    embeddings, labels = data
    scores = plane(torch.from_numpy(embeddings), torch.from_numpy(embeddings)).numpy()
    expected = written_out(scores, labels, labels, not itself)
    exclude = False if itself else None
    assert scored_recall_at_k(plane, embeddings, labels, K, exclude_self=exclude, block=block) == expected
    assert scored_recall_at_k(plane, torch.from_numpy(embeddings), labels.tolist(), K, exclude_self=exclude) == expected


@given(st.sampled_from(NAMES), st.integers(1, 25), st.integers(1, 25), st.integers(0, 2**31))
def test_learned_scores(name: str, count: int, others: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    queries, items = (random.normal(size=(n, 5)).astype(np.float32) for n in (count, others))
    labels, item_labels = random.integers(0, 4, count), random.integers(0, 5, others)
    net = network(5, seed % 5)
    expected = written_out(plain_scores(name, net, queries, items), labels, item_labels, False)
    assert scored_recall_at_k(SCORERS[name](net), queries, labels, K, items, item_labels, block=60) == expected
    if name == "similarity":
        assert scored_recall_at_k(net, queries, labels, K, items, item_labels) == expected


def test_query_and_item_are_not_mixed_up() -> None:
    # Everyone likes item 1 best, which likes item 2.
    def likes(queries: Tensor, items: Tensor) -> Tensor:
        return torch.stack([items[:, 0] == (queries[i, 0] + 1) % 3 for i in range(len(queries))]).float()

    embeddings, labels = torch.tensor([[0.0], [1.0], [2.0]]), [5, 5, 7]
    assert scored_recall_at_k(likes, embeddings, labels, 1) == {1: pytest.approx(1 / 3)}


def test_equal_items_tie_however_the_scorer_rounds() -> None:
    def noisy(queries: Tensor, items: Tensor) -> Tensor:
        return torch.arange(len(items)).float().expand(len(queries), -1)

    # All alike: the nearest is item 0 for everyone, and item 1 for item 0.
    labels = torch.arange(9) % 2
    labels[0] = 2
    assert scored_recall_at_k(noisy, torch.ones(9, 4), labels, (1, 2, 3)) == {1: 0.0, 2: 3 / 9, 3: 7 / 9}


def test_never_more_than_a_block_is_asked_for() -> None:
    asked = []

    def counted(queries: Tensor, items: Tensor) -> Tensor:
        asked.append((len(queries), len(items)))
        return queries @ items.T

    embeddings = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    scored_recall_at_k(counted, embeddings, torch.arange(50) % 7, block=170)
    assert asked == [(3, 50)] * 16 + [(2, 50)]


def test_half_precision_reaches_the_scorer_as_it_is() -> None:
    seen = set()

    def scorer(queries: Tensor, items: Tensor) -> Tensor:
        seen.add(queries.dtype)
        return (queries @ items.T).float()

    labels = [0, 0, 1, 1]
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64):
        scored_recall_at_k(scorer, torch.randn(4, 3).to(dtype), labels)
    assert seen == {torch.bfloat16, torch.float16, torch.float32, torch.float64}
    seen.clear()
    for array in (np.eye(4, dtype=np.float16), np.eye(4, dtype=np.float32), np.eye(4, dtype=np.int8), np.eye(4)):
        scored_recall_at_k(scorer, array, labels)
    assert seen == {torch.float16, torch.float32, torch.float64}


def test_wrong_arguments() -> None:
    x, labels = torch.eye(4), [0, 0, 1, 1]
    with pytest.raises(ValueError, match="finite scores; 16 of 16 are not"):
        scored_recall_at_k(lambda q, i: (q @ i.T) * torch.nan, x, labels)
    with pytest.raises(ValueError, match="k must be positive whole numbers"):
        scored_recall_at_k(plane, x, labels, 0)
    with pytest.raises(ValueError, match="block must be a positive whole number, got 0"):
        scored_recall_at_k(plane, x, labels, block=0)
    with pytest.raises(ValueError, match="gallery and gallery_labels must be given together"):
        scored_recall_at_k(plane, x, labels, gallery=x)
    with pytest.raises(ValueError, match=r"labels must have shape \[4\]"):
        scored_recall_at_k(plane, x, labels[:3])
    with pytest.raises(ValueError, match="row 1"):
        scored_recall_at_k(plane, torch.tensor([[0.0], [torch.nan]]), [0, 1])
