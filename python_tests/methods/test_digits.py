"""On real digits: MDProp makes embeddings of unseen classes hold under attack, by its adversarial images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustdml_ext.attacks import PGD
from robustdml_ext.evaluation import ThreatModel, embed, evaluate, evaluate_under
from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.methods import Batch, Context, MDProp, Method, Standard
from robustdml_ext.models import Embedder, build_embedder

STEPS, CLASSES, PER_CLASS, EPSILON = 120, 5, 12, 0.2
THREAT = ThreatModel("stax", epsilon=EPSILON, steps=20)


def digits() -> tuple[Tensor, Tensor]:
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    return torch.tensor(data.images, dtype=torch.float32)[:, None] / 16, torch.tensor(data.target, dtype=torch.int64)


def trained(make: Callable[[int], Method], seed: int) -> Embedder:
    """A method after a short training on the digits 0 to 4."""
    images, labels = digits()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    method = make(3).train()
    optimizer = torch.optim.Adam(method.parameter_groups(2e-3, 4e-4))
    classes = [torch.where(labels == digit)[0] for digit in range(CLASSES)]
    for _ in range(STEPS):
        rows = torch.cat([own[torch.randperm(len(own), generator=generator)[:PER_CLASS]] for own in classes])
        optimizer.zero_grad()
        method.training_step(Batch(images[rows], labels[rows]), generator, Context()).loss.backward()
        optimizer.step()
    return method.embedder.eval()


def figures(model: Embedder) -> tuple[float, float]:
    """Recall@1 on the unseen digits 5 to 9, clean and attacked."""
    images, labels = digits()
    unseen = [(images[labels >= CLASSES], labels[labels >= CLASSES])]
    clean = evaluate(*embed(model, unseen), recall_at=(1,), clustering=False)
    attacked = evaluate_under(model, unseen, THREAT, recall_at=(1,), clustering=False)
    return clean["recall@1"], attacked["recall@1"]


def mdprop(epsilon: float) -> Callable[[int], Method]:
    def make(distributions: int) -> Method:
        network = build_embedder("small", channels=1, embedding_dim=64, distributions=distributions)
        return MDProp(network, MultiSimilarityLoss(), (1, 5), PGD(epsilon, 1, random_start=min(epsilon, 5e-4)))

    return make


def standard(distributions: int) -> Method:
    return Standard(build_embedder("small", channels=1, embedding_dim=64), MultiSimilarityLoss())


def test_holds_under_attack_because_of_its_adversarial_images() -> None:
    clean_standard, robust_standard = figures(trained(standard, 0))
    clean_mdprop, robust_mdprop = figures(trained(mdprop(EPSILON), 0))
    _, robust_without = figures(trained(mdprop(0.0), 0))
    assert clean_standard > 0.9 and clean_mdprop > 0.9
    assert robust_standard < clean_standard - 0.2
    gain, gain_without = robust_mdprop - robust_standard, robust_without - robust_standard
    assert gain > 0.06, f"{robust_mdprop} against {robust_standard} of standard training"
    assert gain_without < gain / 2, f"{robust_without} without adversarial images, {robust_mdprop} with them"
