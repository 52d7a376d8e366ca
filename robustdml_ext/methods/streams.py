"""Adversarial streams: copies of the batch, each attacked towards its own number of targets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robustdml_ext.attacks import (
    PGD,
    FromStart,
    Joined,
    Objective,
    TowardsTargets,
    sample_targets,
    under_attack,
)
from robustdml_ext.methods.base import Batch
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.embedded import split_streams
from robustdml_ext.models import Embedder

TARGETS_FROM = ("start", "clean")


@dataclass
class Streams:
    """A = len(targets) adversarial copies of a batch.

    Attributes:
        images: `[A·b, C, H, W]`, stream after stream.
        objectives: what each stream's attack minimized; of this process's own rows.
        before: their means where the attack started.
    """

    images: Tensor
    objectives: list[Objective]
    before: list[Tensor]

    @torch.no_grad()
    def log(self, names: Sequence[str], embeddings: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean objective of each stream, where the attack started and as the training pass embeds the result, `[b, D]`.

        The latter costs no further pass, but normalizes by the batch.
        """
        figures: dict[str, Tensor] = {}
        for name, objective, before, part in zip(names, self.objectives, self.before, embeddings, strict=True):
            figures[f"objective/{name}/before"] = before
            figures[f"objective/{name}/after"] = objective(part).mean()
        return figures


def stream_names(targets: Sequence[int]) -> list[str]:
    """A short unique name a stream, for logs: `T1`, `T5`."""
    return [f"T{count}" if targets.count(count) == 1 else f"T{count}.{k}" for k, count in enumerate(targets, start=1)]


def check_streams(targets: Sequence[int], targets_from: str) -> tuple[int, ...]:
    """Raises ValueError for a list of targets that is empty or has a number below 1, or an unknown name."""
    if not targets or any(count < 1 for count in targets):
        raise ValueError(f"targets: expected at least one number, each >= 1, got {list(targets)}")
    if targets_from not in TARGETS_FROM:
        raise ValueError(f"targets_from: expected 'start' or 'clean', got {targets_from!r}")
    return tuple(targets)


def attack_streams(
    embedder: Embedder,
    batch: Batch,
    labels: Tensor,
    targets: Sequence[int],
    attack: PGD,
    generator: torch.Generator,
    context: Context,
    *,
    segments: Sequence[int] | None,
    targets_from: str,
) -> Streams:
    """Lines 3 to 10 of MDProp's Algorithm 1, for all streams in one joint attack.

    Each stream's targets are images of the batch, of other classes, as the stream's own norms embed them.
    With `targets_from="start"` they are embedded where the attack starts, by its own first forward pass, so
    that they cost nothing; with `"clean"`, by a pass of its own over the images without the start's noise.

    Args:
        batch: this process's part of the batch.
        labels: of the whole batch, `[B]`.
        targets: T of each stream.
        segments: of the A·b images over the embedder's distributions; None for the attack's own distribution.
    """
    count, own = len(targets), len(batch.images)
    # Everything random is drawn for the whole batch and sliced, so that N processes draw what one would.
    drawn = [
        context.slice(sample_targets(labels, number, candidates=labels, generator=generator)) for number in targets
    ]
    images = torch.cat([batch.images] * count)
    noise = attack.draw_noise(batch.images, generator, rows=count * len(labels))
    if noise is not None:
        noise = torch.cat([context.slice(part) for part in noise.chunk(count)])

    streams = Streams(images, [], [])

    def towards_own_images(embeddings: Tensor) -> Objective:
        banks = split_streams(embeddings, count, context)
        streams.objectives = [TowardsTargets(bank, rows) for bank, rows in zip(banks, drawn, strict=True)]
        parts = torch.split(embeddings, own)
        streams.before = [objective(part).mean() for objective, part in zip(streams.objectives, parts, strict=True)]
        return Joined(streams.objectives, [own] * count)

    objective: Objective = FromStart(towards_own_images)
    if targets_from == "clean":
        objective = towards_own_images(_embed_without_noise(embedder, images, segments, attack))
    streams.images = attack.perturb(embedder, images, objective, segments=segments, noise=noise, generator=generator)
    return streams


def _embed_without_noise(embedder: Embedder, images: Tensor, segments: Sequence[int] | None, attack: PGD) -> Tensor:
    with under_attack(embedder, attack.norm_mode), torch.no_grad():
        embeddings: Tensor = embedder(images, segments=segments, distribution=attack.distribution)
    return embeddings
