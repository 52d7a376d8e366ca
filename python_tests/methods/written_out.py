"""EAT's equations written out plainly, one image set and one member at a time, to hold the methods to."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext.methods import Batch
from robustdml_ext.models import Embedder, build_embedder


def network(seed: int = 0, dim: int = 8) -> Embedder:
    """A small embedder in float64 whose running statistics are not those of its start."""
    torch.manual_seed(seed)
    model = build_embedder("small", channels=1, embedding_dim=dim, widths=(4, 6)).double().train()
    for norm in model.norms():
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.2, 1)
    return model


def batch(rows: int = 12, classes: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(rows, 1, 8, 8, dtype=torch.float64, generator=generator)
    return Batch(images, torch.arange(rows) % classes, torch.arange(rows) + 3)


def pgd(members: Sequence[nn.Module], images: Tensor, noise: Tensor, epsilon: float, steps: int) -> Tensor:
    """Equation 10 in plain PyTorch: SG = Σ_i ∇ₓ (1 − cos(F⁽ⁱ⁾(x_adv), F⁽ⁱ⁾(x))), signed steps of ε / steps."""
    frozen = [copy.deepcopy(member).eval() for member in members]
    with torch.no_grad():
        clean = [member(images) for member in frozen]
    adversarial = (images + noise).clamp(0, 1)
    for _ in range(steps):
        adversarial.requires_grad_()
        distance = sum(
            (1 - torch.cosine_similarity(member(adversarial), own)).sum()
            for member, own in zip(frozen, clean, strict=True)
        )
        (gradient,) = torch.autograd.grad(distance, adversarial)
        moved = adversarial.detach() + epsilon / steps * gradient.sign()
        adversarial = images + (moved - images).clamp(-epsilon, epsilon)
        adversarial = adversarial.clamp(0, 1)
    return adversarial.detach()


def proxy_anchor(embeddings: Tensor, proxies: Tensor, labels: Tensor) -> Tensor:
    """Proxy-Anchor by its paper's equation, α = 32, δ = 0.1."""
    cosines = torch.cosine_similarity(embeddings[:, None], proxies[None], dim=2)
    positive = labels[:, None] == torch.arange(len(proxies))
    pull = torch.where(positive, (-32 * (cosines - 0.1)).exp(), 0.0).sum(0)
    push = torch.where(positive, 0.0, (32 * (cosines + 0.1)).exp()).sum(0)
    return (1 + pull).log()[positive.any(0)].mean() + (1 + push).log().mean()
