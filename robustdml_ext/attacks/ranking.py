"""Distances and ranks against a gallery, for the objectives that move them and for reports of what was moved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext import ops

DISTANCES = ("cosine", "euclidean")
# Gallery items looked at in one go: B × this many distances are held.
BLOCK = 8192


def normalized_rank(
    embeddings: Tensor,
    gallery: Tensor,
    candidates: Tensor,
    own: Tensor | None = None,
    distance: str = "cosine",
) -> Tensor:
    """Where candidates stand among a query's neighbors: 0, the very top, to 1, the very bottom.

    The number of items that come before the candidate, over that of all other items (the query's own row is none of
    them): an exact count, equal distances ordered by the lower index, computed in float64. A candidate that is alone
    has rank 0.

    Args:
        embeddings: queries, `[B, D]`.
        gallery: items, `[M, D]`.
        candidates: rows of the gallery, int64 `[B]` or `[B, C]`.
        own: row of each query itself in the gallery, int64 `[B]`, left out; −1 where it is not there.
        distance: `"cosine"`, or `"euclidean"`.

    Returns:
        float64, of the candidates' shape.

    Raises:
        TypeError: an argument is no tensor of the expected kind.
        ValueError: shapes do not fit, a row is not in the gallery (looked at on the CPU), or an unknown distance.
    """
    check_gallery(gallery, distance)
    if not isinstance(embeddings, Tensor) or embeddings.dim() != 2 or embeddings.shape[1] != gallery.shape[1]:
        got = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise ValueError(f"embeddings: expected [B, {gallery.shape[1]}], got {got}")
    shape = candidates.shape if isinstance(candidates, Tensor) and candidates.dim() in (1, 2) else torch.Size([-1])
    check_rows("candidates", candidates, [len(embeddings), *shape[1:]], len(gallery))
    queries, items = embeddings.detach().double(), gallery.detach().double()
    rows = candidates.reshape(len(queries), -1)
    # With a class for every item, the nearest item of the class is the candidate.
    count = ops.items_ahead(
        queries.repeat_interleave(rows.shape[1], 0), rows.flatten().contiguous(),
        items, torch.arange(len(items), device=items.device), distance,
    ).reshape(rows.shape)  # fmt: skip
    others = torch.full((len(queries), 1), len(items) - 1, dtype=torch.int64, device=items.device)
    if own is not None:
        check_rows("own", own, [len(queries)], len(items), missing=True)
        prepared = [prepare(x, distance) for x in (queries, items)]
        of_candidate = paired_distances(prepared[0][:, None], prepared[1][rows], distance)
        of_own = paired_distances(prepared[0], prepared[1][own.clamp_min(0)], distance)[:, None]
        tie = (of_own == of_candidate) & (own[:, None] < rows)
        there = (own[:, None] >= 0) & (own[:, None] != rows)
        count = count - (there & ((of_own < of_candidate) | tie)).long()
        others = others - there.long()
    return (count / others.clamp_min(1)).reshape(candidates.shape)


def check_gallery(gallery: object, distance: str) -> None:
    """Raises TypeError or ValueError where the gallery is no `[M, D]`, M >= 1, or the distance has another name."""
    if not isinstance(gallery, Tensor) or not gallery.is_floating_point():
        got = gallery.dtype if isinstance(gallery, Tensor) else type(gallery).__name__
        raise TypeError(f"gallery: expected a floating-point tensor [M, D], got {got}")
    if gallery.dim() != 2 or len(gallery) < 1:
        raise ValueError(f"gallery: expected [M, D] with M >= 1, got {list(gallery.shape)}")
    if distance not in DISTANCES:
        raise ValueError(f"distance: expected 'cosine' or 'euclidean', got {distance!r}")


def check_rows(
    name: str, rows: object, shape: Sequence[int], count: int | None = None, *, missing: bool = False
) -> None:
    """Checks an int64 tensor of a shape; with a count, of rows 0 to count − 1 (looked at on the CPU).

    Args:
        missing: −1 is allowed.

    Raises:
        TypeError, ValueError: it is none.
    """
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
        got = rows.dtype if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(f"{name}: expected an int64 tensor, got {got}")
    if list(rows.shape) != list(shape):
        raise ValueError(f"{name}: expected shape {list(shape)}, got {list(rows.shape)}")
    if count is not None and rows.is_cpu and rows.numel():
        lowest, highest = (int(bound) for bound in rows.aminmax())
        if lowest < (-1 if missing else 0) or highest >= count:
            allowed = f"0 to {count - 1}" + (", or −1 for none" if missing else "")
            raise ValueError(f"{name}: expected rows of the gallery, {allowed}; got {lowest} to {highest}")


def full(embeddings: Tensor) -> Tensor:
    """The embeddings in float32, or float64 where they are."""
    return embeddings.to(torch.promote_types(embeddings.dtype, torch.float32))


def prepare(embeddings: Tensor, distance: str, *, detach: bool = True) -> Tensor:
    """Embeddings in full precision; of unit length for the cosine distance."""
    rows = full(embeddings.detach() if detach else embeddings)
    return F.normalize(rows, dim=-1) if distance == "cosine" else rows


def paired_distances(x: Tensor, y: Tensor, distance: str) -> Tensor:
    """Cosine distance of unit vectors, or squared Euclidean distance, along the last dimension; broadcast."""
    return 1 - (x * y).sum(-1) if distance == "cosine" else (x - y).square().sum(-1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """‖x_i − y_j‖² of `[B, D]` and `[M, D]`: `[B, M]`, without a tensor of differences."""
    return x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * (x @ y.T)


def hinge_sums(
    rows: Tensor, thresholds: Tensor, gallery: Tensor, distance: str, above: bool, left_out: Tensor
) -> tuple[Tensor, Tensor]:
    """Of the items nearer to row r than a threshold (or, with `above`, farther): their number, and sum of distances.

    Args:
        rows: `[R, D]`, prepared.
        thresholds: `[R, V]`, in the distance of `paired_distances`.
        gallery: `[M, D]`, prepared.
        left_out: items that do not count for a row and threshold, distinct ones or −1 for none, int64 `[R, V, L]`.

    Returns:
        Both float64 `[R, V]`.
    """
    count = torch.zeros(thresholds.shape, dtype=torch.float64, device=rows.device)
    total = torch.zeros_like(count)
    for begin in range(0, len(gallery), BLOCK):
        items = gallery[begin : begin + BLOCK]
        distances = 1 - rows @ items.T if distance == "cosine" else squared_distances(rows, items)
        found = _one_threshold if thresholds.shape[1] == 1 else _sorted_thresholds
        number, sums = found(distances, thresholds, above)
        count += number
        total += sums
        local = left_out - begin
        here = (local >= 0) & (local < len(items))
        # The very numbers that were counted, so that rounding leaves nothing behind.
        away = distances.gather(1, local.clamp(0, len(items) - 1).flatten(1)).reshape(local.shape)
        active = here & ((away > thresholds[..., None]) if above else (away < thresholds[..., None]))
        count -= active.sum(-1)
        total -= torch.where(active, away, 0).double().sum(-1)
    return count, total


def _one_threshold(distances: Tensor, thresholds: Tensor, above: bool) -> tuple[Tensor, Tensor]:
    """Number and sum `[R, 1]` of the distances beyond the threshold: one look at each, where sorting takes many."""
    active = distances > thresholds if above else distances < thresholds
    total = torch.where(active, distances, 0).sum(1, keepdim=True, dtype=torch.float64)
    return active.sum(1, keepdim=True), total


def _sorted_thresholds(distances: Tensor, thresholds: Tensor, above: bool) -> tuple[Tensor, Tensor]:
    """Numbers and sums `[R, V]` of the distances beyond each of many thresholds, from one sort."""
    ordered = distances.sort(1).values
    sums = F.pad(ordered.double().cumsum(1), (1, 0))
    nearer = torch.searchsorted(ordered, thresholds, right=above)
    below = sums.gather(1, nearer)
    if above:
        return distances.shape[1] - nearer, sums[:, -1:] - below
    return nearer, below
