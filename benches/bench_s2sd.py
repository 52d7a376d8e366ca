"""S2SD's loss, forward and backward, at its published size, against the form that one writes with plain layers.

B = 112 images of F = 2048 features, embeddings of D = 128, heads of 512, 1024, 1536 and 2048 dimensions. The plain
form has a module a head, pytorch-metric-learning's multi-similarity loss with its miner, and the divergences written
out. All forms are bound by the products of the heads' layers, which are measured by themselves.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.methods import Context, Embedded, Progress, SelfDistillation
from robustdml_ext.methods.embedded import SharedHead
from robustdml_ext.methods.s2sd import PUBLISHED_DIMS
from robustdml_ext.models import Embedder

BATCH, FEATURES, DIMENSIONS = 112, 2048, 128


class Plain(nn.Module):
    """The definition, module by module."""

    def __init__(self) -> None:
        super().__init__()
        from pytorch_metric_learning import losses, miners

        self.heads = nn.ModuleList(
            nn.Sequential(nn.Linear(FEATURES, dim), nn.ReLU(), nn.Linear(dim, dim)) for dim in PUBLISHED_DIMS
        )
        self.metric, self.miner = losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5), miners.MultiSimilarityMiner()

    def forward(self, embeddings: Tensor, features: Tensor, labels: Tensor) -> Tensor:
        heads = [F.normalize(head(features), dim=1) for head in self.heads]
        taught = [self.metric(head, labels, self.miner(head, labels)) for head in heads]
        own = self.metric(embeddings, labels, self.miner(embeddings, labels))
        student = (embeddings @ embeddings.T).log_softmax(1)
        teachers = [*heads, F.normalize(features, dim=1)]
        divergences = [
            F.kl_div(student, (teacher @ teacher.T).detach().softmax(1), reduction="sum") / len(labels)
            for teacher in teachers
        ]
        distilled = torch.stack(divergences[:-1]).mean()
        return (own + torch.stack(taught).mean()) / 2 + 50 * distilled + 50 * divergences[-1]


def test_s2sd(measure_in_turn: Callable[..., None], device: str) -> None:
    pytest.importorskip("pytorch_metric_learning")
    torch.manual_seed(0)
    features = torch.randn(BATCH, FEATURES, device=device).relu().requires_grad_()
    embeddings = F.normalize(torch.randn(BATCH, DIMENSIONS, device=device), dim=1).requires_grad_()
    labels = torch.arange(BATCH, device=device) // 2
    embedder = Embedder(nn.Flatten(), FEATURES, DIMENSIONS).to(device)
    ours = SelfDistillation(MultiSimilarityLoss(), FEATURES).to(device)
    plain = Plain().to(device)
    data = Embedded(embeddings, embeddings, features, SharedHead(embedder, Context()))
    generator = torch.Generator(device=device)

    def step(module: nn.Module, value: Callable[[], Tensor]) -> Callable[[], None]:
        def run() -> None:
            module.zero_grad()
            features.grad = embeddings.grad = None
            value().backward()

        return run

    def products() -> None:
        ours.zero_grad()
        torch.stack([outputs.sum() for outputs in ours.outputs(features)]).sum().backward()

    variants = {
        "ours": step(ours, lambda: ours(data, labels, generator, Progress(step=ours.feature_delay))),
        "plain modules and pytorch-metric-learning": step(plain, lambda: plain(embeddings, features, labels)),
        "the heads' layers alone": products,
    }
    measure_in_turn(f"S2SD loss B={BATCH}, F={FEATURES}, D={DIMENSIONS}", variants)
