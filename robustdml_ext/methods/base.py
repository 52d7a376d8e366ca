"""What all training methods share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
import torch.distributed
from torch import Tensor, nn

from robustdml_ext.methods.context import Context
from robustdml_ext.methods.embedded import Embedded, embed_streams
from robustdml_ext.methods.feature_loss import FeatureLoss, Progress, apply_loss
from robustdml_ext.methods.label_vectors import metric_to_vectors
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


def _unmeasured(part: str) -> AbstractContextManager[None]:
    return nullcontext()


class Method(nn.Module):
    """A way to train an embedder.

    Attributes:
        name: as on the command line.
        embedder: the network, or the ensemble of networks.
        loss: embeddings `[B, D]`, labels `[B]` → scalar; or a `FeatureLoss`, which looks behind them.
        plans: how many batches, each of a random order of its own, make up one step's batch.
        epoch, step: of the training, from 0, set by the training loop; for losses that change with time.
        head_lr_scale: learning rate of the embedding head over the network's.
        measure: what takes the time of a part of a step, by its name ("attack"); the training loop's stopwatch.
    """

    name: str = ""
    plans: int = 1
    epoch: int = 0
    step: int = 0
    head_lr_scale: float = 1.0

    def __init__(self, embedder: Embedder | EmbedderEnsemble, loss: nn.Module) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = loss
        self.measure: Callable[[str], AbstractContextManager[None]] = _unmeasured
        self._parts: dict[str, list[Tensor]] = {}

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """The loss of one batch.

        Args:
            batch: this process's part of the batch.
            generator: what everything random is drawn from, alike in all processes.
            context: this process among those that share the batch.
        """
        raise NotImplementedError

    def embed_streams(
        self, images: Tensor, count: int, context: Context, segments: Sequence[int] | None = None
    ) -> list[Embedded]:
        """A joint training pass over `count` streams of this process's images, with what the loss looks at."""
        if not isinstance(self.embedder, Embedder):
            raise TypeError(
                f"embedder: expected an Embedder, got {type(self.embedder).__name__}; wrap a backbone that gives "
                "features [B, F] as Embedder(backbone, F)"
            )
        behind = isinstance(self.loss, FeatureLoss)
        return embed_streams(self.embedder, images, count, context, segments=segments, features=behind)

    def metric(
        self, embedded: Embedded, labels: Tensor, generator: torch.Generator, loss: nn.Module | None = None
    ) -> Tensor:
        """The loss of embedded images `[B]` with labels `[B]`; notes its parts for the step's log.

        Args:
            embedded: of the whole batch.
            labels: of the whole batch.
            generator: what the loss draws from, alike in all processes.
            loss: another than the method's own, a member's.
        """
        loss = self.loss if loss is None else loss
        value = apply_loss(loss, embedded, labels, generator, Progress(self.epoch, self.step))
        self._note(loss)
        return value

    def _note(self, loss: nn.Module) -> None:
        for name, part in (loss.parts if isinstance(loss, FeatureLoss) else {}).items():
            self._parts.setdefault(name, []).append(part)

    @property
    def trains_network(self) -> bool:
        """Whether the network is to learn in this epoch, or the loss's own parameters alone."""
        return not isinstance(self.loss, FeatureLoss) or self.loss.trains_network(self.epoch)

    def to_vectors(
        self,
        embedded: Embedded,
        vectors: Tensor,
        labels: Tensor,
        generator: torch.Generator,
        loss: nn.Module | None = None,
    ) -> Tensor:
        """As `metric`, with label vectors `[B, D]` in place of labels; see `metric_to_vectors`."""
        loss = self.loss if loss is None else loss
        if isinstance(loss, FeatureLoss):
            below = self.to_vectors(embedded, vectors, labels, generator, loss.metric)
            value = below + loss.added(embedded, labels, generator)
            self._note(loss)
            return value
        return metric_to_vectors(loss, embedded.embeddings, vectors, labels)

    def take_parts(self) -> dict[str, Tensor | float]:
        """What the losses of this step consist of, each the mean over the step's streams; forgotten afterwards."""
        means: dict[str, Tensor | float] = {
            name: parts[0] if len(parts) == 1 else torch.stack(parts).mean() for name, parts in self._parts.items()
        }
        self._parts = {}
        return means

    def embed(self, images: Tensor) -> Tensor:
        """Embeddings `[B, D]` for use after training: those of the clean distribution."""
        embeddings: Tensor = self.embedder(images)
        return embeddings

    def forward(self, images: Tensor) -> Tensor:
        """As `embed`."""
        return self.embed(images)

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups: the network's parameters, and the loss's own with their own learning rate."""
        return self._groups([self.loss], lr, weight_decay)

    def _groups(self, losses: Sequence[nn.Module], lr: float, weight_decay: float) -> list[dict[str, Any]]:
        heads = [module.head for module in self.embedder.modules() if isinstance(module, Embedder)]
        fast = {id(parameter) for head in heads for parameter in head.parameters() if self.head_lr_scale != 1}
        trained = [parameter for parameter in self.embedder.parameters() if parameter.requires_grad]
        groups: list[dict[str, Any]] = [{"params": [p for p in trained if id(p) not in fast], "lr": lr}]
        if fast:
            groups.append({"params": [p for p in trained if id(p) in fast], "lr": lr * self.head_lr_scale})
        for loss in losses:
            own_groups = getattr(loss, "parameter_groups", None)
            groups += [] if own_groups is None else own_groups(lr)
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
