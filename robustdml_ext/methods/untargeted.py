"""Untargeted adversarial examples for training: away from the clean embedding, or up the metric loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, AwayFromClean, MetricLossAscent, Objective, SideBySide, Summed, under_attack
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.feature_loss import metric_alone

OBJECTIVES = ("away", "loss")


def default_attack() -> PGD:
    """EAT's training attack: ε = 16/255, 10 steps, from noise of a tenth of ε, as its gradient vanishes at x itself."""
    return PGD(epsilon=16 / 255, steps=10, random_start=1.6 / 255)


def check_objective(objective: str, attack: PGD) -> str:
    """Raises ValueError for an unknown name, and where the attack would start where its gradient is zero."""
    if objective not in OBJECTIVES:
        raise ValueError(f"attack_objective: expected one of {', '.join(OBJECTIVES)}, got {objective!r}")
    if objective == "away" and attack.random_start <= 0:
        raise ValueError("attack: away from the clean embedding needs a random_start above 0, got 0: the gradient of a "
                         "distance vanishes where it is zero")  # fmt: skip
    return objective


def attack_members(
    members: Sequence[nn.Module],
    losses: Sequence[nn.Module],
    images: Tensor,
    labels: Tensor,
    attack: PGD,
    generator: torch.Generator,
    context: Context,
    *,
    objective: str,
    sums: nn.Module | None = None,
    noise: Tensor | None = None,
) -> Tensor:
    """x_adv `[b, C, H, W]` of equations 5 (one member) and 10 (several): up SG = Σ_i ∇ₓ L(F⁽ⁱ⁾(x_adv), F⁽ⁱ⁾(x)).

    L is the distance between the attacked and the clean embedding, on the unit sphere (1 − cos, half the squared
    distance); members' gradients are added as they are, in one pass. The paper starts at x itself, where that gradient
    is zero; here the attack's random start takes it off that point.

    Args:
        members: F⁽ⁱ⁾, attacked in eval mode, as they are deployed.
        losses: L_metric of each, for the objective `"loss"`.
        images: `[b, C, H, W]`, this process's part of the batch.
        labels: theirs, int64 `[b]`.
        attack: PGD with ε, steps, step size and start.
        generator: what the start's noise is drawn from, for the whole batch, so that N processes draw what one would.
        context: how the batch is spread over processes.
        objective: `"away"`, as above; `"loss"`: up the sum of the members' metric losses of the attacked batch (eq. 3).
        sums: called with the images first; see `methods.spread.SumOfProcesses`.
        noise: the start's, of these images; drawn where None.
    """
    joint = _Members(members, sums)
    if noise is None:
        noise = attack.draw_noise(images, generator, rows=context.world_size * len(images))
        noise = None if noise is None else context.slice(noise)
    goals: list[Objective]
    if objective == "away":
        with under_attack(joint, attack.norm_mode), torch.no_grad():
            clean = joint(images)
        goals = [AwayFromClean(part) for part in clean.split(joint.side_by_side.widths, 1)]
    else:
        every = context.gather(labels)
        # Of the whole batch, wherever its images are; the gradient is that of this process's own.
        goals = [
            MetricLossAscent(lambda rows, _, loss=loss: loss(context.gather(rows), every), labels, shared=True)
            for loss in map(metric_alone, losses)
        ]
    return attack.perturb(
        joint, images, Summed(goals, lambda: joint.side_by_side.widths), noise=noise, generator=generator
    )


class _Members(nn.Module):
    def __init__(self, members: Sequence[nn.Module], sums: nn.Module | None) -> None:
        super().__init__()
        self.side_by_side = SideBySide(members)
        self.sums = sums

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.side_by_side(images if self.sums is None else self.sums(images))
        return embeddings
