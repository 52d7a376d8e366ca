"""Adversarial training (AT) with targeted attacks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.mdprop import default_attack
from robustdml_ext.methods.streams import attack_streams, check_streams, stream_names
from robustdml_ext.models import Embedder


class Adversarial(Method):
    """AT, the baseline of MDProp's appendix C.2: clean and adversarial images, through the same norms.

    Args:
        embedder: its clean distribution is attacked and trained.
        loss: the metric loss L.
        targets: T of each adversarial stream; the paper has one stream, of T = 1 (and 2, 3, 5, 10 in its
            appendix).
        attack: of all streams.
        targets_from: where the targets' embeddings come from; see `attack_streams`.

    Raises:
        ValueError: arguments are out of range.
    """

    name = "adversarial"
    embedder: Embedder

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        targets: Sequence[int] = (1,),
        attack: PGD | None = None,
        *,
        targets_from: str = "start",
    ) -> None:
        super().__init__(embedder, loss)
        self.targets = check_streams(targets, targets_from)
        self.attack = default_attack() if attack is None else attack
        self.targets_from = targets_from

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """L(θ, X, Y) + Σ L(θ, X + δ, Y), δ by equation 16, the sum by 17; one batch for the norms."""
        labels = context.gather(batch.labels)
        with self.measure("attack"):
            adversarial = attack_streams(
                self.embedder, batch, labels, self.targets, self.attack, generator, context,
                segments=None, targets_from=self.targets_from,
            )  # fmt: skip
        images = torch.cat([batch.images, adversarial.images])
        streams = self.embed_streams(images, 1 + len(self.targets), context)

        losses = [self.metric(stream, labels, generator) for stream in streams]
        names = stream_names(self.targets)
        log: dict[str, Tensor | float] = {
            f"loss/{name}": value.detach() for name, value in zip(["clean", *names], losses, strict=True)
        }
        log |= adversarial.log(names, [stream.own for stream in streams[1:]])
        return StepOutput(torch.stack(losses).sum(), log | self.take_parts())
