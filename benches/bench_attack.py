"""PGD against torchattacks' inner loop, on the same objective, model and steps: what an image costs to attack.

torchattacks attacks classifiers by their cross-entropy. Its PGD's loop is taken as it is, around the objective of an
embedding (`_TheirPGD`). Its user has the plain network of torchvision with the same weights (`Embedder.export`), its
normalization and unit length in front and behind: "torchattacks". The same loop around our Embedder:
"torchattacks, our embedder". Both attacks must reach the same objective.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, AdaptivePGD, Objective, TowardsTargets
from robustdml_ext.models import Embedder, build_embedder

torchattacks = pytest.importorskip("torchattacks")

BATCH, STEPS, EPSILON, STEP_SIZE = 64, 20, 8 / 255, 2 / 255
NETWORKS = {
    "small, 1x8x8": ("small", 1, 8),
    "small, 1x28x28": ("small", 1, 28),
    "resnet18, 3x64x64": ("resnet18", 3, 64),
    "mobilenet_v2, 3x64x64": ("mobilenet_v2", 3, 64),
}
VARIANTS = ["ours", "ours, plain network", "ours, adaptive", "torchattacks", "torchattacks, our embedder"]


class _Plain(nn.Module):
    """The exported network, as its user calls it."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.network = embedder.export()
        self.mean, self.std = embedder.mean.clone(), embedder.std.clone()

    def forward(self, images: Tensor) -> Tensor:
        return F.normalize(self.network((images - self.mean) / self.std), dim=1)


class _TheirPGD(torchattacks.PGD):
    """torchattacks.PGD with an objective of the model's outputs, to be made small, in place of the cross-entropy."""

    def __init__(self, model: nn.Module, objective: Objective) -> None:
        super().__init__(model, eps=EPSILON, alpha=STEP_SIZE, steps=STEPS, random_start=False)
        self.objective = objective

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        images = images.clone().detach().to(self.device)
        adv_images = images.clone().detach()
        for _ in range(self.steps):
            adv_images.requires_grad = True
            cost = -self.objective(self.get_logits(adv_images)).sum()
            grad = torch.autograd.grad(cost, adv_images, retain_graph=False, create_graph=False)[0]
            adv_images = adv_images.detach() + self.alpha * grad.sign()
            delta = torch.clamp(adv_images - images, min=-self.eps, max=self.eps)
            adv_images = torch.clamp(images + delta, min=0, max=1).detach()
        return adv_images


def _images(channels: int, size: int, device: str) -> Tensor:
    """Smooth patterns: pure noise looks all alike to an untrained network."""
    coarse = torch.rand(BATCH, channels, 4, 4, device=device)
    return F.interpolate(coarse, size=(size, size), mode="bilinear")


def _embedder(arch: str, channels: int, size: int, device: str) -> Embedder:
    """With the running statistics of a few batches of the kind of images that it is given."""
    torch.manual_seed(0)
    embedder = build_embedder(arch, channels=channels).to(device).train()
    for norm in embedder.norms():
        norm.momentum = None
    with torch.no_grad():
        for _ in range(5):
            embedder(_images(channels, size, device))
    return embedder.eval()


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("variant", VARIANTS)
def test_attack(variant: str, network: str, measure: Callable[..., None], device: str) -> None:
    arch, channels, size = NETWORKS[network]
    embedder = _embedder(arch, channels, size, device)
    plain = _Plain(embedder).eval()
    images = _images(channels, size, device)
    labels = torch.zeros(BATCH, dtype=torch.int64, device=device)
    with torch.no_grad():
        bank = embedder(images)
    objective = TowardsTargets(bank, (torch.arange(BATCH, device=device)[:, None] + 1) % BATCH)
    attack = PGD(EPSILON, STEPS, STEP_SIZE)
    jobs: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: attack.perturb(embedder, images, objective),
        "ours, plain network": lambda: attack.perturb(plain, images, objective),
        "ours, adaptive": lambda: AdaptivePGD(EPSILON, STEPS).perturb(embedder, images, objective),
        "torchattacks": lambda: _TheirPGD(plain, objective)(images, labels),
        "torchattacks, our embedder": lambda: _TheirPGD(embedder, objective)(images, labels),
    }
    start, ours, theirs = (
        float(objective(embedder(x)).detach().mean()) for x in (images, jobs["ours"](), jobs["torchattacks"]())
    )
    # Signs of gradients near 0 flip with rounding, so images part after some steps; what they reach on average does
    # not. (That the folded networks' gradients are the same is for the tests, in float64.)
    assert abs(ours - theirs) < 0.05 * start, f"ours reaches {ours}, theirs {theirs}, from {start}"
    measure(f"PGD-{STEPS} B={BATCH}, {network}", variant, jobs[variant], rounds=7)
