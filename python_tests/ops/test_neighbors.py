"""`neighbors`, `items_ahead`, `nearest_centroid`: against every distance by itself, sorted; ties, tiles, threads."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext.ops import _neighbors_reference as reference
from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS, items_ahead, nearest_centroid, neighbors

DISTANCES = ["cosine", "euclidean"]
# Around the tiles of 96 rows and the register blocks of 4, 12 and 32.
counts = st.sampled_from([0, 1, 2, 3, 5, 13, 33, 95, 96, 97, 191, 200])
widths = st.sampled_from([1, 2, 3, 7, 16, 40, 65])


def exact_distances(queries: Tensor, items: Tensor, distance: str, exclude_self: bool) -> Tensor:
    """[N, M] in float64, each by itself; infinity for self."""
    q, x = queries.double().cpu(), items.double().cpu()
    if distance == "cosine":
        unit = [
            rows / rows.norm(dim=1, keepdim=True).where(rows.any(1, keepdim=True), torch.tensor(1.0)) for rows in (q, x)
        ]
        table = 1 - (unit[0][:, None] * unit[1]).sum(2)
    else:
        table = (q[:, None] - x).square().sum(2).sqrt()
    if exclude_self:
        table.fill_diagonal_(torch.inf)
    return table


def exact_neighbors(table: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of each row in the order (distance, index), filled up with infinity and -1."""
    ordered, order = torch.sort(table, dim=1, stable=True)
    order = order.where(ordered < torch.inf, -1)
    missing = max(0, k - table.shape[1])
    pad = torch.nn.functional.pad
    return pad(ordered[:, :k], (0, missing), value=torch.inf), pad(order[:, :k], (0, missing), value=-1)


def exact_ahead(table: Tensor, labels: Tensor, item_labels: Tensor) -> Tensor:
    """How many items come before the first of the query's class in the order (distance, index)."""
    ordered, order = torch.sort(table, dim=1, stable=True)
    own = (item_labels.cpu()[order] == labels.cpu()[:, None]) & (ordered < torch.inf)
    first = own.to(torch.int8).argmax(1) if table.shape[1] else torch.zeros(len(table), dtype=torch.int64)
    return first.where(own.any(1), NONE_OF_THE_CLASS)


def grid(shape: tuple[int, int], dtype: torch.dtype, device: str, seed: int) -> Tensor:
    """Small whole numbers: products and squared distances are exact in every precision, and tie all the time."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-2, 3, shape, generator=generator).to(device, dtype)


def classes(kind: str, count: int, device: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    labels = {
        "one class": lambda: torch.full((count,), -7),
        "all distinct": lambda: torch.randperm(count, generator=generator),
        "huge values": lambda: torch.randint(3, (count,), generator=generator) * 2**61 - 2**62,
        "random": lambda: torch.randint(max(1, count // 4), (count,), generator=generator),
    }[kind]()
    return labels.to(device)


kinds = st.sampled_from(["one class", "all distinct", "huge values", "random"])


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


@given(counts, st.sampled_from([1, 2, 31, 96, 97, 130]), widths, dtypes(), devices(), seeds())
def test_nearest_centroid(n: int, m: int, width: int, dtype: torch.dtype, device: str, seed: int) -> None:
    points, centroids = grid((n, width), dtype, device, seed), grid((m, width), dtype, device, seed + 1)
    index, squares = nearest_centroid(points, centroids)
    table = exact_distances(points, centroids, "euclidean", False).square()
    assert torch.equal(index.cpu(), exact_neighbors(table.round(), 1)[1][:, 0])
    assert torch.equal(squares.double().cpu(), table.round().amin(1)) and squares.shape == index.shape == (n,)


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


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_compile_autocast_threads(device: str) -> None:
    rows, other = values((130, 33), torch.float32, device, 0), values((100, 33), torch.float32, device, 1)
    labels = classes("random", 130, device, 0)
    order = torch.argsort(labels, stable=True)
    begin = torch.searchsorted(labels[order], labels)
    end = torch.searchsorted(labels[order], labels, right=True)
    operators = torch.ops.robustdml
    for gallery in (None, other):
        torch.library.opcheck(operators.neighbors.default, (rows, gallery, 5, "euclidean", False))
    torch.library.opcheck(operators.items_ahead.default, (rows, None, order, order, begin, end, "cosine", False))

    def all_of_them(rows: Tensor, other: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return (*neighbors(rows * 2, other, 3), items_ahead(rows, labels), *nearest_centroid(rows, other))

    compiled = torch.compile(all_of_them, fullgraph=True, backend="aot_eager")
    expected = all_of_them(rows, other, labels)
    assert all(map(torch.equal, compiled(rows, other, labels), expected))
    with torch.autocast(device, dtype=torch.bfloat16):
        assert all(map(torch.equal, all_of_them(rows, other, labels), expected))
    tracked = neighbors(rows.clone().requires_grad_(), other, 3)[0]
    assert not tracked.requires_grad

    wide = values((2500, 40), torch.float32, device, 2)
    wide_labels = torch.arange(2500, device=device) % 600
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                (
                    *neighbors(wide, None, 12, "euclidean"), *neighbors(wide, None, 1), *neighbors(wide[:9], wide, 300),
                    items_ahead(wide, wide_labels), items_ahead(wide[:9], wide_labels[:9], wide, wide_labels),
                    *nearest_centroid(wide, wide[:50]),
                )
            )  # fmt: skip
    finally:
        torch.set_num_threads(before)
    assert all(map(torch.equal, results[0], results[1])) and all(map(torch.equal, results[0], results[2]))


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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux counts it")
def test_no_table_of_all_pairs_is_made() -> None:
    """20,000 rows: the table of their distances alone would take 1.6 GB."""
    code = (
        PEAK_KIB
        + """
