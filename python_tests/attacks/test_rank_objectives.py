"""Rank objectives against the sums written out, their gradients, and the ranks that they are to move."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from victims import embed, pictures, trained

from robustdml_ext.attacks import PGD, CandidateRank, OutOfTopK, RankAmong, normalized_rank, rank_objectives, ranking


def distance(x: Tensor, y: Tensor, name: str) -> Tensor:
    return 1 - F.cosine_similarity(x, y, dim=0) if name == "cosine" else (x - y).square().sum()


@contextmanager
def blocks_of(size: int) -> Iterator[None]:
    """Goes through galleries in blocks of another size."""
    with mock.patch.object(ranking, "BLOCK", size), mock.patch.object(rank_objectives, "BLOCK", size):
        yield


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


cases = given(
    name=st.sampled_from(["cosine", "euclidean"]), direction=st.sampled_from(["raise", "lower"]),
    left_out=st.booleans(), block=st.sampled_from([1, 3, 8192]), seed=st.integers(0, 1000),
)  # fmt: skip


@settings(max_examples=15)
@cases
def test_candidate_rank_is_the_sum_of_hinges(name: str, direction: str, left_out: bool, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gallery = numbers(9, 4, seed=seed)
    gallery[3] = gallery[5]
    candidates = torch.randint(9, (5, 3), generator=generator)
    own = torch.randint(-1, 9, (5,), generator=generator) if left_out else None
    queries = numbers(5, 4, seed=seed + 1).requires_grad_()
    objective = CandidateRank(gallery, candidates, direction, own, name)
    with blocks_of(block):
        values = objective(queries)
    rows = []
    for i in range(5):
        terms = []
        for c in candidates[i].tolist():
            for x in range(9):
                if own is not None and int(own[i]) == x:
                    continue
                difference = distance(queries[i], gallery[c], name) - distance(queries[i], gallery[x], name)
                terms.append((difference if direction == "raise" else -difference).clamp_min(0))
        rows.append(torch.stack(terms).sum() / (3 * 9))
    expected = torch.stack(rows)
    torch.testing.assert_close(values, expected)
    found = torch.autograd.grad(values.sum(), queries, retain_graph=True)[0]
    torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), queries)[0])
    assert torch.autograd.gradcheck(objective, (queries,))


@settings(max_examples=15)
@cases
def test_rank_among_is_the_sum_of_hinges(name: str, direction: str, left_out: bool, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gallery, images = numbers(9, 4, seed=seed), numbers(5, 4, seed=seed + 1).requires_grad_()
    own = torch.randint(-1, 9, (5,), generator=generator) if left_out else None
    for shape in ((3,), (5, 3)):
        queries = numbers(*shape, 4, seed=seed + 2)
        query_rows = torch.randint(-1, 9, shape, generator=generator) if left_out else None
        objective = RankAmong(queries, gallery, direction, own, query_rows, name)
        with blocks_of(block):
            values = objective(images)
        each = queries.expand(5, 3, 4)
        rows = []
        for i in range(5):
            total = images.new_zeros(())
            for q in range(3):
                moved = distance(each[i, q], images[i], name)
                for x in range(9):
                    if left_out and (int(own[i]) == x or int(query_rows.expand(5, 3)[i, q]) == x):
                        continue
                    difference = moved - distance(each[i, q], gallery[x], name)
                    total = total + (difference if direction == "raise" else -difference).clamp_min(0)
            rows.append(total / (3 * 9))
        expected = torch.stack(rows)
        torch.testing.assert_close(values, expected)
        found = torch.autograd.grad(values.sum(), images, retain_graph=True)[0]
        torch.testing.assert_close(found, torch.autograd.grad(expected.sum(), images)[0])
        assert torch.autograd.gradcheck(objective, (images,))


@settings(max_examples=15)
@given(
    name=st.sampled_from(["cosine", "euclidean"]), k=st.integers(1, 4), tau=st.sampled_from([1e-4, 0.02, 1.0]),
    left_out=st.booleans(), seed=st.integers(0, 1000),
)  # fmt: skip
def test_out_of_top_k_bounds_the_margin(name: str, k: int, tau: float, left_out: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    gallery, queries = numbers(12, 4, seed=seed), numbers(5, 4, seed=seed + 1).requires_grad_()
    gallery_labels, labels = torch.arange(12) % 3, torch.tensor([0, 1, 2, 0, 7])
    own = torch.randint(-1, 12, (5,), generator=generator) if left_out else None
    objective = OutOfTopK(labels, gallery, gallery_labels, own, k, tau, name)
    values = objective(queries)
    assert values[4] == 0  # no item of its class
    for i in range(4):
        kept = [x for x in range(12) if own is None or int(own[i]) != x]
        scale = 1 if name == "cosine" else -1
        near = {x: scale * distance(queries[i], gallery[x], name) for x in kept}
        near = {x: 1 - d if name == "cosine" else d for x, d in near.items()}
        right = torch.stack([near[x] for x in kept if gallery_labels[x] == labels[i]])
        wrong = torch.stack([near[x] for x in kept if gallery_labels[x] != labels[i]]).topk(k).values
        smooth = tau * (right / tau).exp().sum().log() + tau * (-wrong / tau).exp().sum().log()
        margin = right.max() - wrong.min()
        if smooth.isfinite():
            torch.testing.assert_close(values[i], smooth)
        assert margin - 1e-9 <= values[i] <= margin + tau * (torch.log(torch.tensor(len(right) * k)) + 1e-9)
    if tau > 1e-3:
        assert torch.autograd.gradcheck(objective, (queries,))


@settings(max_examples=15)
@given(seed=st.integers(0, 1000), left_out=st.booleans(), name=st.sampled_from(["cosine", "euclidean"]))
def test_normalized_rank_counts(seed: int, left_out: bool, name: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few distinct rows, so that many distances tie.
    gallery = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])[torch.randint(3, (8,), generator=generator)]
    queries, candidates = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.randint(8, (2, 3), generator=generator)
    own = torch.randint(-1, 8, (2,), generator=generator) if left_out else None
    ranks = normalized_rank(queries, gallery, candidates, own, name)
    for i in range(2):
        for j, c in enumerate(candidates[i].tolist()):
            others = [x for x in range(8) if x != c and (own is None or int(own[i]) != x)]
            away = [float(distance(queries[i].double(), y, name)) for y in gallery.double()]
            ahead = sum((away[x], x) < (away[c], c) for x in others)
            assert ranks[i, j] == ahead / len(others)
    assert torch.equal(normalized_rank(queries, gallery, candidates[:, 0], own, name), ranks[:, 0])


def test_query_attacks_move_the_candidates_rank() -> None:
    model, (images, _) = trained(), pictures()
    gallery, own = embed(model, images), torch.arange(len(images))
    candidates = torch.stack([(own + 1) % len(images), (own + 3) % len(images)], 1)
    attack = PGD(0.1, 10, 0.02)
    clean = normalized_rank(gallery, gallery, candidates, own).mean()
    ranks = {}
    for direction in ("raise", "lower"):
        objective = CandidateRank(gallery, candidates, direction, own)
        moved = embed(model, attack.perturb(model, images, objective))
        ranks[direction] = normalized_rank(moved, gallery, candidates, own).mean()
    assert ranks["raise"] < 0.6 * clean and ranks["lower"] > clean + 0.1


def test_candidate_attacks_move_its_own_rank() -> None:
    model, (images, _) = trained(), pictures()
    gallery = embed(model, images)
    rows = torch.arange(12)
    own, query_rows = rows, (rows + 1) % 12 + 12
    queries = gallery[query_rows][:, None]
    attack = PGD(0.1, 10, 0.02)

    def ranks(embeddings: Tensor) -> Tensor:
        found = []
        for i in range(12):
            moved = gallery.clone()
            moved[own[i]] = embeddings[i]
            found.append(normalized_rank(queries[i], moved, own[i, None], query_rows[i, None]))
        return torch.cat(found)

    clean = ranks(gallery[own]).mean()
    raised, lowered = (
        ranks(
            embed(
                model,
                attack.perturb(model, images[own], RankAmong(queries, gallery, direction, own, query_rows[:, None])),
            )
        ).mean()
        for direction in ("raise", "lower")
    )
    assert raised < 0.6 * clean and lowered > clean + 0.1


def test_right_ones_leave_the_top_k() -> None:
    model, (images, labels) = trained(), pictures()
    gallery, own = embed(model, images), torch.arange(len(images))

    def recall(embeddings: Tensor, k: int) -> float:
        similarity = (embeddings @ gallery.T).fill_diagonal_(-torch.inf)
        return float((labels[similarity.topk(k).indices] == labels[:, None]).any(1).float().mean())

    for k in (1, 4):
        objective = OutOfTopK(labels, gallery, labels, own, k)
        moved = embed(model, PGD(0.1, 15, 0.02).perturb(model, images, objective))
        assert recall(gallery, k) > 0.9 and recall(moved, k) < 0.4
        # A value below 0 is a proof.
        failed = objective(moved) < 0
        similarity = (moved @ gallery.T).fill_diagonal_(-torch.inf)
        found = (labels[similarity.topk(k).indices] == labels[:, None]).any(1)
        assert failed.any() and not (failed & found).any()


def test_half_precision_and_autocast() -> None:
    gallery, labels = numbers(9, 4, seed=0).bfloat16(), torch.arange(9) % 3
    queries = numbers(5, 4, seed=1).bfloat16().requires_grad_()
    for objective in (
        CandidateRank(gallery, torch.arange(5)[:, None]),
        RankAmong(gallery[:3], gallery),
        OutOfTopK(labels[:5], gallery, labels),
    ):
        plain = objective(queries)
        with torch.autocast("cpu", torch.bfloat16):
            cast = objective(queries)
        assert plain.dtype == torch.float32 and torch.equal(plain, cast)
        assert torch.autograd.grad(plain.sum(), queries)[0].isfinite().all()


def test_errors_name_the_argument() -> None:
    gallery, labels, candidates = numbers(9, 4, seed=0), torch.arange(9) % 3, torch.zeros(5, 2, dtype=torch.int64)
    for make, error, message in [
        (lambda: CandidateRank(gallery, candidates, "up"), ValueError, "direction"),
        (lambda: CandidateRank(gallery, candidates + 9), ValueError, "candidates: expected rows of the gallery"),
        (lambda: CandidateRank(gallery, candidates.float()), TypeError, "candidates"),
        (lambda: CandidateRank(gallery, candidates[0]), ValueError, "candidates"),
        (lambda: CandidateRank(gallery, candidates, own=torch.arange(4)), ValueError, "own"),
        (lambda: CandidateRank(gallery, candidates, distance="l1"), ValueError, "distance"),
        (lambda: CandidateRank(gallery[0], candidates), ValueError, "gallery"),
        (lambda: RankAmong(numbers(3, 5, seed=0), gallery), ValueError, "queries"),
        (lambda: RankAmong(labels, gallery), TypeError, "queries"),
        (lambda: RankAmong(gallery[:3], gallery, query_rows=torch.arange(4)), ValueError, "query_rows"),
        (lambda: OutOfTopK(labels, gallery, labels[:5]), ValueError, "gallery_labels"),
        (lambda: OutOfTopK(labels, gallery, labels, k=0), ValueError, "k: expected a number >= 1"),
        (lambda: OutOfTopK(labels, gallery, labels, k=7), ValueError, "at least k = 7 items of other classes, got 6"),
        (lambda: OutOfTopK(labels, gallery, labels, temperature=0.0), ValueError, "temperature"),
        (lambda: normalized_rank(gallery[:, :2], gallery, candidates[:, 0]), ValueError, "embeddings"),
        (lambda: normalized_rank(gallery[:5], gallery, candidates[:3, 0]), ValueError, "candidates"),
    ]:
        with pytest.raises(error, match=message):
            make()


@settings(max_examples=20)
@cases
def test_one_threshold_needs_no_sort(name: str, direction: str, left_out: bool, block: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows, gallery = numbers(6, 4, seed=seed), numbers(17, 4, seed=seed + 1)
    gallery[3] = gallery[5]
    thresholds = ranking.squared_distances(rows, gallery) if name == "euclidean" else 1 - rows @ gallery.T
    # Thresholds that are distances themselves: the item there is not beyond.
    thresholds = thresholds.gather(1, torch.randint(17, (6, 1), generator=generator))
    left = torch.full((6, 1, 2), -1)
    if left_out:
        left[:, 0] = torch.stack([torch.randperm(17, generator=generator)[:2] for _ in range(6)])
    above = direction == "lower"
    with blocks_of(block):
        with mock.patch.object(Tensor, "sort", side_effect=AssertionError("sorted")):
            count, total = ranking.hinge_sums(rows, thresholds, gallery, name, above, left)
        twice = ranking.hinge_sums(
            rows, thresholds.expand(6, 2).contiguous(), gallery, name, above, left.expand(6, 2, 2)
        )
    assert torch.equal(count, twice[0][:, :1])
    torch.testing.assert_close(total, twice[1][:, :1], rtol=1e-12, atol=1e-12)
