"""Retrieval written out pair by pair, and embeddings that tie all the time."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st


def in_order(queries: np.ndarray, items: np.ndarray, distance: str, exclude_self: bool) -> list[list[int]]:
    """Each query's items, nearest first: every distance by itself, in order (distance, index)."""
    orders = []
    for i, query in enumerate(queries.astype(np.float64)):
        order = []
        for j, item in enumerate(items.astype(np.float64)):
            if exclude_self and i == j:
                continue
            if distance == "euclidean":
                order.append((float(((query - item) ** 2).sum()), j))
            else:
                order.append((-float(query @ item) / np.sqrt(float(query @ query) * float(item @ item)), j))
        orders.append([j for _, j in sorted(order)])
    return orders


def labels_for(draw: st.DrawFn, count: int) -> np.ndarray:
    kind = draw(st.sampled_from(["random", "one class", "all distinct", "singletons"]))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    if kind == "one class":
        return np.full(count, -7)
    if kind == "all distinct":
        return random.permutation(count)
    labels = random.integers(0, max(1, count // 3), count) * 1_000_003
    if kind == "singletons":
        labels[: count // 2] = 10**12 + np.arange(count // 2)
    return labels


@st.composite
def integer_embeddings(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Small integers: distances are exact and tie all the time, duplicates included."""
    count, dims = draw(st.integers(1, 40)), draw(st.integers(1, 5))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    embeddings = random.integers(-2, 3, (count, dims)).astype(draw(st.sampled_from([np.float32, np.float64])))
    return embeddings, labels_for(draw, count)
