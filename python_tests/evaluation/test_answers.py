"""What queries are answered with, against a plain search and against the recall that counts it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdml_ext.evaluation import Subject, answers, evaluate
from robustdml_ext.evaluation.answers import cosines_to, right


class _Given(nn.Module):
    """Images `[B, 1, 1, D]` are their embeddings."""

    def __init__(self, voters: tuple[int, ...] | None = None) -> None:
        super().__init__()
        self.voters = voters

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


def _drawn(seed: int, count: int, dim: int, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Some come twice, and are then equally near to everything.
    vectors = torch.randn(max(count * 2 // 3, 1), dim, generator=generator)
    vectors = vectors[torch.randint(len(vectors), (count,), generator=generator)]
    return vectors, torch.randint(classes, (count,), generator=generator)


def _subject(
    vectors: Tensor, labels: Tensor, gallery: tuple[Tensor, Tensor] | None = None, voters: tuple[int, ...] | None = None
) -> Subject:
    def batches(x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(x[:, None, None], y)]

    return Subject(_Given(voters), batches(vectors, labels), None if gallery is None else batches(*gallery))


def _cosine(x: Tensor, y: Tensor) -> float:
    x, y = x.double(), y.double()
    length = float(x.norm() * y.norm())
    return round(float(x @ y) / length, 9) if length else 0.0


def _plain(query: Tensor, items: Tensor, own: int | None, count: int) -> list[int]:
    order = sorted((i for i in range(len(items)) if i != own), key=lambda i: (-_cosine(query, items[i]), i))
    return (order + [-1] * count)[:count]


@given(
    seed=st.integers(0, 50),
    count=st.integers(1, 9),
    dim=st.integers(1, 4),
    top=st.integers(1, 6),
    items=st.integers(0, 7),
)
def test_the_nearest_come_first_without_the_query_itself(seed: int, count: int, dim: int, top: int, items: int) -> None:
    vectors, labels = _drawn(seed, count, dim)
    gallery = _drawn(seed + 1, items, dim) if items else None
    subject = _subject(vectors, labels, gallery)
    rows = torch.arange(count)[seed % 2 :: 2]
    asked = _drawn(seed + 2, len(rows), dim)[0]  # as if attacked
    found = answers(subject, asked, rows, top)
    searched = vectors if gallery is None else gallery[0]
    expected = [
        _plain(query, searched, int(row) if gallery is None else None, top)
        for query, row in zip(asked, rows, strict=True)
    ]
    assert found.tolist() == expected
    similarity = cosines_to(subject, asked, found)
    for query, listed, values in zip(asked, expected, similarity, strict=True):
        for item, value in zip(listed, values.tolist(), strict=True):
            assert value == pytest.approx(_cosine(query, searched[item]), abs=1e-6) if item >= 0 else value != value


def _elected(
    query: Tensor, items: Tensor, labels: Tensor, own: int | None, widths: tuple[int, ...], top: int
) -> list[int]:
    parts, members = query.split(widths), items.split(widths, 1)
    found: list[int] = []
    for depth in range(1, top + 1):
        lists = [[i for i in _plain(part, x, own, depth) if i >= 0] for part, x in zip(parts, members, strict=True)]
        ranked = []
        for item in {i for one in lists for i in one}:
            votes = sum(any(labels[i] == labels[item] for i in one) for one in lists)
            near = max(
                _cosine(part, x[item]) for part, x, one in zip(parts, members, lists, strict=True) if item in one
            )
            ranked.append((-votes, -near, item))
        found.append(next((item for _, _, item in sorted(ranked) if item not in found), -1))
    return found


@given(seed=st.integers(0, 50), count=st.integers(2, 9), items=st.sampled_from([0, 1, 6]), top=st.integers(1, 5))
def test_an_ensemble_elects_them(seed: int, count: int, items: int, top: int) -> None:
    widths = (2, 3, 2)
    vectors, labels = _drawn(seed, count, 7)
    gallery = _drawn(seed + 1, items, 7) if items else None
    subject = _subject(vectors, labels, gallery, widths)
    rows = torch.arange(count)
    searched, names = (vectors, labels) if gallery is None else gallery
    expected = [
        _elected(vectors[row], searched, names, row if gallery is None else None, widths, top) for row in range(count)
    ]
    assert answers(subject, vectors, rows, top).tolist() == expected
    separate = {} if gallery is None else {"gallery": searched, "gallery_labels": names}
    recall = evaluate(vectors, labels, **separate, recall_at=(1,), metrics="recall", voters=widths)["recall@1"]
    assert float(right(subject, vectors, rows).double().mean()) == pytest.approx(recall)


@pytest.mark.parametrize("voters", [None, (2, 2)])
def test_what_is_not_finite_finds_nothing_and_is_not_found(voters: tuple[int, ...] | None) -> None:
    vectors, labels = _drawn(3, 6, 4)
    vectors[2, 1], vectors[4, 0] = torch.nan, torch.inf
    subject = _subject(vectors, labels, voters=voters)
    found = answers(subject, vectors, torch.arange(6), 5)
    assert (found[[2, 4]] == -1).all() and not ((found == 2) | (found == 4)).any()
    assert not right(subject, vectors, torch.arange(6))[[2, 4]].any()
    assert cosines_to(subject, vectors, found)[[2, 4]].isnan().all()
