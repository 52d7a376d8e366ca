"""Retrieval by voting, against counting votes query by query; and what is not finite, or has moved."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retrieval_cases import labels_for
from torch import Tensor

from robustdml_ext.evaluation import recall_at_k, voted_recall_at_k, voting_retrieval
from robustdml_ext.evaluation.voting_retrieval import MOST_DEPTH, voted_ahead, voted_ahead_with_moved
from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS

DEPTHS = (1, 2, 4, 8)
SEEDS = st.integers(0, 2**32)
LENGTHS = st.sampled_from([1, 2, 3, 4, 9, 23])


def vectors(random: np.random.Generator, count: int, members: int, exact: bool) -> np.ndarray:
    """Each member in 4 columns; with `exact` ones, cosines are among 0, 0.5 and 1, so that most of them tie."""
    if not exact:
        return random.normal(size=(count, 4 * members)) * 10.0 ** random.integers(-9, 9, (count, 1))
    known = np.concatenate([np.eye(4), random.choice([-0.5, 0.5], (4, 4))])
    rows = known[random.integers(0, 8, (count, members))] * 2.0 ** random.integers(-3, 4, (count, members, 1))
    return rows.reshape(count, 4 * members)


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    # Rounded as the voting rounds: equal ones tie.
    return round(float(x @ y) / math.sqrt(float(x @ x) * float(y @ y)) * 2**46) / 2**46


def answers(query: np.ndarray, items: np.ndarray, labels: Sequence[int], known: Sequence[int], k: int) -> list[int]:
    """Classes of k listed items, those of the classes of most votes of the members, in 4 columns each."""
    votes: dict[int, set[int]] = {}
    nearest: dict[int, float] = {}
    for member in range(len(query) // 4):
        own = slice(4 * member, 4 * member + 4)
        order = sorted((-cosine(query[own], items[j, own]), j) for j in known)
        for value, j in order[:k]:
            votes.setdefault(labels[j], set()).add(member)
            nearest[j] = max(nearest.get(j, -2.0), -value)
    return [labels[j] for j in sorted(nearest, key=lambda j: (-len(votes[labels[j]]), -nearest[j], j))[:k]]


def first_answer(answered: Sequence[bool], depths: Sequence[int]) -> int:
    return next((k - 1 for k, right in zip(depths, answered, strict=True) if right), NONE_OF_THE_CLASS)


def by_hand(
    queries: np.ndarray, labels: np.ndarray, items: np.ndarray, item_labels: np.ndarray, itself: bool
) -> list[int]:
    found = []
    for i, query in enumerate(queries):
        known = [j for j in range(len(items)) if not (itself and i == j)]
        answered = [labels[i] in answers(query, items, item_labels, known, k) for k in DEPTHS]
        found.append(first_answer(answered, DEPTHS))
    return found


@given(LENGTHS, st.integers(1, 4), st.booleans(), SEEDS, st.data())
@pytest.mark.parametrize("together", [True, False])
def test_votes_against_counting(
    together: bool, count: int, members: int, exact: bool, seed: int, more: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    queries, labels = vectors(random, count, members, exact), labels_for(more.draw, count)
    expected = by_hand(queries, labels, queries, labels, True)
    widths = (4,) * members
    with pytest.MonkeyPatch.context() as patch:
        if not together:
            patch.setattr(voting_retrieval, "LIST_ENTRIES", 0)
        patch.setattr(voting_retrieval, "BLOCK_ENTRIES", 50)
        x, y = torch.from_numpy(queries), torch.from_numpy(labels)
        assert voted_ahead(x, y, None, None, True, widths, DEPTHS).tolist() == expected
        assert voted_ahead(x, y, x, y, True, widths, DEPTHS).tolist() == expected
        shares = {k: sum(ahead < k for ahead in expected) / count for k in DEPTHS}
        assert voted_recall_at_k(queries, labels, widths) == shares
        assert voted_recall_at_k(x.float() if exact else x, y, widths, DEPTHS[::-1]) == shares


@given(LENGTHS, LENGTHS, st.integers(1, 3), st.booleans(), SEEDS, st.data())
def test_a_gallery_of_its_own(
    count: int, items: int, members: int, exact: bool, seed: int, more: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    gallery, item_labels = vectors(random, items, members, exact), labels_for(more.draw, items)
    # Some classes are in the gallery, some lie below, between and above them.
    labels = random.choice(np.concatenate([item_labels, item_labels + 1, [-(10**9)]]), count)
    queries = vectors(random, count, members, exact)
    expected = by_hand(queries, labels, gallery, item_labels, False)
    shares = {k: sum(ahead < k for ahead in expected) / count for k in DEPTHS}
    assert voted_recall_at_k(queries, labels, (4,) * members, DEPTHS, gallery, item_labels) == shares


@given(LENGTHS, st.booleans(), st.integers(1, 3), SEEDS, st.data())
def test_one_member_and_members_all_alike_are_recall_at_k(
    count: int, exact: bool, copies: int, seed: int, more: st.DataObject
) -> None:
    random = np.random.default_rng(seed)
    queries, labels = vectors(random, count, 1, exact), labels_for(more.draw, count)
    expected = recall_at_k(queries, labels, (1, 2, 3, 100))
    assert voted_recall_at_k(np.tile(queries, copies), labels, (4,) * copies, (1, 2, 3, 100)) == expected


def towards(degrees: Sequence[float]) -> np.ndarray:
    angles = np.deg2rad(np.asarray(degrees, dtype=float))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def answered(members: Sequence[Sequence[float]], labels: Sequence[int], right: int, k: int | tuple[int, ...]) -> list:
    """Whether a query at 0 degrees for all members is answered, with the members' angles of the items."""
    items = np.concatenate([towards(member) for member in members], 1)
    query = np.concatenate([towards([0])] * len(members), 1)
    found = voted_recall_at_k(query, [right], (2,) * len(members), k, items, labels)
    return [value == 1 for value in found.values()]


