"""What all training methods share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from robustdml_ext.methods.context import Context
from robustdml_ext.models import Embedder, EmbedderEnsemble


class Batch(NamedTuple):
    """Images `[B, C, H, W]` in [0, 1], and labels int64 `[B]`; of several processes, this one's part.

    `indices`: the images' places in the training set, int64 `[B]`, where they are known.
    """

    images: Tensor
    labels: Tensor
    indices: Tensor | None = None


@dataclass
class StepOutput:
    """What a training step gives.

    Attributes:
        loss: scalar, with its graph: call `backward()` on it.
        log: detached figures of the step, for curves.
    """

    loss: Tensor
    log: dict[str, Tensor | float] = field(default_factory=dict)


class Method(nn.Module):
    """A way to train an embedder.

    Attributes:
        name: as on the command line.
        embedder: the network, or the ensemble of networks.
        loss: embeddings `[B, D]`, labels `[B]` → scalar.
        epoch: of the training, from 0, set by the training loop; for methods that change with time.
        plans: how many batches, each of a random order of its own, make up one step's batch.
    """

    name: str = ""
    plans: int = 1
    epoch: int = 0

    def __init__(self, embedder: Embedder | EmbedderEnsemble, loss: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = loss

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """The loss of one batch.

        Args:
            batch: this process's part of the batch.
            generator: what everything random is drawn from, alike in all processes.
            context: this process among those that share the batch.
        """
        raise NotImplementedError

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `[B, D]` for use after training: those of the clean distribution."""
        embeddings: Tensor = self.embedder(images)
        return embeddings

    def forward(self, images: Tensor) -> Tensor:
        """As `embed`."""
        return self.embed(images)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: the network's parameters, and the loss's own with their own learning rate."""
        network = [parameter for parameter in self.embedder.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": network, "lr": lr}]
        own_groups = getattr(self.loss, "parameter_groups", None)
        if own_groups is not None:
            groups += own_groups(lr)
        return [{"weight_decay": weight_decay, **group} for group in groups]

    def join(self, context: Context) -> None:
        """Called once, of several processes, before training: norm statistics then span them all."""
        assert isinstance(self.embedder, Embedder)
        self.embedder.synchronize(torch.distributed.group.WORLD if context.group is None else context.group)

    def before_sum(self, context: Context) -> None:
        """Called before gradients are summed over several processes.

        Every process computes the loss of the whole batch, so the loss's own parameters have their whole gradient in
        each of them, where the network's have only their share.
        """
        for parameter in self.loss.parameters():
            if parameter.grad is not None:
                parameter.grad /= context.world_size

    def settle(self, context: Context) -> None:
        """Called in all processes before the weights are saved or judged: all of them then have the same state."""
