"""`target_distance` with its gradient, against the gathered [B, T, D] form and its `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustdml_ext import ops


def gathered(embeddings: Tensor, bank: Tensor, targets: Tensor) -> Tensor:
    """Equation 3 as one writes it: gather, subtract, square, mean."""
    return (embeddings[:, None] - bank[targets]).square().sum(2).mean(1)


@pytest.mark.parametrize("count", [1, 10])
@pytest.mark.parametrize("size", [(112, 112, 128), (4096, 60502, 512)], ids=["112x128", "4096x512"])
@pytest.mark.parametrize("variant", ["ours", "gathered", "compiled gathered"])
def test_target_distance(
    variant: str, size: tuple[int, int, int], count: int, measure: Callable[..., None], device: str
) -> None:
    batch, rows, width = size
    embeddings = torch.randn(batch, width, device=device, requires_grad=True)
    bank = torch.randn(rows, width, device=device)
    targets = torch.randint(rows, (batch, count), device=device)
    compiled = torch.compile(gathered, dynamic=False)
    functions: dict[str, Callable[..., Tensor]] = {
        "ours": ops.target_distance,
        "gathered": gathered,
        "compiled gathered": compiled,
    }
    function = functions[variant]

    def value_and_gradient() -> Tensor:
        return torch.autograd.grad(function(embeddings, bank, targets).sum(), embeddings)[0]

    group = f"target_distance value and gradient, B={batch} D={width} T={count}"
    measure(group, variant, value_and_gradient, bytes=4 * batch * width * (count + 2))
