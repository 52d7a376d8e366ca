"""What the operators of `neighbors` mean, in plain PyTorch: blocks of rows of the N x M scores, sorted."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

# Scores held at a time: 32 MB of float64.
BLOCK_ELEMENTS = 2**22


def compute_type(rows: Tensor) -> torch.dtype:
    return torch.promote_types(rows.dtype, torch.float32)


def _scale_to_one(largest: float, dtype: torch.dtype) -> float:
    """A power of two that brings entries up to `largest` to about 1: no overflow later, no rounding now."""
    bound = 125 if dtype == torch.float32 else 1021
    return math.ldexp(1.0, -min(max(math.frexp(largest)[1], -bound), bound))


def _unit(rows: Tensor) -> Tensor:
    """Rows of length 1; zeros stay zeros."""
    largest = rows.abs().amax(1, keepdim=True) if rows.shape[1] else rows.new_zeros(len(rows), 1)
    rows = rows / torch.where(largest > 0, largest, 1.0)
    length = rows.double().square().sum(1, keepdim=True).sqrt().clamp_min(1.0)
    return (rows / length).to(rows.dtype)


def _originals(items: Tensor) -> Tensor:
    """[M]: the first row that is this row bit for bit.

    A matrix product may round the same product differently at the edge of a tile; equal rows would then not tie.
    """
    count = len(items)
    positions = torch.arange(count, device=items.device)
    if not items.numel():
        return torch.zeros_like(positions)
    inverse = torch.unique(items + 0.0, dim=0, return_inverse=True)[1]  # -0.0 becomes 0.0
    return torch.full_like(positions, count).scatter_reduce(0, inverse, positions, "amin")[inverse]


def _blocks_of_scores(
    queries: Tensor, gallery: Tensor | None, distance: str, exclude_self: bool
) -> tuple[float, Iterator[tuple[Tensor, Tensor]]]:
    """What rows were multiplied by, and (row numbers, scores [rows, M]) for a block of queries at a time.

    Scores are larger where an item is nearer: the cosine, or -|x - y|²/2. A pair without one (NaN, or self left out)
    has -infinity.
    """
    dtype = compute_type(queries)
    sets = [queries.to(dtype)] + ([] if gallery is None else [gallery.to(dtype)])
    sets = [torch.where(rows.isfinite().all(1, keepdim=True), rows, torch.nan) for rows in sets]
    scale = 1.0
    if distance == "cosine":
        sets = [_unit(rows) for rows in sets]
    else:
        entries = [float(rows.nan_to_num(0.0).abs().max()) for rows in sets if rows.numel()]
        scale = _scale_to_one(max(entries), dtype) if any(entries) else 1.0
        sets = [rows * scale for rows in sets]
    q, x = sets[0], sets[-1]
    original = _originals(x)
    unique = bool((original == torch.arange(len(x), device=x.device)).all())
    leave_self_out = exclude_self or gallery is None

    def blocks() -> Iterator[tuple[Tensor, Tensor]]:
        rows_at_once = max(1, BLOCK_ELEMENTS // max(1, len(x)))
        for start in range(0, len(q), rows_at_once):
            rows = torch.arange(start, min(start + rows_at_once, len(q)), device=q.device)
            with torch.autocast(x.device.type, enabled=False):  # a generator runs under its caller's
                scores = q[rows] @ x.T
            if distance != "cosine":
                scores = scores - (q[rows].square().sum(1)[:, None] + x.square().sum(1)) / 2
            if not unique:
                scores = scores[:, original]
            if leave_self_out:
                scores[rows - start, rows] = -torch.inf
            yield rows, torch.where(scores.isnan(), -torch.inf, scores)

    return scale, blocks()


def neighbors_reference(
    queries: Tensor, gallery: Tensor | None, k: int, distance: str, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    """Distances and indices `[N, k]`; the meaning of `robustdml::neighbors`."""
    scale, blocks = _blocks_of_scores(queries, gallery, distance, exclude_self)
    best = queries.new_full((len(queries), k), -torch.inf, dtype=compute_type(queries))
    indices = queries.new_full((len(queries), k), -1, dtype=torch.int64)
    for rows, scores in blocks:
        ordered, order = torch.sort(scores, dim=1, descending=True, stable=True)
        places = min(k, scores.shape[1])
        best[rows, :places] = ordered[:, :places]
        indices[rows, :places] = torch.where(ordered[:, :places] > -torch.inf, order[:, :places], -1)
    if distance == "cosine":
        return (1 - best).clamp_min(0), indices
    squares = (-2 * best).clamp_min(0)
    return (squares.sqrt() / scale if distance == "euclidean" else squares / scale / scale), indices


def items_ahead_reference(
    queries: Tensor,
    gallery: Tensor | None,
    query_order: Tensor,
    members: Tensor,
    begin: Tensor,
    end: Tensor,
    distance: str,
    exclude_self: bool,
) -> Tensor:
    """Counts `[N]`; the meaning of `robustdml::items_ahead`.

    It needs no sorting: the nearest item of the class is found among the class alone, then the items in front of it
    are counted.
    """
    _, blocks = _blocks_of_scores(queries, gallery, distance, exclude_self)
    count = len(members)
    position = torch.arange(count, device=queries.device)
    ahead = torch.full_like(begin, torch.iinfo(torch.int64).max)
    for rows, scores in blocks:
        sizes = (end - begin)[rows][:, None]
        steps = torch.arange(int(sizes.max()), device=queries.device)
        if not len(steps):
            continue
        own = members[(begin[rows][:, None] + steps).clamp_max(count - 1)]
        matches = scores.gather(1, own).masked_fill_(steps >= sizes, -torch.inf)
        best = matches.amax(1, keepdim=True)
        nearest = torch.where(matches == best, own, count).amin(1, keepdim=True)
        closer = (scores > best).sum(1) + ((scores == best) & (position < nearest)).sum(1)
        ahead[rows] = torch.where(best[:, 0] > -torch.inf, closer, torch.iinfo(torch.int64).max)
    return ahead
