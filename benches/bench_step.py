"""One MDProp step (K = 3) against the backbone passes that it cannot avoid, and against separate passes.

The unavoidable passes, of the same network with plain `torch.nn.BatchNorm2d`: the attack's forward and backward to
(K − 1)·B images on running statistics, and the training forward and backward of K·B images.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, TowardsTargets, sample_targets
from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.methods import Batch, Context, MDProp
from robustdml_ext.models import Embedder, build_embedder, to_plain

BATCH, TARGETS = 112, (1, 5)
NETWORKS = {"small net, digits 1x8x8": ("small", 1, 8), "resnet18, 3x64x64": ("resnet18", 3, 64)}


def unavoidable(network: nn.Module, head: nn.Module, images: Tensor) -> Callable[[], None]:
    """Attack passes of (K − 1)·B and training passes of K·B images through the plain network."""
    attacked = images.repeat(len(TARGETS), 1, 1, 1)
    trained = images.repeat(1 + len(TARGETS), 1, 1, 1)
    parameters = [*network.parameters(), *head.parameters()]

    def run() -> None:
        network.eval()
        for parameter in parameters:
            parameter.requires_grad_(False)
        leaf = attacked.detach().requires_grad_()
        torch.autograd.grad(F.normalize(head(network(leaf)), dim=1).sum(), leaf)
        network.train()
        for parameter in parameters:
            parameter.requires_grad_(True)
            parameter.grad = None
        F.normalize(head(network(trained)), dim=1).sum().backward()

    return run


def separate(embedder: Embedder, loss: nn.Module, attack: PGD, images: Tensor, labels: Tensor) -> Callable[[], None]:
    """The same step as published code has it: one attack and one training pass a stream, one after the other."""
    generator = torch.Generator().manual_seed(0)

    def run() -> None:
        for parameter in embedder.parameters():
            parameter.grad = None
        streams = [images]
        for k, count in enumerate(TARGETS, start=1):
            rows = sample_targets(labels, count, candidates=labels, generator=generator)
            embedder.eval()
            with torch.no_grad():
                bank = embedder(images, distribution=k)
            embedder.train()
            one = PGD(attack.epsilon, attack.steps, random_start=attack.random_start, distribution=k)
            streams.append(one.perturb(embedder, images, TowardsTargets(bank, rows), generator=generator))
        losses = [loss(embedder(stream, distribution=k), labels) for k, stream in enumerate(streams)]
        torch.stack(losses).sum().backward()

    return run


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("variant", ["ours", "unavoidable passes", "separate passes"])
def test_step(variant: str, network: str, measure: Callable[..., None], device: str) -> None:
    torch.manual_seed(0)
    arch, channels, size = NETWORKS[network]
    embedder = build_embedder(arch, channels=channels, distributions=1 + len(TARGETS)).to(device).train()
    images = torch.rand(BATCH, channels, size, size, device=device)
    labels = torch.arange(BATCH, device=device) % 8 if size == 8 else torch.arange(BATCH, device=device) // 2
    loss, attack = MultiSimilarityLoss(), PGD(0.1, 1, random_start=5e-4)
    method = MDProp(embedder, loss, TARGETS, attack)
    generator, context = torch.Generator().manual_seed(0), Context()

    def ours() -> None:
        for parameter in method.parameters():
            parameter.grad = None
        method.training_step(Batch(images, labels), generator, context).loss.backward()

    plain = to_plain(embedder.backbone).to(device)
    jobs = {
        "ours": ours,
        "unavoidable passes": unavoidable(plain, nn.Linear(embedder.feature_dim, 128).to(device), images),
        "separate passes": separate(embedder, loss, attack, images, labels),
    }
    measure(f"MDProp step K=3 B={BATCH}, {network}", variant, jobs[variant])
