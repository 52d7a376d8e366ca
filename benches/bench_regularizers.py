"""A step of ECAML against its plain loss's, and one of DAML against its plain loss's plus the generator's passes.

The generator's passes: three plain layers on the concatenated features of every tuple, forward and backward, for the
tuples of one step. A plain step: this package's own standard training with the same loss.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from robustdml_ext.losses import BinomialDevianceLoss, NPairLoss, TripletLoss
from robustdml_ext.methods import Batch, Context, EnergyConfused, HardNegatives, Standard
from robustdml_ext.methods.synthetic_losses import FORMS
from robustdml_ext.models import Embedder, build_embedder

NETWORKS = {
    "small net, 1x8x8": ("small", 1, 8, 128, 64),
    "small net, 1x28x28": ("small", 1, 28, 128, 64),
    "googlenet, 3x64x64": ("googlenet", 3, 64, 128, 512),
}
LOSSES = {"npair": NPairLoss, "triplet": lambda: TripletLoss(1.0)}


def set_up(network: str, device: str) -> tuple[Embedder, Batch]:
    """64 classes of two images, as both papers have them."""
    torch.manual_seed(0)
    arch, channels, size, batch, width = NETWORKS[network]
    embedder = build_embedder(arch, channels=channels, embedding_dim=width).to(device).train()
    images = torch.rand(batch, channels, size, size, device=device)
    return embedder, Batch(images, torch.arange(batch, device=device) // 2)


def step_of(method: Standard, batch: Batch) -> Callable[[], None]:
    generator = torch.Generator(device=batch.images.device).manual_seed(0)

    def step() -> None:
        method.zero_grad()
        method.training_step(batch, generator, Context()).loss.backward()

    return step


@pytest.mark.parametrize("network", list(NETWORKS))
def test_ecaml(network: str, measure_in_turn: Callable[..., None], device: str) -> None:
    embedder, batch = set_up(network, device)
    losses = {"ECAML": EnergyConfused(BinomialDevianceLoss(), 0.13), "plain loss": BinomialDevianceLoss()}
    steps = {variant: step_of(Standard(embedder, loss), batch) for variant, loss in losses.items()}
    measure_in_turn(f"ECAML step B=128, {network}", steps)


@pytest.mark.parametrize("network", list(NETWORKS))
@pytest.mark.parametrize("form", list(LOSSES))
def test_daml(form: str, network: str, measure_in_turn: Callable[..., None], device: str) -> None:
    embedder, batch = set_up(network, device)
    embedder.unit_length = False
    hard = HardNegatives(LOSSES[form](), embedder.feature_dim, form).to(device)
    ours, plain = (step_of(Standard(embedder, loss), batch) for loss in (hard, LOSSES[form]()))
    passes = generator_passes(embedder.feature_dim, form, batch)

    def both() -> None:
        plain()
        passes()

    steps = {"DAML": ours, "plain loss and generator passes": both, "plain loss": plain}
    measure_in_turn(f"DAML ({form}) step B=128, {network}", steps, seconds=10.0)


def generator_passes(feature_dim: int, form: str, batch: Batch) -> Callable[[], None]:
    """Three plain layers on `[T·M, 3F]`, forward and backward to the layers and the features."""
    device = batch.images.device
    tuples = FORMS[form].draw(batch.labels, FORMS[form].negatives, torch.Generator(device=device).manual_seed(0))
    layers = nn.Sequential(
        nn.Linear(3 * feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, feature_dim), nn.ReLU(),
        nn.Linear(feature_dim, feature_dim),
    ).to(device)  # fmt: skip
    features = torch.rand(len(batch.labels), feature_dim, device=device, requires_grad=True)
    wide = tuples.negatives.shape[1]

    def passes() -> None:
        layers.zero_grad()
        anchor, positive = (features[rows][:, None].expand(-1, wide, -1) for rows in (tuples.anchor, tuples.positive))
        layers(torch.cat([features[tuples.negatives], anchor, positive], dim=2)).sum().backward()

    return passes
