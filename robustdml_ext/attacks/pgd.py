"""Projected gradient descent on images, and its special cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext import ops
from robustdml_ext.attacks.objectives import Objective
from robustdml_ext.attacks.victim import check_norm_mode, embed, under_attack


class PGD:
    """Projected gradient descent (Madry et al. 2018) on an objective of the embeddings.

    x ← Π(x ± α · direction(∇ₓ objective(f(x)))), from the image itself or from noise around it; Π projects to
    the ball of radius ε around the image and to the pixel range [0, 1].

    Args:
        epsilon: radius ε, in pixels; a number, or one a sample `[B]`.
        steps: how many gradient steps.
        step_size: α, in pixels, likewise; None for ε / steps (MDProp, appendix C).
        norm: of the ball, `"linf"` (steps by the gradient's sign) or `"l2"` (steps by the unit gradient).
        random_start: radius of the uniform noise that the attack starts from, in pixels, in the ball's norm.
        restarts: attacks from as many starts; each sample keeps its best. More than one needs a random start.
        keep_best: each sample keeps its best iterate (the start and the last one included) instead of the
            last one.
        norm_mode: what the victim's norm layers normalize by: `"eval"`, running statistics, or `"train"`,
            those of the batch. Neither changes the running ones.
        distribution: of an Embedder, the one attacked; `perturb` can name several.

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
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected a number >= 1, got {steps}")
        if not isinstance(epsilon, Tensor) and not epsilon >= 0:
            raise ValueError(f"epsilon: expected a number >= 0, got {epsilon}")
        if norm not in ("linf", "l2"):
            raise ValueError(f"norm: expected 'linf' or 'l2', got {norm!r}")
        if not random_start >= 0:
            raise ValueError(f"random_start: expected a number >= 0, got {random_start}")
        if restarts < 1:
            raise ValueError(f"restarts: expected a number >= 1, got {restarts}")
        if restarts > 1 and random_start == 0:
            raise ValueError(f"restarts: {restarts} from the same start are all the same; set random_start")
        check_norm_mode(norm_mode)
        self.epsilon = epsilon
        self.steps = steps
        self.step_size = epsilon / steps if step_size is None else step_size
        self.norm = norm
        self.random_start = random_start
        self.restarts = restarts
        self.keep_best = keep_best
        self.norm_mode = norm_mode
        self.distribution = distribution

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        objective: Objective | Callable[[Tensor], Tensor],
        *,
        segments: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """Adversarial images for `images`.

        The victim is left as it was: parameters, gradients, buffers, flags. Works under `torch.no_grad()`.
        Under autocast the images stay in their own precision.

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
            TypeError: images are no floating-point batch, or the victim does not fit.
            ValueError: images lie outside of [0, 1] (checked on the CPU), or shapes do not fit.
        """
        _check_images(images)
        with under_attack(model, self.norm_mode):
            # A copy, as a tensor made in inference mode cannot enter a graph.
            clean = images.detach().clone()
            best: Tensor | None = None
            best_values: Tensor | None = None
            for restart in range(self.restarts):
                if restart > 0 or noise is None:
                    noise = self.draw_noise(clean, generator)
                adversarial = self._start(clean, noise)
                for step in range(self.steps):
                    adversarial.requires_grad_()
                    embeddings = embed(model, adversarial, segments, self.distribution)
                    if restart == 0 and step == 0 and isinstance(objective, Objective):
                        objective = objective.at_start(embeddings.detach())
                    values = objective(embeddings)
                    (gradient,) = torch.autograd.grad(values.sum(), adversarial)
                    adversarial.requires_grad_(False)
                    maximize = bool(getattr(objective, "maximize", False))
                    if self.keep_best:
                        best, best_values = _better(adversarial, values, best, best_values, maximize)
                    ops.pgd_step_(
                        adversarial, gradient, clean,
                        epsilon=self.epsilon, step_size=self.step_size, norm=self.norm, maximize=maximize,
                    )  # fmt: skip
                if not self.keep_best and self.restarts == 1:
                    return adversarial
                with torch.no_grad():
                    values = objective(embed(model, adversarial, segments, self.distribution))
                best, best_values = _better(adversarial, values, best, best_values, maximize)
            assert best is not None
            return best

    def draw_noise(
        self, images: Tensor, generator: torch.Generator | None = None, rows: int | None = None
    ) -> Tensor | None:
        """Noise for a random start, uniform in the ball of radius `random_start`; None where that is 0.

        Drawn on the images' own device: by `generator` itself where it is of that device, else by one seeded with a
        number from it.

        Args:
            images: `[B, C, H, W]`; the noise has their dtype and device.
            generator: None for PyTorch's global one.
            rows: how many samples to draw for, instead of B.
        """
        if self.random_start == 0:
            return None
        own = generator
        if own is not None and own.device != images.device:
            seed = int(torch.randint(2**62, (), generator=generator, device=own.device))
            own = torch.Generator(images.device).manual_seed(seed)
        shape = (len(images) if rows is None else rows, *images.shape[1:])
        options: dict[str, Any] = {"generator": own, "dtype": images.dtype, "device": images.device}
        if self.norm == "linf":
            return (torch.rand(shape, **options) * 2 - 1) * self.random_start
        direction = torch.randn(shape, **options)
        per_sample = (-1,) + (1,) * (len(shape) - 1)
        length = direction.flatten(1).norm(dim=1).reshape(per_sample).clamp_min(torch.finfo(images.dtype).tiny)
        # In d dimensions the share r^d of a ball's volume lies within the share r of its radius.
        radius = torch.rand(shape[:1], **options) ** (1 / direction[0].numel())
        offset: Tensor = self.random_start * radius.reshape(per_sample) * direction / length
        return offset  # type: ignore[no-any-return]

    def _start(self, clean: Tensor, noise: Tensor | None) -> Tensor:
        if noise is None:
            return clean.clone()
        if noise.shape != clean.shape:
            raise ValueError(f"noise: expected the images' shape {list(clean.shape)}, got {list(noise.shape)}")
        start = (clean + noise).to(clean.dtype)
        # A step of length 0 only projects.
        return ops.pgd_step_(start, start, clean, epsilon=self.epsilon, step_size=0.0, norm=self.norm)


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


def _better(
    images: Tensor, values: Tensor, best: Tensor | None, best_values: Tensor | None, maximize: bool
) -> tuple[Tensor, Tensor]:
    """Each sample's better one of two iterates; the earlier one where they tie."""
    values = values.detach()
    if best is None or best_values is None:
        return images.clone(), values
    improved = values > best_values if maximize else values < best_values
    rows = improved.reshape((-1,) + (1,) * (images.dim() - 1))
    return torch.where(rows, images, best), torch.where(improved, values, best_values)


def _check_images(images: object) -> None:
    if not isinstance(images, Tensor) or not images.is_floating_point():
        got = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images: expected a floating-point tensor with pixels in [0, 1], got {got}")
    if images.dim() < 2:
        raise ValueError(f"images: expected a batch [B, C, H, W], got shape {list(images.shape)}")
    # On CUDA the look would wait for the device.
    if images.is_cpu and images.numel():
        lowest, highest = (float(bound) for bound in images.detach().aminmax())
        if lowest < 0 or highest > 1:
            raise ValueError(f"images: expected pixels in [0, 1], got {lowest:.4g} to {highest:.4g}")
