"""One EAT step (N = 3) against N plain steps plus its attack passes, and against Algorithm 1 taken line by line.

A plain step of a member: forward, Proxy-Anchor and backward of its clean and adversarial images, through the network
with plain `torch.nn.BatchNorm2d`. An attack pass: forward and backward to the images on running statistics, of every
member.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.losses import ProxyAnchorLoss
from robustdml_ext.methods import EAT, Batch, Context, split_into_parts
from robustdml_ext.models import Embedder, EmbedderEnsemble, build_embedder, to_plain

MEMBERS, STEPS, CLASSES, WIDTH = 3, 10, 100, 128
NETWORKS = {
    "small net, 1x8x8": ("small", 1, 8, 112),
    "small net, 1x28x28": ("small", 1, 28, 112),
    "mobilenet_v2, 3x64x64": ("mobilenet_v2", 3, 64, 64),
}


def plain_network(embedder: Embedder) -> nn.Module:
    return nn.Sequential(to_plain(embedder.backbone), nn.Linear(embedder.feature_dim, WIDTH))


def attack_passes(networks: list[nn.Module], images: Tensor) -> None:
    for network in networks:
        network.eval().requires_grad_(False)
    for _ in range(STEPS):
        leaf = images.detach().requires_grad_()
        total = torch.stack([F.normalize(network(leaf), dim=1).sum() for network in networks]).sum()
        torch.autograd.grad(total, leaf)
    for network in networks:
        network.train().requires_grad_(True)


def plain_step(network: nn.Module, loss: nn.Module, images: Tensor, labels: Tensor) -> None:
    network.zero_grad()
    halves = F.normalize(network(torch.cat([images, images])), dim=1).chunk(2)
    torch.stack([loss(half, labels) for half in halves]).mean().backward()


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("variant", ["ours", "plain steps and attack passes", "one member at a time"])
def test_step(variant: str, network: str, measure: Callable[..., None], device: str) -> None:
    torch.manual_seed(0)
    arch, channels, size, batch = NETWORKS[network]
    members = [build_embedder(arch, channels=channels, embedding_dim=WIDTH).to(device).train() for _ in range(MEMBERS)]
    losses = [ProxyAnchorLoss(CLASSES, WIDTH).to(device) for _ in range(MEMBERS)]
    images = torch.rand(batch, channels, size, size, device=device)
    labels, places = torch.arange(batch, device=device) % CLASSES, torch.arange(batch, device=device)
    parts = split_into_parts(labels, MEMBERS, 0)
    rows = [places[(parts != number).to(device)] for number in range(MEMBERS)]
    attack = PGD(16 / 255, STEPS, random_start=1.6 / 255)
    method = EAT(EmbedderEnsemble(members), losses, parts, attack).to(device)
    generator = torch.Generator(device=device).manual_seed(0)

    def ours() -> None:
        method.zero_grad()
        method.training_step(Batch(images, labels, places), generator, Context()).loss.backward()

    networks = [plain_network(member).to(device) for member in members]

    def unavoidable() -> None:
        attack_passes(networks, images)
        for number, own in enumerate(rows):
            plain_step(networks[number], losses[number], images[own], labels[own])

    def one_at_a_time() -> None:
        for number, own in enumerate(rows):
            attack_passes(networks, images[own])
            plain_step(networks[number], losses[number], images[own], labels[own])

    jobs = {"ours": ours, "plain steps and attack passes": unavoidable, "one member at a time": one_at_a_time}
    measure(f"EAT step N={MEMBERS} T={STEPS} B={batch}, {network}", variant, jobs[variant])