import torch
from robustdml_ext import _load
from robustdml_ext.ops.neighbors import items_ahead, neighbors
torch.set_num_threads(1)
rows, labels = torch.randn(20000, 8), torch.arange(20000) // 4
neighbors(rows[:300], None, 10), items_ahead(rows[:300], labels[:300])
before = peak_kib()
neighbors(rows, None, 10), items_ahead(rows, labels)
print(peak_kib() - before)
"""
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    kilobytes = int(result.stdout)
    assert kilobytes < 120_000, f"{kilobytes} KB more than before"


ROWS = torch.ones(4, 2)
LABELS = torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("function", "changes", "error", "message"),
    [
        (neighbors, {"queries": [[1.0]]}, TypeError, "queries: expected a tensor"),
        (neighbors, {"queries": torch.ones(3)}, ValueError, "queries: expected 2 dimension"),
        (neighbors, {"queries": torch.ones(3, 2, dtype=torch.int64)}, TypeError, "queries: expected dtype"),
        (neighbors, {"gallery": torch.ones(3, 5)}, ValueError, r"gallery: expected \[M, D\] with D = 2"),
        (neighbors, {"gallery": torch.ones(3, 2).double()}, TypeError, "gallery: expected dtype float32"),
        (neighbors, {"gallery": torch.ones(3, 2), "exclude_self": True}, ValueError, "queries' length 4"),
        (neighbors, {"k": 0}, ValueError, "k: expected a whole number from 1 to 1024, got 0"),
        (neighbors, {"k": 1025}, ValueError, "got 1025"),
        (neighbors, {"k": 1.5}, ValueError, "got 1.5"),
        (neighbors, {"distance": "hamming"}, ValueError, "distance: expected one of cosine, euclidean; got 'hamming'"),
        (items_ahead, {"labels": LABELS[:3]}, ValueError, r"labels: expected shape \[N\] = \[4\]"),
        (items_ahead, {"labels": LABELS.float()}, TypeError, "labels: expected dtype int64"),
        (items_ahead, {"gallery": ROWS}, ValueError, "gallery_labels: expected together"),
        (
            items_ahead,
            {"gallery": ROWS, "gallery_labels": LABELS[:2]},
            ValueError,
            r"gallery_labels: expected shape \[M\]",
        ),
        (nearest_centroid, {"centroids": torch.ones(0, 2)}, ValueError, "centroids: .* C >= 1"),
        (nearest_centroid, {"centroids": torch.ones(3, 3)}, ValueError, r"centroids: expected \[C, D\]"),
    ],
)
def test_wrong_arguments_are_named(
    function: Callable[..., object], changes: dict[str, object], error: type[Exception], message: str
) -> None:
    arguments: dict[Callable[..., object], dict[str, object]] = {
        neighbors: {"queries": ROWS, "gallery": None, "k": 1},
        items_ahead: {"queries": ROWS, "labels": LABELS},
        nearest_centroid: {"points": ROWS, "centroids": ROWS},
    }
    with pytest.raises(error, match=message):
        function(**{**arguments[function], **changes})


def test_the_kernels_themselves_guard_memory() -> None:
    operators, zeros = torch.ops.robustdml, torch.zeros(4, dtype=torch.int64)
    order = torch.arange(4)
    for k in (0, 1025):
        with pytest.raises(RuntimeError):
            operators.neighbors(ROWS, None, k, "cosine", False)
    with pytest.raises(RuntimeError):
        operators.neighbors(ROWS, torch.ones(4, 3), 1, "cosine", False)
    for arguments in (
        (order + 1, order, zeros, zeros), (order, order - 1, zeros, zeros), (order, order, zeros, zeros + 5),
        (order, order[:3], zeros, zeros), (order, order, zeros - 1, zeros), (order.int(), order, zeros, zeros),
    ):  # fmt: skip
        with pytest.raises(RuntimeError):
            operators.items_ahead(ROWS, None, *arguments, "cosine", False)
