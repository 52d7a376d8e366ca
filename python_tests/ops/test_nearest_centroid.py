"""`nearest_centroid` against every distance by itself."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from neighbor_cases import counts, exact_distances, exact_neighbors, grid, widths
from strategies import devices, dtypes, seeds

from robustdml_ext.ops.neighbors import nearest_centroid


@given(counts, st.sampled_from([1, 2, 31, 96, 97, 130]), widths, dtypes(), devices(), seeds())
def test_nearest_centroid(n: int, m: int, width: int, dtype: torch.dtype, device: str, seed: int) -> None:
    points, centroids = grid((n, width), dtype, device, seed), grid((m, width), dtype, device, seed + 1)
    index, squares = nearest_centroid(points, centroids)
    table = exact_distances(points, centroids, "euclidean", False).square()
    assert torch.equal(index.cpu(), exact_neighbors(table.round(), 1)[1][:, 0])
    assert torch.equal(squares.double().cpu(), table.round().amin(1)) and squares.shape == index.shape == (n,)