def test_at_depth_one_the_most_frequent_label_wins_and_ties_go_to_the_nearest_member() -> None:
    labels = [5, 6, 7]
    # Two members of three are nearest to item 0, the third is nearer to item 1.
    votes = [[20, 40, 60], [20, 40, 60], [40, 1, 60]]
    assert answered(votes, labels, 5, 1) == [True] and answered(votes, labels, 6, 1) == [False]
    # One vote each: item 2 lies nearest, in member 1.
    votes = [[20, 40, 60], [60, 40, 3], [40, 4, 60]]
    assert [answered(votes, labels, right, 1) for right in labels] == [[False], [False], [True]]
    # Equally near: the first item.
    assert [answered([[3, 40], [40, 3]], [8, 2], right, 1) for right in (8, 2)] == [[True], [False]]


def test_many_items_of_a_class_are_one_vote_a_member() -> None:
    # Member 0 finds class 1 three times; classes 2 and 3 have two members each.
    members = [[1, 2, 3, 4, 5], [50, 60, 70, 4, 5], [50, 60, 70, 5, 4]]
    labels = [1, 1, 1, 2, 3]
    assert [answered(members, labels, right, 2) for right in (1, 2, 3)] == [[False], [True], [True]]


def test_an_answer_at_a_smaller_depth_counts_at_larger_ones() -> None:
    # One near vote is outvoted at depth 2, where two other classes have two votes each.
    members = [[1, 10, 50], [60, 12, 14], [60, 15, 13]]
    labels = [1, 2, 3]
    assert answered(members, labels, 1, 1) == [True]
    assert answered(members, labels, 1, 2) == [False]
    assert answered(members, labels, 1, (1, 2)) == [True, True]


def cases(seed: int, exact: bool, members: int = 3, count: int = 14) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    return torch.from_numpy(vectors(random, count, members, exact)), torch.from_numpy(random.integers(0, count, count))


@given(SEEDS, st.booleans(), st.sampled_from([torch.nan, torch.inf]))
def test_what_is_not_finite_finds_nothing_and_is_named_by_nobody(seed: int, exact: bool, number: float) -> None:
    x, labels = cases(seed, exact)
    lost = torch.tensor([0, 5])
    kept = torch.tensor([i for i in range(14) if i not in lost])
    # In one column of one member: the other members have no say for it either.
    x[lost, torch.tensor([1, 9])] = number
    found = voted_ahead(x, labels, None, None, True, (4, 4, 4), DEPTHS)
    assert (found[lost] == NONE_OF_THE_CLASS).all()
    assert torch.equal(found[kept], voted_ahead(x[kept], labels[kept], None, None, True, (4, 4, 4), DEPTHS))


