"""Exact nearest neighbors: top-k, the nearest centroid, and what recall at every depth follows from."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._neighbors_reference import compute_type, items_ahead_reference, neighbors_reference
from robustdml_ext.ops._registration import define

DISTANCES = ("cosine", "euclidean")
MOST_NEIGHBORS = 1024
NONE_OF_THE_CLASS = torch.iinfo(torch.int64).max


def _neighbors_fake(
    queries: Tensor, gallery: Tensor | None, k: int, distance: str, exclude_self: bool
) -> tuple[Tensor, Tensor]:
    shape = (queries.shape[0], k)
    return queries.new_empty(shape, dtype=compute_type(queries)), queries.new_empty(shape, dtype=torch.int64)


_neighbors = define(
    "neighbors(Tensor queries, Tensor? gallery, int k, str distance, bool exclude_self) -> (Tensor, Tensor)",
    neighbors_reference,
    _neighbors_fake,
)


def _items_ahead_fake(queries: Tensor, *arguments: object) -> Tensor:
    return queries.new_empty(queries.shape[0], dtype=torch.int64)


# Queries of one class lie side by side in query_order. The items of query i's class are members[begin[i]:end[i]], the
# lowest index first.
_items_ahead = define(
    "items_ahead(Tensor queries, Tensor? gallery, Tensor query_order, Tensor members, Tensor begin, Tensor end, "
    "str distance, bool exclude_self) -> Tensor",
    items_ahead_reference,
    _items_ahead_fake,
)


def _check_sets(queries: Tensor, gallery: Tensor | None, distance: str, exclude_self: bool) -> None:
    _check.tensor("queries", queries, rank=2)
    if gallery is not None:
        _check.tensor("gallery", gallery, dtypes=(queries.dtype,), rank=2)
        if gallery.shape[1] != queries.shape[1] or gallery.device != queries.device:
            raise ValueError(
                f"gallery: expected [M, D] with D = {queries.shape[1]} on {queries.device}, "
                f"got {_check.describe(gallery)}"
            )
        if exclude_self and gallery.shape[0] != queries.shape[0]:
            raise ValueError(
                f"exclude_self: expected a gallery of the queries' length {queries.shape[0]}, "
                f"got {_check.describe(gallery)}"
            )
    if distance not in DISTANCES:
        raise ValueError(f"distance: expected one of {', '.join(DISTANCES)}; got {distance!r}")


def neighbors(
    queries: Tensor, gallery: Tensor | None, k: int, distance: str = "cosine", *, exclude_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The k nearest items of every query, nearest first: exact, and the same on every run and thread count.

    Cosine distance: 1 - <x, y> / (|x| |y|), in 0 .. 2; a zero vector is at distance 1 from everything. Euclidean
    distance: |x - y|. Equal distances are ordered by the lower index. No [N, M] tensor is made; where the queries are
    the gallery, each pair's product is computed once.

    Exact means exact for the products as they are rounded in the precision of the input (half precision: in float32):
    two items whose distances differ by less than the rounding of <x, y> may change places. A product is one chain of
    multiply-adds in the order of the components, so (x, y) and (y, x) round alike, equal rows tie, and a Euclidean
    distance between equal rows is 0; between nearly equal ones it loses digits, as |x|² + |y|² - 2 <x, y> does. The
    data may have any scale: rows are brought to about 1 by powers of two before any square is taken.

    A row with a NaN or an infinity is nobody's neighbor and has none. Where there are fewer than k neighbors, the
    places that remain hold index -1 and distance infinity. No gradients.

    Args:
        queries: `[N, D]`.
        gallery: items to search, `[M, D]`, dtype and device as `queries`. None: the queries themselves, each without
            itself (left out by its index, so that a duplicate counts).
        k: how many, 1 to 1024. Lists take about 2.5 k (k + 24 for small k) numbers and indices a query while they grow.
        distance: "cosine" or "euclidean".
        exclude_self: leave item i of a given gallery out for query i (attacked copies of the gallery's images).

    Returns:
        Distances `[N, k]`, float32 for half-precision input, and indices int64 `[N, k]`.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes do not fit, k outside 1 .. 1024, or another distance.
    """
    _check_sets(queries, gallery, distance, exclude_self)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= MOST_NEIGHBORS:
        raise ValueError(f"k: expected a whole number from 1 to {MOST_NEIGHBORS}, got {k!r}")
    detached = None if gallery is None else gallery.detach()
    distances, indices = _neighbors(queries.detach(), detached, k, distance, exclude_self)
    return distances, indices


