"""Auto-PGD: projected gradient descent that finds its own step size, for each sample."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext import ops
from robustdml_ext.attacks.balls import better, improves, per_sample, project_, start_from
from robustdml_ext.attacks.base import GradientAttack
from robustdml_ext.attacks.gradient import AnyObjective, values_and_gradient
from robustdml_ext.attacks.objectives import merit
from robustdml_ext.attacks.victim import embed

# ρ of the paper's first condition.
_ENOUGH_IMPROVEMENTS = 0.75


def checkpoints(steps: int) -> list[int]:
    """After which steps step sizes are looked at: ⌈p_j · steps⌉ of Croce & Hein 2020, section 3.

    p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j − p_{j−1} − 0.03, 0.06), up to 1; without the first.
    """
    # In hundredths, so that no rounding shifts a checkpoint.
    before, now, found = 0, 22, []
    while now <= 100:
        found.append(-(-now * steps // 100))
        before, now = now, now + max(now - before - 3, 6)
    return sorted(set(found))


class AdaptivePGD(GradientAttack):
    """Auto-PGD (Croce & Hein 2020, algorithm 1): no step size to choose, and each sample keeps its best iterate.

    z = Π(x_t ± η·direction(∇)),   x_{t+1} = Π(x_t + α(z − x_t) + (1 − α)(x_t − x_{t−1})),   η = 2ε at first,
    direction and Π as in `PGD`. At each checkpoint w_j, a sample's η is halved, and its search goes on from its
    best iterate, where since the last checkpoint
        1. fewer than 0.75·(w_j − w_{j−1}) steps improved the objective, or
        2. neither did η change at the last checkpoint, nor the best value since.
    All samples are stepped at once, each with its own η. One start takes `steps` forward and backward passes and one
    more forward pass. What is kept in the end is the best by `Objective.better_by`, which is the objective's value
    unless it says otherwise; the search itself goes by the values alone. The paper starts at random in the ball:
    `random_start=epsilon`.

    Args:
        epsilon: radius ε, in pixels; a number, or one a sample `[B]`.
        steps: how many gradient steps a start.
        norm: of the ball, `"linf"` or `"l2"`.
        random_start: radius of the uniform noise that the attack starts from, in pixels, in the ball's norm.
        restarts: attacks from as many starts; each sample keeps its best. More than one needs a random start.
        momentum: α, what the new step weighs against the last one's move; 0.75 in the paper, 1 for no momentum.
        norm_mode: as `PGD`.
        distribution: of an Embedder, the one attacked.

    Raises:
        ValueError: a number out of its range, or an unknown name.
    """

    def __init__(
        self,
        epsilon: float | Tensor,
        steps: int,
        norm: str = "linf",
        random_start: float = 0.0,
        restarts: int = 1,
        momentum: float = 0.75,
        norm_mode: str = "eval",
        distribution: int = 0,
    ) -> None:
        super().__init__(epsilon, steps, norm, random_start, restarts, norm_mode, distribution)
        if not 0 < momentum <= 1:
            raise ValueError(f"momentum: expected a number above 0, at most 1, got {momentum}")
        self.momentum = momentum

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        objective: AnyObjective,
        *,
        segments: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Each sample's best image; arguments, result, warnings and errors as `PGD.perturb`."""
        with self._prepared(model, images, segments) as (victim, clean):
            best: Tensor | None = None
            best_values: Tensor | None = None
            for restart in range(self.restarts):
                if restart > 0 or noise is None:
                    noise = self.draw_noise(clean, generator)
                start = start_from(clean, noise, self.epsilon, self.norm)
                objective, found, values = self._search(victim, clean, start, objective, segments, restart == 0)
                maximize = bool(getattr(objective, "maximize", False))
                best, best_values = better(found, values, best, best_values, maximize)
            assert best is not None
            return best

    def _search(
        self,
        model: nn.Module,
        clean: Tensor,
        x: Tensor,
        objective: AnyObjective,
        segments: Sequence[int] | None,
        first: bool,
    ) -> tuple[AnyObjective, Tensor, Tensor]:
        """From one start: the objective in use, the best images, and what they are the best by."""
        objective, values, gradient, embeddings = values_and_gradient(
            model, x, objective, segments, self.distribution, start=first
        )
        maximize = bool(getattr(objective, "maximize", False))
        wide = torch.promote_types(clean.dtype, torch.float32)
        radius = torch.as_tensor(self.epsilon, dtype=wide, device=clean.device).expand(len(clean))
        step_size = 2 * radius
        best, best_values, best_gradient = x, values, gradient
        kept, kept_by = x, merit(objective, embeddings, values)
        before = x
        improvements = torch.zeros(len(clean), dtype=torch.int64, device=clean.device)
        # What the second condition compares with: the first checkpoint has no earlier one.
        halved = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        best_at_last = values
        looks, last = set(checkpoints(self.steps)), 0
        for step in range(1, self.steps + 1):
            following = ops.pgd_step(
                x, gradient, clean, epsilon=self.epsilon, step_size=step_size, norm=self.norm, maximize=maximize
            )
            if step > 1 and self.momentum < 1:
                mixed = x + self.momentum * (following - x) + (1 - self.momentum) * (x - before)
                following = project_(mixed.to(clean.dtype), clean, self.epsilon, self.norm)
            before, x, values_before = x, following, values
            if step == self.steps:
                with torch.no_grad():
                    embeddings = embed(model, x, segments, self.distribution)
                    values = objective(embeddings)
            else:
                _, values, gradient, embeddings = values_and_gradient(model, x, objective, segments, self.distribution)
            improvements += improves(values, values_before, maximize)
            improved = improves(values, best_values, maximize)
            rows = per_sample(improved, x)
            best, best_values = torch.where(rows, x, best), torch.where(improved, values, best_values)
            best_gradient = torch.where(rows, gradient, best_gradient)
            by = merit(objective, embeddings, values)
            kept, kept_by = (best, best_values) if by is values else better(x, by, kept, kept_by, maximize)
            if step in looks:
                few = improvements < math.ceil(_ENOUGH_IMPROVEMENTS * (step - last))
                stuck = ~halved & ~improves(best_values, best_at_last, maximize)
                halved = few | stuck
                step_size = torch.where(halved, step_size / 2, step_size)
                rows = per_sample(halved, x)
                x, gradient = torch.where(rows, best, x), torch.where(rows, best_gradient, gradient)
                values = torch.where(halved, best_values, values)
                improvements, best_at_last, last = torch.zeros_like(improvements), best_values, step
        return objective, kept, kept_by