@given(SEEDS, st.booleans(), st.booleans(), st.sampled_from([2, 3, 9, 14]))
@pytest.mark.parametrize("together", [True, False])
def test_a_moved_item_counts_for_its_query_alone(
    together: bool, seed: int, exact: bool, itself: bool, count: int
) -> None:
    x, labels = cases(seed, exact, count=count)
    random = np.random.default_rng(seed + 1)
    moved = torch.from_numpy(vectors(random, count, 3, exact))
    candidates = (torch.arange(count) + torch.from_numpy(random.integers(1, count, count))) % count
    gallery = x if itself else cases(seed + 2, exact, count=count)[0]
    expected = []
    for i in range(count):
        items = gallery.numpy().copy()
        items[candidates[i]] = moved[i].numpy()
        expected.append(by_hand(x.numpy(), labels.numpy(), items, labels.numpy(), itself)[i])
    arguments = (x, labels, gallery, labels, itself)
    with pytest.MonkeyPatch.context() as patch:
        if not together:
            patch.setattr(voting_retrieval, "LIST_ENTRIES", 0)
        patch.setattr(voting_retrieval, "BLOCK_ENTRIES", 50)
        assert voted_ahead_with_moved(*arguments, candidates, moved, (4, 4, 4), DEPTHS).tolist() == expected
        same = voted_ahead_with_moved(*arguments, candidates, gallery[candidates], (4, 4, 4), DEPTHS)
    assert torch.equal(same, voted_ahead(*arguments, (4, 4, 4), DEPTHS))


def test_moved_items_that_are_not_finite_are_misses_and_lost_candidates_come_back() -> None:
    x, labels = cases(3, False)
    labels = labels * 0
    candidates = (torch.arange(14) + 1) % 14
    moved = x[candidates].clone()
    moved[2, 3] = torch.nan
    gallery = x.clone()
    gallery[:, 0] = torch.nan  # no item is found but the one that moved
    found = voted_ahead_with_moved(x, labels, gallery, labels, True, candidates, moved, (4, 4, 4), DEPTHS)
    assert found[2] == NONE_OF_THE_CLASS and (found[torch.arange(14) != 2] == 0).all()


def test_depths_beyond_the_lists_are_refused_unless_there_are_fewer_items() -> None:
    x, labels = torch.randn(MOST_DEPTH + 2, 4, generator=torch.Generator().manual_seed(0)), torch.arange(MOST_DEPTH + 2)
    assert voted_recall_at_k(x[:50], labels[:50] // 2, (2, 2), 5000)[5000] == 1
    with pytest.raises(ValueError, match="k: expected depths of at most 1022 where members vote, got 1023"):
        voted_recall_at_k(x, labels, (2, 2), (1, MOST_DEPTH + 1))
    assert voted_recall_at_k(x, labels // 2, (2, 2), MOST_DEPTH)[MOST_DEPTH] > 0.9
    candidates = (labels + 1) % len(labels)
    arguments = (x, labels // 2, x, labels // 2, True, candidates, x[candidates], (2, 2))
    assert (voted_ahead_with_moved(*arguments, [MOST_DEPTH]) < MOST_DEPTH).double().mean() > 0.9
    with pytest.raises(ValueError, match="k must be positive"):
        voted_recall_at_k(x, labels, (2, 2), 0)


def test_figures_compare_with_those_of_single_models() -> None:
    """Answers are k items, so that members who know nothing find no more by voting than one of them alone."""
    random = np.random.default_rng(0)
    labels = random.integers(0, 5, 900)
    x = random.normal(size=(900, 96))
    plain, voted = recall_at_k(x, labels, DEPTHS), voted_recall_at_k(x, labels, (32, 32, 32), DEPTHS)
    assert all(voted[k] < plain[k] + 0.04 for k in DEPTHS)


def test_a_thousand_deep() -> None:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(300), 4)
    x = random.normal(size=(1200, 8))
    found = voted_recall_at_k(x, labels, (4, 4), (10, 200, 1000))
    assert found[10] < 0.2 < found[200] < 0.95 < found[1000]
