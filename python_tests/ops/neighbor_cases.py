"""Neighbors by every distance of its own, sorted, and rows and classes that tie all the time."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.ops.neighbors import NONE_OF_THE_CLASS

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
