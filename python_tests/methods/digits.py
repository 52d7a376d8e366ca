"""Short trainings on real digits: 0 to 4 are seen, 5 to 9 are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from robustdml_ext.evaluation import embed, evaluate
from robustdml_ext.methods import Batch, Context, Method

CLASSES, PER_CLASS = 5, 12


@cache
def digits() -> tuple[Tensor, Tensor]:
    """Images `[1797, 1, 8, 8]` and labels, in the labels' order."""
    datasets = pytest.importorskip("sklearn.datasets")
    data = datasets.load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = labels.argsort(stable=True)
    return images[order], labels[order]


def trained(
    make: Callable[[], Method], seed: int, steps: int = 100, epoch_of: Callable[[int], int] = lambda step: 0
) -> nn.Module:
    """The network of a method after a short training on the seen digits.

    Args:
        make: builds it; PyTorch's generator is seeded before.
        seed: of weights and batches.
        steps: of AdamW.
        epoch_of: the epoch that the method is told at a step.
    """
    images, labels = digits()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    method = make().train()
    optimizer = torch.optim.AdamW(method.parameter_groups(2e-3, 4e-4))
    classes = [torch.where(labels == digit)[0] for digit in range(CLASSES)]
    for step in range(steps):
        method.epoch, method.step = epoch_of(step), step
        rows = torch.cat([own[torch.randperm(len(own), generator=generator)[:PER_CLASS]] for own in classes])
        optimizer.zero_grad()
        method.training_step(Batch(images[rows], labels[rows], rows), generator, Context()).loss.backward()
        optimizer.step()
    return method.embedder.eval()


def seen() -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return [(images[labels < CLASSES], labels[labels < CLASSES])]


def unseen() -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    return [(images[labels >= CLASSES], labels[labels >= CLASSES])]


def recall_of(model: nn.Module) -> tuple[float, float]:
    """Recall@1 on seen and on unseen digits."""
    one, other = (
        evaluate(*embed(model, images), recall_at=(1,), clustering=False)["recall@1"] for images in (seen(), unseen())
    )
    return one, other
