"""Sheets of queries with what they find, against a plain search."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toys import Cracking, Projection, blobs, on_grid

from robustdml_ext.evaluation import (
    RetrievalSheets,
    Subject,
    ThreatModel,
    attack_images,
    recall_at_k,
    retrieval_sheets,
    sheet_rows,
)

THREAT = ThreatModel("stax", 0.08, 5)


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x.double() / x.double().norm(dim=1, keepdim=True)


@pytest.mark.parametrize("separate", [False, True])
def test_a_sheet_is_what_a_plain_search_finds(separate: bool) -> None:
    images, gallery = blobs(), blobs(40, seed=4)
    model = Projection()
    subject = Subject(model, images, gallery if separate else None)
    attacked = attack_images(subject, THREAT, torch.arange(64), seed=0)
    found = retrieval_sheets(subject, attacked, queries=6, top=3, seed=1)
    pixels, labels = (torch.cat(parts) for parts in zip(*images, strict=True))
    items, names = (torch.cat(parts) for parts in zip(*(gallery if separate else images), strict=True))
    assert found.random.tolist() == [True] * 6 + [False] * (len(found.rows) - 6) and 6 < len(found.rows) <= 12
    assert torch.equal(found.clean, pixels[found.rows]) and torch.equal(found.labels, labels[found.rows])
    assert torch.equal(found.attacked, attacked.attacked[found.rows]) and len(found.rows.unique()) == len(found.rows)
    with torch.no_grad():
        searched = _unit(model(items))
        for queries, listed, classes, similarity, pictures in (
            (found.clean, found.clean_items, found.clean_labels, found.clean_similarity, found.clean_pictures),
            (
                found.attacked, found.attacked_items, found.attacked_labels, found.attacked_similarity,
                found.attacked_pictures,
            ),
        ):  # fmt: skip
            cosines = _unit(model(queries)) @ searched.T
            if not separate:
                cosines[torch.arange(len(queries)), found.rows] = -2
            nearest = cosines.topk(3)
            assert torch.equal(listed, nearest.indices) and torch.equal(classes, names[listed])
            assert torch.allclose(similarity.double(), nearest.values, atol=1e-6)
            assert torch.equal(pictures, items[listed])
    broken = found.clean_labels[:, 0].eq(found.labels) & found.attacked_labels[:, 0].ne(found.labels)
    assert broken[6:].all() and found.drawn_from == 64
    others = {"gallery": model(items), "gallery_labels": names} if separate else {}
    assert found.right == round(64 * recall_at_k(model(pixels), labels, 1, **others)[1])
    assert found.broken >= int(broken.sum()) > 0


def test_the_draw_is_the_seeds_alone() -> None:
    subject = Subject(Projection(), blobs())
    attacked = attack_images(subject, THREAT, torch.arange(64))
    one, again, other = (retrieval_sheets(subject, attacked, queries=4, seed=seed).rows for seed in (0, 0, 1))
    assert torch.equal(one, again) and not torch.equal(one, other)
    # All queries at random leave none to be broken.
    every = retrieval_sheets(subject, attacked, queries=64)
    assert every.random.all() and every.rows.sort().values.tolist() == list(range(64)) and every.broken > 0


def test_places_that_nothing_fills_are_marked() -> None:
    images = [(pixels[:2], labels[:2]) for pixels, labels in blobs()]  # four images
    subject = Subject(Projection(), images)
    few = retrieval_sheets(subject, attack_images(subject, THREAT, torch.arange(4)), top=5)
    assert (few.clean_items[:, 3:] == -1).all() and (few.clean_items[:, :3] >= 0).all()
    _check_marks(few)
    # A query whose attacked embedding is no number finds nothing at all, and was broken by that.
    subject = Subject(Cracking(), on_grid(blobs()))
    found = retrieval_sheets(subject, attack_images(subject, THREAT, torch.arange(64)), queries=3)
    assert (found.attacked_items == -1).all() and found.broken == found.right > 0 and len(found.rows) == 6
    _check_marks(found)


def _check_marks(found: RetrievalSheets) -> None:
    for items, labels, similarity, pictures in (
        (found.clean_items, found.clean_labels, found.clean_similarity, found.clean_pictures),
        (found.attacked_items, found.attacked_labels, found.attacked_similarity, found.attacked_pictures),
    ):
        nothing = items == -1
        assert torch.equal(labels == -1, nothing) and torch.equal(similarity.isnan(), nothing)
        assert (pictures[nothing] == 0.5).all()


def test_what_makes_no_sheet_is_refused() -> None:
    subject = Subject(Projection(), blobs())
    attacked = attack_images(subject, THREAT, torch.arange(8))
    for options in ({"queries": 0}, {"top": 0}, {"seed": -1}):
        with pytest.raises(ValueError, match="queries, top, seed"):
            retrieval_sheets(subject, attacked, **options)
    without = attack_images(subject, THREAT, torch.arange(8), keep=torch.empty(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="with their pixels, got none"):
        retrieval_sheets(subject, without)


@given(count=st.integers(1, 40), most=st.integers(1, 50), seed=st.integers(0, 5))
def test_rows_of_sheets(count: int, most: int, seed: int) -> None:
    rows = sheet_rows(count, most, seed)
    assert torch.equal(rows, sheet_rows(count, most, seed)) and rows.dtype == torch.int64
    assert (
        len(rows) == min(count, most)
        and torch.equal(rows, rows.unique())
        and 0 <= int(rows[0]) <= int(rows[-1]) < count
    )


def test_rows_of_sheets_are_drawn() -> None:
    assert sheet_rows(1000, 5, 0).tolist() != sheet_rows(1000, 5, 1).tolist()
    for arguments in ((0, 1, 0), (1, 0, 0), (1, 1, -1)):
        with pytest.raises(ValueError, match="count, most, seed"):
            sheet_rows(*arguments)
