"""Projected gradient descent on images, and its special cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from robustdml_ext import ops
from robustdml_ext.attacks.balls import better, start_from
from robustdml_ext.attacks.base import GradientAttack
from robustdml_ext.attacks.gradient import AnyObjective, values_and_gradient
from robustdml_ext.attacks.objectives import merit
from robustdml_ext.attacks.victim import embed


class PGD(GradientAttack):
    """Projected gradient descent (Madry et al. 2018) on an objective of the embeddings.

    x ← Π(x ± α · direction(∇ₓ objective(f(x)))), from the image itself or from noise around it; Π projects to
    the ball of radius ε around the image and to the pixel range [0, 1].

    With momentum μ > 0 it is MI-FGSM (Dong et al. 2018, equations 6 and 7): the direction is that of
        g ← μ·g + ∇ₓ / mean|∇ₓ|,
    each sample's gradient divided by the mean of its absolute values (its l1 norm, up to the constant number of
    pixels), from g = 0 at every start. For l2 the sum is the same and the step goes along g / ‖g‖₂ (their equation 8).

    Args:
        epsilon: radius ε, in pixels; a number, or one a sample `[B]`.
        steps: how many gradient steps.
        step_size: α, in pixels, likewise; None for ε / steps (MDProp, appendix C).
        norm: of the ball, `"linf"` (steps by the gradient's sign) or `"l2"` (steps by the unit gradient).
        random_start: radius of the uniform noise that the attack starts from, in pixels, in the ball's norm.
        restarts: attacks from as many starts; each sample keeps its best. More than one needs a random start.
        keep_best: each sample keeps its best iterate (the start and the last one included) instead of the
            last one. What is best, `Objective.better_by` says, as between restarts.
        norm_mode: what the victim's norm layers normalize by: `"eval"`, running statistics, or `"train"`,
            those of the batch. Neither changes the running ones.
        distribution: of an Embedder, the one attacked; `perturb` can name several.
        momentum: μ; 0 for none.

    Raises:
        ValueError: a number out of its range, or an unknown name.
    """

    def __init__(
        self,
        epsilon: float | Tensor,
        steps: int,
        step_size: float | Tensor | None = None,
        norm: str = "linf",
        random_start: float = 0.0,
        restarts: int = 1,
        keep_best: bool = False,
        norm_mode: str = "eval",
        distribution: int = 0,
        momentum: float = 0.0,
    ) -> None:
        super().__init__(epsilon, steps, norm, random_start, restarts, norm_mode, distribution)
        if not 0 <= momentum < float("inf"):
            raise ValueError(f"momentum: expected a finite number >= 0, got {momentum}")
        self.step_size = epsilon / steps if step_size is None else step_size
        self.keep_best = keep_best
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
        """Adversarial images for `images`.

        The victim is left as it was: parameters, gradients, buffers, flags. Works under `torch.no_grad()`.
        Under autocast the images stay in their own precision. A RuntimeWarning says where the victim passes
        a gradient of zero to all images (looked at on the CPU, at the first step). Of five passes on, the victim's
        networks are passed through with their norm layers folded into convolutions, where that gives the same values
        up to rounding (`attacks.folding`).

        Args:
            model: the victim, images `[B, C, H, W]` → embeddings `[B, D]`; any module.
            images: clean images, pixels in [0, 1], floating point.
            objective: embeddings → values `[B]`; minimized, or maximized where it has a true `maximize`.
            segments: of an Embedder, sizes of consecutive parts of the batch, one a distribution: a joint
                attack, each part on its own distribution. It equals separate attacks to rounding.
            generator: what random starts are drawn from; None for PyTorch's global generator.
            noise: the first start's offset from the images, `[B, C, H, W]`, in place of drawn noise.

        Returns:
            Images within ε of `images` and within [0, 1]; detached, with the dtype and layout of `images`.

        Raises:
            TypeError: images are no floating-point batch, or the victim does not fit or has no gradient.
            ValueError: images lie outside of [0, 1] (checked on the CPU), or shapes do not fit.
        """
        with self._prepared(model, images, segments) as (victim, clean):
            best: Tensor | None = None
            best_values: Tensor | None = None
            for restart in range(self.restarts):
                if restart > 0 or noise is None:
                    noise = self.draw_noise(clean, generator)
                adversarial = start_from(clean, noise, self.epsilon, self.norm)
                direction: Tensor | None = None
                for step in range(self.steps):
                    objective, values, gradient, embeddings = values_and_gradient(
                        victim, adversarial, objective, segments, self.distribution, start=restart == 0 and step == 0
                    )
                    maximize = bool(getattr(objective, "maximize", False))
                    if self.keep_best:
                        values = merit(objective, embeddings, values)
                        best, best_values = better(adversarial, values, best, best_values, maximize)
                    if self.momentum > 0:
                        gradient = direction = self._accumulate(direction, gradient)
                    ops.pgd_step_(
                        adversarial, gradient, clean,
                        epsilon=self.epsilon, step_size=self.step_size, norm=self.norm, maximize=maximize,
                    )  # fmt: skip
                if not self.keep_best and self.restarts == 1:
                    return adversarial
                with torch.no_grad():
                    embeddings = embed(victim, adversarial, segments, self.distribution)
                    values = merit(objective, embeddings, objective(embeddings))
                best, best_values = better(adversarial, values, best, best_values, maximize)
            assert best is not None
            return best

    def _accumulate(self, direction: Tensor | None, gradient: Tensor) -> Tensor:
        """μ·g + ∇ / mean|∇|; a gradient of zero adds nothing."""
        mean = gradient.abs().mean(dim=tuple(range(1, gradient.dim())), keepdim=True)
        scaled = torch.where(mean > 0, gradient / mean, 0.0)
        return scaled if direction is None else direction.mul_(self.momentum).add_(scaled)


class FGSM(PGD):
    """The fast gradient sign method (Goodfellow et al. 2015): one step of length ε, from the image itself."""

    def __init__(
        self, epsilon: float | Tensor, norm: str = "linf", norm_mode: str = "eval", distribution: int = 0
    ) -> None:
        super().__init__(epsilon, 1, epsilon, norm, norm_mode=norm_mode, distribution=distribution)


class BIM(PGD):
    """The basic iterative method (Kurakin et al. 2017): gradient steps from the image itself."""

    def __init__(
        self,
        epsilon: float | Tensor,
        steps: int,
        step_size: float | Tensor | None = None,
        norm: str = "linf",
        keep_best: bool = False,
        norm_mode: str = "eval",
        distribution: int = 0,
    ) -> None:
        super().__init__(
            epsilon,
            steps,
            step_size,
            norm,
            keep_best=keep_best,
            norm_mode=norm_mode,
            distribution=distribution,
        )
