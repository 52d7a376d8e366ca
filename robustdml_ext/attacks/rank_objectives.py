"""Objectives of attacks on retrieval: who stands where among the neighbors of a query."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdml_ext.attacks.objectives import Objective
from robustdml_ext.attacks.ranking import (
    BLOCK,
    check_gallery,
    check_rows,
    hinge_sums,
    paired_distances,
    prepare,
    squared_distances,
)

DIRECTIONS = ("raise", "lower")


class OutOfTopK(Objective):
    """Pushes the right items out of the query's k nearest: below 0, Recall@k fails. The query moves.

    value_i = τ·log Σ_{p ∈ P_i} exp(s_ip / τ) + τ·log Σ_{n ∈ T_i} exp(−s_in / τ)
    with s the cosine similarity, or the negative squared Euclidean distance; P_i the gallery items of the query's
    class; T_i its k nearest items of other classes; τ the temperature.

    No item of the class is among the k nearest exactly where max_P s < min_T s, so max_P s − min_T s is what an
    attacker wants below 0. Its gradient, though, moves one pair of items at a time, and the next one takes its place;
    the smooth maximum and minimum move all items that are about to. As they bound max and min from outside, a value
    below 0 still proves that the query fails; the bound is off by at most τ·(log|P_i| + log k). Which iterate an attack
    keeps goes by max_P s − min_T s itself.

    Args:
        labels: classes of the attacked images, int64 `[B]`.
        gallery: embeddings of the items searched, `[M, D]`; no gradient flows to them.
        gallery_labels: int64 `[M]`.
        own: row of each attacked image itself in the gallery, int64 `[B]`, which is left out; −1 where it is not there.
        k: ranks to push the class out of.
        temperature: τ, in units of s.
        distance: `"cosine"` (embeddings of any length), or `"euclidean"`.

    A query without an item of its class cannot be found in any case: its value is 0, without gradient.

    Raises:
        TypeError: an argument is no tensor of the expected kind.
        ValueError: shapes do not fit, a row is not in the gallery, a number is out of its range, or a query has fewer
            than k items of other classes (looked at on the CPU).
    """

    def __init__(
        self,
        labels: Tensor,
        gallery: Tensor,
        gallery_labels: Tensor,
        own: Tensor | None = None,
        k: int = 1,
        temperature: float = 0.02,
        distance: str = "cosine",
    ) -> None:
        check_gallery(gallery, distance)
        check_rows("labels", labels, [labels.numel()] if isinstance(labels, Tensor) else [])
        check_rows("gallery_labels", gallery_labels, [len(gallery)])
        if k < 1:
            raise ValueError(f"k: expected a number >= 1, got {k}")
        if not 0 < temperature < float("inf"):
            raise ValueError(f"temperature: expected a finite number above 0, got {temperature}")
        self.k, self.temperature, self.distance = k, temperature, distance
        self._gallery = prepare(gallery, distance)
        same = labels[:, None] == gallery_labels
        self._left_out = torch.zeros_like(same)
        if own is not None:
            check_rows("own", own, [len(labels)], len(gallery), missing=True)
            _mark(self._left_out, own)
        self._positive = same & ~self._left_out
        self._negative = ~same & ~self._left_out
        self._answerable = self._positive.any(1)
        others = self._negative.sum(1)
        if labels.is_cpu and len(labels) and int(others.min()) < k:
            raise ValueError(
                f"k: expected at least k = {k} items of other classes, got {int(others.min())} for a query"
            )

    def __call__(self, embeddings: Tensor) -> Tensor:
        similarity = self._similarity(embeddings)
        tau = self.temperature
        # Rows without any positive would have a gradient of NaN; they are put to a constant first.
        reachable = self._positive | ~self._answerable[:, None]
        nearest = tau * torch.logsumexp((similarity / tau).masked_fill(~reachable, -torch.inf), 1)
        others = similarity.masked_fill(~self._negative, -torch.inf).topk(self.k, dim=1).values
        value = nearest + tau * torch.logsumexp(-others / tau, 1)
        return torch.where(self._answerable, value, 0.0)

    def better_by(self, embeddings: Tensor, values: Tensor) -> Tensor:
        """max_P s − min_T s: below 0 exactly where the query fails, while the smooth value may still be above."""
        similarity = self._similarity(embeddings)
        nearest = similarity.masked_fill(~self._positive, -torch.inf).amax(1)
        others = similarity.masked_fill(~self._negative, -torch.inf).topk(self.k, dim=1).values
        return torch.where(self._answerable, nearest - others[:, -1], 0.0)

    def _similarity(self, embeddings: Tensor) -> Tensor:
        queries = prepare(embeddings, self.distance, detach=False).to(self._gallery.dtype)
        with torch.autocast(queries.device.type, enabled=False):
            if self.distance == "cosine":
                return queries @ self._gallery.T
            return -squared_distances(queries, self._gallery)


class CandidateRank(Objective):
    """Raises or lowers the rank of chosen candidates among a query's neighbors; the query moves.

    QA+ and QA− of Zhou et al. 2020, "Adversarial Ranking Attack and Defense", as means:
        raise: value_i = mean_{c ∈ C_i} mean_x [d(q_i, c) − d(q_i, x)]₊,
        lower: value_i = mean_{c ∈ C_i} mean_x [d(q_i, x) − d(q_i, c)]₊,
    over all gallery items x, [·]₊ = max(·, 0). A value of 0 means that all candidates are at the very top (or bottom).
    d is the cosine distance, or the squared Euclidean one (the paper's plain distance has no slope at 0, and the same
    ranks). The paper's term that keeps the query's other neighbors is left out.

    The gallery is gone through in blocks: memory O(B·(block + C + D)), never `[B, M]` nor `[B, C, M]`.

    Args:
        gallery: embeddings of the items searched, `[M, D]`; no gradient flows to them.
        candidates: rows of the gallery, int64 `[B, C]`.
        direction: `"raise"` (to a lower rank number, towards the top), or `"lower"`.
        own: row of each attacked image itself in the gallery, int64 `[B]`, which is left out; −1 where it is not there.
        distance: `"cosine"` (embeddings of any length), or `"euclidean"`.

    Raises:
        TypeError: an argument is no tensor of the expected kind.
        ValueError: shapes do not fit, a row is not in the gallery (looked at on the CPU), or an unknown name.
    """

    def __init__(
        self,
        gallery: Tensor,
        candidates: Tensor,
        direction: str = "raise",
        own: Tensor | None = None,
        distance: str = "cosine",
    ) -> None:
        check_gallery(gallery, distance)
        _check_direction(direction)
        if not isinstance(candidates, Tensor) or candidates.dim() != 2 or candidates.shape[1] < 1:
            got = list(candidates.shape) if isinstance(candidates, Tensor) else type(candidates).__name__
            raise ValueError(f"candidates: expected rows of the gallery, int64 [B, C] with C >= 1, got {got}")
        check_rows("candidates", candidates, list(candidates.shape), len(gallery))
        if own is not None:
            check_rows("own", own, [len(candidates)], len(gallery), missing=True)
        self.direction, self.distance = direction, distance
        self._gallery = prepare(gallery, distance)
        self._candidates, self._own = candidates, own

    def __call__(self, embeddings: Tensor) -> Tensor:
        queries = prepare(embeddings, self.distance, detach=False).to(self._gallery.dtype)
        with torch.autocast(queries.device.type, enabled=False):
            count, weight, center, square = self._active(queries.detach())
            chosen = self._gallery[self._candidates]
            of_candidates = (paired_distances(queries[:, None], chosen, self.distance) * count).sum(1)
            # Σ_x w_x d(q, x), of the weights, the weighted sum of the items, and that of their squares.
            along = (queries * center).sum(1)
            if self.distance == "cosine":
                of_items = weight - along
            else:
                of_items = weight * queries.square().sum(1) - 2 * along + square
        pairs = self._candidates.shape[1] * len(self._gallery)
        difference = of_candidates - of_items
        return (difference if self.direction == "raise" else -difference) / pairs

    @torch.no_grad()
    def _active(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Which hinges are above 0: how many of each candidate `[B, C]`; and of the items, with w_x the number of
        candidates they are active with: Σ w_x `[B]`, Σ w_x·x `[B, D]`, Σ w_x‖x‖² `[B]`."""
        gallery, candidates = self._gallery, self._candidates
        thresholds, order = paired_distances(queries[:, None], gallery[candidates], self.distance).sort(1)
        rows, columns = candidates.shape
        found = torch.zeros(rows, columns + 1, dtype=queries.dtype, device=queries.device)
        weight, square = queries.new_zeros(rows), queries.new_zeros(rows)
        center = torch.zeros_like(queries)
        for begin in range(0, len(gallery), BLOCK):
            items = gallery[begin : begin + BLOCK]
            distances = squared_distances(queries, items) if self.distance == "euclidean" else 1 - queries @ items.T
            # How many candidates are at most (raise), or less than (lower), as far as the item.
            nearer = torch.searchsorted(thresholds, distances, right=self.direction == "raise")
            weights = (columns - nearer if self.direction == "raise" else nearer).to(queries.dtype)
            ones = torch.ones_like(weights)
            if self._own is not None:
                own = self._own - begin
                here = (own >= 0) & (own < len(items))
                left_out = torch.zeros_like(weights, dtype=torch.bool)
                _mark(left_out, torch.where(here, own, -1))
                weights, ones = weights.masked_fill(left_out, 0), ones.masked_fill(left_out, 0)
            found.scatter_add_(1, nearer, ones)
            weight += weights.sum(1)
            center += weights @ items
            if self.distance == "euclidean":
                square += weights @ items.square().sum(1)
        # Item x is active with the sorted candidates from `nearer` on (raise), or with those before it (lower).
        raising = self.direction == "raise"
        count = found.cumsum(1)[:, :columns] if raising else found.flip(1).cumsum(1).flip(1)[:, 1:]
        return torch.zeros_like(count).scatter_(1, order, count), weight, center, square


