"""`neighbors` and `items_ahead`: against every distance by itself, sorted; ties, tiles, any scale."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from neighbor_cases import (
    DISTANCES,
    classes,
    counts,
    exact_ahead,
    exact_distances,
    exact_neighbors,
    grid,
    kinds,
    widths,
)
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as

from robustdml_ext.ops import _neighbors_reference as reference
from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS, items_ahead, nearest_centroid, neighbors


@given(
    counts, counts, widths, st.sampled_from([1, 2, 5, 30, 94, 95, 96, 97, 199, 1024]), st.booleans(), dtypes(),
    devices(), st.sampled_from(["contiguous", "sliced", "transposed"]), seeds(), kinds,
    st.sampled_from([0, -60, 60]),
)  # fmt: skip
def test_order_and_ties_of_whole_numbers(
    n: int, m: int, width: int, k: int, gallery: bool, dtype: torch.dtype, device: str, layout: str, seed: int,
    kind: str, exponent: int,
) -> None:  # fmt: skip
    if dtype == torch.float16:
        exponent //= 10
    queries = in_layout(grid((n, width), dtype, device, seed) * 2.0**exponent, layout)
    items = grid((m, width), dtype, device, seed + 1) * 2.0**exponent if gallery else None
    labels, item_labels = classes(kind, n, device, seed), classes(kind, m, device, seed + 1) if gallery else None
    table = exact_distances(queries, queries if items is None else items, "euclidean", items is None)
    expected_distances, expected = exact_neighbors(table, k)
    ahead = exact_ahead(table, labels, labels if item_labels is None else item_labels)
    for distance, index in (
        neighbors(queries, items, k, "euclidean"),
        reference.neighbors_reference(queries, items, k, "euclidean", False),
    ):
        assert torch.equal(index.cpu(), expected)
        assert distance.dtype == torch.promote_types(dtype, torch.float32)
        assert torch.allclose(distance.double().cpu(), expected_distances, rtol=2e-7)
    assert torch.equal(items_ahead(queries, labels, items, item_labels, "euclidean").cpu(), ahead)


@given(
    st.sampled_from([1, 2, 13, 33, 96, 97, 150]), st.sampled_from([1, 5, 96, 98, 200]), widths,
    st.sampled_from([1, 4, 30, 97]), st.booleans(), st.sampled_from(DISTANCES), dtypes(), devices(), seeds(),
)  # fmt: skip
def test_distances_of_random_rows(
    n: int, m: int, width: int, k: int, gallery: bool, distance: str, dtype: torch.dtype, device: str, seed: int
) -> None:
    queries = values((n, width), dtype, device, seed)
    items = values((m, width), dtype, device, seed + 1) if gallery else None
    actual, index = neighbors(queries, items, k, distance)
    plain, _ = reference.neighbors_reference(queries, items, k, distance, False)
    table = exact_distances(queries, queries if items is None else items, distance, items is None)
    exact, _ = exact_neighbors(table, k)
    # Squares, where the rounding of products is the same size everywhere.
    power = 1 if distance == "cosine" else 2
    terms = float(queries.double().norm(dim=1).max()) ** 2 if distance == "euclidean" else 1.0
    assert_as_good_as(actual**power, plain**power, exact**power, terms=terms, what="distances in order")
    there = index >= 0
    assert torch.equal(there.cpu(), exact < torch.inf)
    # Each item is at the distance that is said of it, none comes twice, and the order is the one of the distances.
    found = table.gather(1, index.cpu().clamp_min(0)).where(there.cpu(), torch.inf)
    assert_as_good_as(actual**power, plain**power, found**power, terms=terms, what="distances of the items")
    assert (actual.diff(dim=1).nan_to_num(0.0) >= 0).all()
    assert all(len(set(row[row >= 0].tolist())) == int((row >= 0).sum()) for row in index.cpu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_pair_has_one_distance_in_every_role(distance: str, dtype: torch.dtype, device: str) -> None:
    n, width = 421, 37
    rows = values((n, width), dtype, device, 0)
    labels = classes("random", n, device, 0)
    distances, index = neighbors(rows, None, n - 1, distance)
    table = torch.zeros(n, n, dtype=dtype, device=device).scatter_(1, index, distances)
    assert torch.equal(table, table.T)
    for actual, expected in zip(
        neighbors(rows, rows.clone(), n - 1, distance, exclude_self=True), (distances, index), strict=True
    ):
        assert torch.equal(actual, expected)
    some = torch.arange(0, n, 3, device=device)
    moved, moved_index = neighbors(rows[some], rows, 9, distance)
    assert torch.equal(moved[:, 1:], distances[some][:, :8]) and torch.equal(moved_index[:, 1:], index[some][:, :8])
    ahead = items_ahead(rows, labels, distance=distance)
    assert torch.equal(ahead, items_ahead(rows, labels, rows.clone(), labels, distance, exclude_self=True))
    for k in (1, 7, 100):
        found = (labels[index[:, :k]] == labels[:, None]).any(1)
        assert torch.equal(ahead < k, found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("device", DEVICES)
def test_equal_rows_tie_wherever_they_stand(distance: str, dtype: torch.dtype, device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    which = torch.randint(40, (500,), generator=generator)
    pool = values((40, 129), dtype, device, 1)
    distances, index = neighbors(pool[which.to(device)], None, 499, distance)
    groups, near = which[index.cpu()], distances.cpu()
    for i in range(500):
        assert (groups[i] == which[i])[: int((which == which[i]).sum()) - 1].all()
        for group in range(40):
            members = groups[i] == group
            assert len(set(near[i][members].tolist())) <= 1 and (index.cpu()[i][members].diff() > 0).all()
    if distance == "euclidean":
        assert (near[groups == which[:, None]] == 0).all()
    # All rows alike: the nearest is item 0 for everyone, and item 1 for item 0.
    same = pool[:1].expand(1037, 129)
    assert torch.equal(neighbors(same, None, 1, distance)[1][:, 0].cpu(), (torch.arange(1037) == 0).long())
    labels = torch.arange(1037, device=device) % 2
    assert items_ahead(same, labels, distance=distance).tolist() == [1, 2] + [i % 2 for i in range(2, 1037)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-20, 1e-30, 1e-3, 1e20, 1e37])
@pytest.mark.parametrize("device", DEVICES)
def test_any_scale(scale: float, dtype: torch.dtype, device: str) -> None:
    rows = values((150, 20), dtype, device, 0) * scale
    for distance in DISTANCES:
        expected, order = exact_neighbors(
            exact_distances(rows.double() / scale, rows.double() / scale, distance, True), 7
        )
        actual, index = neighbors(rows, None, 7, distance)
        unit = 1.0 if distance == "cosine" else scale
        assert torch.equal(index.cpu(), order)
        assert torch.allclose(actual.double().cpu() / unit, expected, rtol=1e-4, atol=1e-5)
    mixed = rows * torch.logspace(-10, 0, 150, device=device, dtype=dtype)[:, None]
    assert torch.equal(neighbors(mixed, None, 3)[1].cpu(), neighbors(rows.double(), None, 3)[1].cpu())
    assert neighbors(mixed, None, 149, "euclidean")[0].isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_zero_vectors(device: str) -> None:
    rows = values((5, 8), torch.float32, device, 0)
    rows[1] = rows[3] = 0
    distances, index = neighbors(rows, None, 4)
    assert index[1].tolist() == [0, 2, 3, 4] and distances[1].tolist() == [1.0] * 4
    assert neighbors(rows, None, 1, "euclidean")[1][[1, 3], 0].tolist() == [3, 1]
    zeros = torch.zeros(300, 3, device=device)
    assert neighbors(zeros, None, 3)[1][-1].tolist() == [0, 1, 2]
    empty = torch.zeros(3, 0, device=device)
    assert neighbors(empty, None, 2, "euclidean")[1].tolist() == [[1, 2], [0, 2], [0, 1]]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("device", DEVICES)
def test_a_row_that_is_not_finite_is_nobodys_neighbor(bad: float, distance: str, device: str) -> None:
    rows = values((200, 5), torch.float32, device, 0)
    rows[3, 2] = bad
    labels = torch.arange(200, device=device) // 2
    good = torch.tensor([i for i in range(200) if i != 3], device=device)
    expected, order = neighbors(rows[good], None, 198, distance)
    for gallery in (None, rows):
        distances, index = neighbors(rows, gallery, 199, distance, exclude_self=gallery is not None)
        assert (index[3] == -1).all() and distances[3].isinf().all()
        assert torch.equal(index[good, :198], good[order]) and (index[good, 198] == -1).all()
        assert torch.equal(distances[good, :198], expected)
    ahead = items_ahead(rows, labels, distance=distance)
    assert ahead[2] == ahead[3] == NONE_OF_THE_CLASS
    # Row 2 has lost its pair, and everyone else an item that could come before.
    others = torch.tensor([i for i in range(200) if i not in (2, 3)], device=device)
    assert torch.equal(ahead[others], items_ahead(rows[good], labels[good], distance=distance)[good != 2])
    assert nearest_centroid(rows, rows[:4])[0][3] == -1 and (nearest_centroid(rows, rows[:4])[0] != 3).all()


@pytest.mark.parametrize("device", DEVICES)
def test_many_tiles(device: str) -> None:
    """Enough rows for tasks of several tiles a side, and few enough queries for a gallery in parts."""
    rows = values((25_000, 6), torch.float32, device, 0)
    labels = torch.arange(25_000, device=device) * 7919 % 5000
    some = torch.arange(0, 25_000, 500, device=device)
    for distance in DISTANCES:
        distances, index = neighbors(rows, None, 20, distance)
        ahead = items_ahead(rows, labels, distance=distance)
        part_distances, part_index = neighbors(rows[some], rows, 21, distance)
        assert torch.equal(part_distances[:, 1:], distances[some]) and torch.equal(part_index[:, 1:], index[some])
        table = exact_distances(rows[some].double(), rows.double(), distance, False)
        table[torch.arange(len(some)), some.cpu()] = torch.inf
        assert torch.equal(index[some].cpu(), exact_neighbors(table, 20)[1])
        # float32 against float64: a few of 25,000 items may change sides.
        assert (ahead[some].cpu() - exact_ahead(table, labels[some], labels)).abs().max() <= 2


def test_agrees_with_faiss() -> None:
    faiss = pytest.importorskip("faiss")
    rows = torch.nn.functional.normalize(values((1500, 64), torch.float32, "cpu", 0))
    for distance, search in (("cosine", faiss.IndexFlatIP(64)), ("euclidean", faiss.IndexFlatL2(64))):
        search.add(rows.numpy())
        _, expected = search.search(rows[:400].numpy(), 50)
        index = neighbors(rows[:400], rows, 50, distance)[1].numpy()
        assert (index == expected).mean() > 0.999
        assert all(len(np.setdiff1d(a, b)) <= 1 for a, b in zip(index, expected, strict=True))


def test_the_reference_works_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = grid((50, 3), torch.float32, "cpu", 0), classes("random", 50, "cpu", 0)
    order = torch.argsort(labels, stable=True)
    begin = torch.searchsorted(labels[order], labels)
    end = torch.searchsorted(labels[order], labels, right=True)
    table = exact_distances(rows, rows, "euclidean", True)
    for elements in (1, 120, 2**22):
        monkeypatch.setattr(reference, "BLOCK_ELEMENTS", elements)
        assert torch.equal(
            reference.neighbors_reference(rows, None, 9, "euclidean", False)[1], exact_neighbors(table, 9)[1]
        )
        ahead = reference.items_ahead_reference(rows, None, order, order, begin, end, "euclidean", False)
        assert torch.equal(ahead, exact_ahead(table, labels, labels))
    # Equal rows tie here too, however the matrix product rounds.
    same = values((1, 65), torch.float32, "cpu", 0).expand(333, 65)
    assert reference.neighbors_reference(same, None, 3, "cosine", False)[1][-1].tolist() == [0, 1, 2]
