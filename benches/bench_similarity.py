"""The learned similarity over all pairs, against the concatenating network, the split first layer and `torch.compile`.

The concatenating network takes seconds a round on a CPU (its pairs alone are 524 MB), so it runs on a sixteenth of the
embeddings there: its figure times 16 is the one to compare. The bare passes are the B·C·H multiply-adds as the vendor's
matrix product does them: one forward, two backward (towards embeddings and prototypes).
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.models.similarity import SimilarityNetwork
from robustdml_ext.ops.similarity import similarity

BATCH, CLASSES, DIM, HIDDEN = 128, 1000, 512, 512


def concatenated(network: nn.Sequential, embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """As the paper's published code does it."""
    b, c = len(embeddings), len(prototypes)
    pairs = torch.cat([prototypes[None].expand(b, c, -1), embeddings[:, None].expand(b, c, -1)], dim=2)
    return nn.Sequential.forward(network, pairs).squeeze(2)


def split(network: nn.Sequential, embeddings: Tensor, prototypes: Tensor) -> Tensor:
    """One product a side, and the [B, C, H] activations."""
    first, leaky, dropout, last = network
    of_prototype, of_embedding = first.weight.split(DIM, dim=1)
    hidden = F.linear(embeddings, of_embedding)[:, None] + F.linear(prototypes, of_prototype, first.bias)[None]
    scores: Tensor = last(dropout(leaky(hidden))).squeeze(2)
    return scores


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("variant", ["ours", "concatenated", "split", "compiled split"])
def test_network(variant: str, mode: str, measure: Callable[..., None], device: str) -> None:
    network = SimilarityNetwork(DIM, HIDDEN).to(device).train(mode == "training")
    part = 16 if variant == "concatenated" and device == "cpu" else 1
    embeddings = torch.randn(BATCH // part, DIM, device=device, requires_grad=True)
    prototypes = torch.randn(CLASSES, DIM, device=device, requires_grad=True)
    compiled = torch.compile(split, dynamic=False)
    functions: dict[str, Callable[..., Tensor]] = {
        "ours": lambda network, e, p: network(e, p),
        "concatenated": concatenated,
        "split": split,
        "compiled split": compiled,
    }
    inputs = [embeddings, prototypes, *network.parameters()]
    grad = torch.randn(BATCH // part, CLASSES, device=device)

    def forward_and_backward() -> object:
        return torch.autograd.grad(functions[variant](network, embeddings, prototypes), inputs, grad)

    group = f"similarity network, forward + backward, {mode}, B={BATCH} C={CLASSES} d={DIM} hidden={HIDDEN}"
    measure(group, variant if part == 1 else f"{variant}, 1/{part} of it", forward_and_backward)


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("variant", ["ours", "ours, no dropout", "bare multiply-adds"])
def test_pass(variant: str, direction: str, measure: Callable[..., None], device: str) -> None:
    e, p = torch.randn(BATCH, HIDDEN, device=device), torch.randn(CLASSES, HIDDEN, device=device)
    weight, bias = torch.randn(HIDDEN, device=device), torch.zeros(1, device=device)
    grad, seed = torch.randn(BATCH, CLASSES, device=device), torch.ones(1, dtype=torch.int64, device=device)
    dropout = 0.25 if variant == "ours" else 0.0

    def ours_forward() -> object:
        return similarity(e, p, weight, bias, dropout=dropout, seed=seed)

    def ours_backward() -> object:
        dropped, key = (16384, seed) if dropout else (0, None)
        return torch.ops.robustdml.similarity_backward(grad, e, p, weight, key, 0.1, dropped)

    bare: dict[str, Callable[[], object]] = {"forward": lambda: e @ p.T, "backward": lambda: (grad @ p, grad.T @ e)}
    ours: dict[str, Callable[[], object]] = {"forward": ours_forward, "backward": ours_backward}
    job = bare[direction] if variant == "bare multiply-adds" else ours[direction]
    measure(f"similarity pass, {direction}, B={BATCH} C={CLASSES} hidden={HIDDEN}", variant, job)
