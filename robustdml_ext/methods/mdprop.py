"""MDProp and AdvProp-D: adversarial streams through batch norms of their own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.embedded import join
from robustdml_ext.methods.streams import attack_streams, check_streams, stream_names
from robustdml_ext.models import Embedder

# Half width of the random start in the published code, in pixels; the paper does not say.
PUBLISHED_START = 5e-4


def default_attack() -> PGD:
    """The training attack of MDProp's section 4: one step, ε = 0.01."""
    return PGD(epsilon=0.01, steps=1, random_start=PUBLISHED_START)


class MDProp(Method):
    """MDProp (Singh et al.), Algorithm 1: K = 1 + A distributions, clean and A kinds of adversarial images.

    A step costs one attack on the A streams jointly (for each of its steps a pass forward and one backward to
    the images) and one training pass over all K streams jointly.

    Args:
        embedder: with K distributions.
        loss: the metric loss L.
        targets: T of each adversarial stream: `[1]` is AdvProp-D, `[3]` MP′, `[1, 5]` MP″, `[1, 3, 5]` MP‴.
        attack: generator and Λ, of all streams; each stream is attacked on its own norms, by default with
            their running statistics.
        targets_from: where the targets' embeddings come from; see `attack_streams`.
        joint_loss: one loss over all streams' embeddings together, as in the published code, so that pairs
            span streams; the paper has one loss a stream, added up (line 11).

    Raises:
        ValueError: the embedder has another number of distributions, or arguments are out of range.
    """

    name = "mdprop"
    embedder: Embedder

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        targets: Sequence[int] = (1, 5),
        attack: PGD | None = None,
        *,
        targets_from: str = "start",
        joint_loss: bool = False,
    ) -> None:
        super().__init__(embedder, loss)
        self.targets = check_streams(targets, targets_from)
        if embedder.distributions != 1 + len(self.targets):
            raise ValueError(
                f"embedder: expected {1 + len(self.targets)} distributions, clean and one for each of "
                f"targets {list(self.targets)}; got {embedder.distributions}"
            )
        self.attack = default_attack() if attack is None else attack
        self.targets_from, self.joint_loss = targets_from, joint_loss

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """Σ_k L({θ_n, θ_b^k}, X^k, Y), X^1 = X and X^k, k = 2 … K, attacked (lines 2 to 11)."""
        own, count = len(batch.images), len(self.targets)
        labels = context.gather(batch.labels)
        with self.measure("attack"):
            adversarial = attack_streams(
                self.embedder, batch, labels, self.targets, self.attack, generator, context,
                segments=[0] + [own] * count, targets_from=self.targets_from,
            )  # fmt: skip
        images = torch.cat([batch.images, adversarial.images])
        streams = self.embed_streams(images, 1 + count, context, segments=[own] * (1 + count))

        log: dict[str, Tensor | float] = {}
        names = stream_names(self.targets)
        if self.joint_loss:
            loss = self.metric(join(streams), labels.repeat(1 + count), generator)
        else:
            losses = [self.metric(stream, labels, generator) for stream in streams]
            loss = torch.stack(losses).sum()
            log = {f"loss/{name}": value.detach() for name, value in zip(["clean", *names], losses, strict=True)}
        log |= adversarial.log(names, [stream.own for stream in streams[1:]])
        return StepOutput(loss, log | self.take_parts())


class AdvPropD(MDProp):
    """AdvProp-D (section 3.3): MDProp with single-targeted adversarial images alone."""

    name = "advprop"

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        attack: PGD | None = None,
        *,
        targets_from: str = "start",
        joint_loss: bool = False,
    ) -> None:
        super().__init__(embedder, loss, (1,), attack, targets_from=targets_from, joint_loss=joint_loss)
