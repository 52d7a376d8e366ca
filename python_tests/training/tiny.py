"""A method small enough to train in a test, that draws from everything a real one may draw from."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from robustdml_ext.data import LabeledImages, PKSampler, load
from robustdml_ext.methods import Batch, Context, Method, StepOutput
from robustdml_ext.recipes import Recipe, make_recipe
from robustdml_ext.training import Processes, Trainer, TrainingBatches, choose_precision

ALONE = Processes(0, 1, torch.device("cpu"))


class Proxies(nn.Module):
    """Softmax over one learned center per class: a loss with parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(5, 8))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(embeddings @ self.centers.T, labels)


class TinyMethod(Method):
    """Linear embedding with dropout; noise from the method's generator, drawn for the whole batch."""

    name = "tiny"

    def __init__(self, dropout: float = 0.3) -> None:
        nn.Module.__init__(self)
        self.embedder = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, 8), nn.Tanh())
        self.loss = Proxies()
        self.die_at: int | None = None
        self.calls = 0

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        self.calls += 1
        if self.calls == self.die_at:
            raise KeyboardInterrupt("the process dies here")
        whole = torch.randn(len(batch.images) * context.world_size, 8, generator=generator)
        embeddings = self.embedder(batch.images) + 0.1 * context.slice(whole)
        loss = self.loss(context.gather(embeddings), context.gather(batch.labels))
        return StepOutput(loss=loss, log={"doubled": 2 * loss.detach(), "one": 1.0})

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        return [
            {"params": list(self.embedder.parameters()), "lr": lr, "weight_decay": weight_decay},
            {"params": list(self.loss.parameters()), "lr": 2 * lr},
        ]


def tiny_recipe(**fields: Any) -> Recipe:
    """Return a recipe of a few steps; an epoch is 15 steps."""
    common: dict[str, Any] = {"arch": "small", "weights": "none", "batch_size": 60, "samples_per_class": 12}
    common |= {"select_on": "last", "evaluate_every": 0}
    return make_recipe({**common, "learning_rate": 0.01, "epochs": 2, "log_every": 4, "tensorboard": False, **fields})


@lru_cache
def _digits() -> LabeledImages:
    return load("digits").train


def tiny_trainer(
    folder: Path, recipe: Recipe, *, dropout: float = 0.3, processes: Processes = ALONE, **changes: Any
) -> Trainer:
    """Build everything anew, as a new process would."""
    torch.manual_seed(recipe.seed)
    images = _digits()
    sampler = PKSampler(images.labels, recipe.batch_size, recipe.samples_per_class, recipe.seed)
    batches = TrainingBatches(images, sampler, recipe.epochs, recipe.seed, processes, recipe.workers, recipe.iterations)
    folder.mkdir(parents=True, exist_ok=True)
    changes.setdefault("context", Context())
    precision = choose_precision(recipe.precision, processes.device)
    return Trainer(TinyMethod(dropout), batches, recipe, folder, processes, precision=precision, **changes)


def same(first: Any, second: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(first, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(value, second[key]) for key, value in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)
