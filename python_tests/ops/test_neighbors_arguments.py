"""`neighbors`, `items_ahead`, `nearest_centroid` as operators: compiled, threads, memory, wrong arguments."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from neighbor_cases import classes
from strategies import DEVICES, values
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext.ops.neighbors import items_ahead, nearest_centroid, neighbors


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