class RankAmong(Objective):
    """Raises or lowers the rank that the attacked image itself takes for given queries; the gallery item moves.

    CA+ and CA− of Zhou et al. 2020, "Adversarial Ranking Attack and Defense", as means:
        raise: value_i = mean_q mean_x [d(q, c_i) − d(q, x)]₊,
        lower: value_i = mean_q mean_x [d(q, x) − d(q, c_i)]₊,
    over the queries q and all gallery items x, with c_i the attacked image's embedding and d as in `CandidateRank`. The
    gallery is gone through in blocks: memory O(Q·block), never `[B, Q, M]`.

    Args:
        queries: embeddings of the queries, `[Q, D]` for all attacked images, or `[B, Q, D]`, each image's own.
        gallery: embeddings of the items searched, `[M, D]`; no gradient flows to either.
        direction: `"raise"` (to a lower rank number, towards the top), or `"lower"`.
        own: row of each attacked image itself in the gallery, int64 `[B]`, which is left out; −1 where it is not there.
        query_rows: rows of the queries themselves in the gallery, int64 `[Q]` or `[B, Q]`, left out for that query.
        distance: `"cosine"` (embeddings of any length), or `"euclidean"`.

    Raises:
        TypeError: an argument is no tensor of the expected kind.
        ValueError: shapes do not fit, a row is not in the gallery (looked at on the CPU), or an unknown name.
    """

    def __init__(
        self,
        queries: Tensor,
        gallery: Tensor,
        direction: str = "raise",
        own: Tensor | None = None,
        query_rows: Tensor | None = None,
        distance: str = "cosine",
    ) -> None:
        check_gallery(gallery, distance)
        _check_direction(direction)
        if not isinstance(queries, Tensor) or not queries.is_floating_point():
            got = queries.dtype if isinstance(queries, Tensor) else type(queries).__name__
            raise TypeError(f"queries: expected a floating-point tensor, got {got}")
        if queries.dim() not in (2, 3) or queries.shape[-1] != gallery.shape[1] or queries.shape[-2] < 1:
            expected = f"[Q, {gallery.shape[1]}] or [B, Q, {gallery.shape[1]}], Q >= 1"
            raise ValueError(f"queries: expected {expected}; got {list(queries.shape)}")
        if own is not None:
            check_rows("own", own, [len(own)] if queries.dim() == 2 else [len(queries)], len(gallery), missing=True)
        if query_rows is not None:
            check_rows("query_rows", query_rows, list(queries.shape[:-1]), len(gallery), missing=True)
        self.direction, self.distance = direction, distance
        self._gallery = prepare(gallery, distance)
        self._queries = prepare(queries, distance).to(self._gallery.dtype)
        self._own, self._query_rows = own, query_rows

    def __call__(self, embeddings: Tensor) -> Tensor:
        moved = prepare(embeddings, self.distance, detach=False).to(self._gallery.dtype)
        queries = self._queries.expand(len(moved), *self._queries.shape[-2:])
        with torch.autocast(moved.device.type, enabled=False):
            distances = paired_distances(moved[:, None], queries, self.distance)
            count, total = self._active(distances.detach())
        value = (distances * count - total).sum(1) / (queries.shape[1] * len(self._gallery))
        return value if self.direction == "raise" else -value

    @torch.no_grad()
    def _active(self, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Of every image and query `[B, Q]`: how many hinges are above 0, and the sum of their items' distances."""
        shared = self._queries.dim() == 2
        rows = self._queries.flatten(0, -2)
        thresholds = distances.T if shared else distances.reshape(-1, 1)
        above = self.direction == "lower"
        # [B, Q, L], and of the queries' shape: [Q, B, L] where all images share them.
        left_out = self._left_out(distances)
        left_out = left_out.transpose(0, 1) if shared else left_out.reshape(-1, 1, left_out.shape[-1])
        found = hinge_sums(rows, thresholds.contiguous(), self._gallery, self.distance, above, left_out)
        count, total = (x.T if shared else x.reshape(distances.shape) for x in found)
        return count.to(distances.dtype), total.to(distances.dtype)

    def _left_out(self, distances: Tensor) -> Tensor:
        """Gallery rows that do not count for an image and a query, −1 for none: int64 `[B, Q, 2]`."""
        nothing = torch.full(distances.shape, -1, dtype=torch.int64, device=distances.device)
        own = nothing if self._own is None else self._own[:, None].expand(distances.shape)
        query = nothing if self._query_rows is None else self._query_rows.expand(distances.shape)
        return torch.stack([own, torch.where(query == own, -1, query)], -1)


def _check_direction(direction: str) -> None:
    if direction not in DIRECTIONS:
        raise ValueError(f"direction: expected 'raise' or 'lower', got {direction!r}")


def _mark(marked: Tensor, rows: Tensor) -> None:
    """Sets entry rows[i] of row i, where there is one."""
    marked.scatter_(1, rows.clamp_min(0)[:, None], (rows >= 0)[:, None])
