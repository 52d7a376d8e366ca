"""What the attacks' tests attack: small networks trained for a moment, and the ball that they must not leave."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import AwayFromClean, CandidateRank, OutOfTopK, TowardsTargets
from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.models import Embedder, build_embedder

CLASSES, EACH = 6, 8


@cache
def pictures() -> tuple[Tensor, Tensor]:
    """48 images `[48, 1, 8, 8]` of 6 classes: a pattern each, under noise."""
    generator = torch.Generator().manual_seed(3)
    patterns = torch.rand(CLASSES, 1, 8, 8, generator=generator)
    labels = torch.arange(CLASSES * EACH) % CLASSES
    noise = 0.15 * torch.randn(len(labels), 1, 8, 8, generator=generator)
    return (0.2 + 0.6 * patterns[labels] + noise).clamp(0, 1), labels


@cache
def trained(seed: int = 0, steps: int = 15) -> Embedder:
    """An embedder that tells the classes apart, in eval mode. Shared by tests, which must leave it as it is."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_embedder("small", channels=1, embedding_dim=8, widths=(8, 16)).train()
    images, labels = pictures()
    optimizer, loss = torch.optim.Adam(model.parameters(), 3e-2), MultiSimilarityLoss()
    for _ in range(steps):
        optimizer.zero_grad()
        loss(model(images), labels).backward()
        optimizer.step()
    optimizer.zero_grad()
    return model.eval()


def embed(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        embeddings: Tensor = model(images)
    return embeddings


def assert_inside(adversarial: Tensor, images: Tensor, epsilon: float | Tensor, norm: str) -> None:
    """Within the ball, within the pixel range, and fit to be used on."""
    assert adversarial.shape == images.shape and adversarial.dtype == images.dtype
    assert not adversarial.requires_grad and adversarial.is_leaf
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    distance = (adversarial - images).flatten(1).norm(dim=1, p=float("inf") if norm == "linf" else 2)
    assert (distance <= torch.as_tensor(epsilon) + 1e-6).all()


def away(model: nn.Module) -> AwayFromClean:
    return AwayFromClean(embed(model, pictures()[0]))


def objectives() -> dict[str, Any]:
    """One of each kind, on the trained network's embeddings of the pictures."""
    (images, labels), model = pictures(), trained()
    bank, own = embed(model, images), torch.arange(len(images))
    return {
        "towards": TowardsTargets(bank, ((own + 1) % len(own))[:, None]),
        "away": AwayFromClean(bank),
        "topk": OutOfTopK(labels, bank, labels, own),
        "rank": CandidateRank(bank, ((own + 1) % len(own))[:, None], "raise", own),
    }