def items_ahead(
    queries: Tensor,
    labels: Tensor,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    distance: str = "cosine",
    *,
    exclude_self: bool = False,
) -> Tensor:
    """How many items come before the nearest one of the query's class: recall at every depth k, without lists.

    A query has an item of its class among its k nearest where this count is below k, so that
    `(items_ahead(x, labels) < k).float().mean()` is Recall@k, for any k and any number of them. Nearer items count, and
    equally near ones of a lower index; distances, order, and rows that are not finite are as in `neighbors`. Memory:
    O((N + M) D). No gradients.

    Args:
        queries: `[N, D]`.
        labels: classes of the queries, int64 `[N]`.
        gallery: items to search, `[M, D]`, dtype and device as `queries`. None: the queries themselves, each without
            itself.
        gallery_labels: classes of the items, int64 `[M]`; given where the gallery is.
        distance: "cosine" or "euclidean".
        exclude_self: leave item i of a given gallery out for query i.

    Returns:
        Counts, int64 `[N]`; the largest int64, which is below no k, where there is no item of the class.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes do not fit, or another distance.
    """
    _check_sets(queries, gallery, distance, exclude_self)
    _check.tensor("labels", labels, dtypes=(torch.int64,))
    _check.shape("labels", labels, [len(queries)], "[N]")
    if (gallery is None) != (gallery_labels is None):
        raise ValueError("gallery_labels: expected together with gallery, got only one of them")
    item_labels = labels
    if gallery is not None and gallery_labels is not None:
        _check.tensor("gallery_labels", gallery_labels, dtypes=(torch.int64,))
        _check.shape("gallery_labels", gallery_labels, [len(gallery)], "[M]")
        item_labels = gallery_labels
    for name, value in (("labels", labels), ("gallery_labels", item_labels)):
        if value.device != queries.device:
            raise ValueError(f"{name}: expected it on {queries.device}, got {_check.describe(value)}")
    members = torch.argsort(item_labels, stable=True)
    ordered = item_labels[members]
    begin = torch.searchsorted(ordered, labels)
    end = torch.searchsorted(ordered, labels, right=True)
    query_order = torch.argsort(begin, stable=True)
    detached = None if gallery is None else gallery.detach()
    counts: Tensor = _items_ahead(queries.detach(), detached, query_order, members, begin, end, distance, exclude_self)
    return counts


def nearest_centroid(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest of C centroids for each point, in Euclidean distance: the assignment step of k-means.

    Equal distances go to the lower index. A point that is not finite has index -1 and distance infinity, and so have
    all points where no centroid is finite. Precision as in `neighbors`. No gradients.

    Args:
        points: `[N, D]`.
        centroids: `[C, D]`, C >= 1, dtype and device as `points`.

    Returns:
        Indices int64 `[N]` and squared distances `[N]`, float32 for half-precision input.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes do not fit, or there is no centroid.
    """
    _check.tensor("points", points, rank=2)
    _check.tensor("centroids", centroids, dtypes=(points.dtype,), rank=2)
    if centroids.shape[1] != points.shape[1] or not len(centroids) or centroids.device != points.device:
        raise ValueError(
            f"centroids: expected [C, D] with C >= 1 and D = {points.shape[1]} on {points.device}, "
            f"got {_check.describe(centroids)}"
        )
    squares, indices = _neighbors(points.detach(), centroids.detach(), 1, "squared_euclidean", False)
    return indices[:, 0], squares[:, 0]
