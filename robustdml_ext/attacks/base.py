"""What gradient attacks share: their ball, their starts, and the victim made ready."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robustdml_ext.attacks.balls import check_ball, check_images, check_starts, uniform_noise
from robustdml_ext.attacks.folding import faster, only_distribution
from robustdml_ext.attacks.victim import check_norm_mode, under_attack


class GradientAttack:
    """Base of the attacks that take `steps` gradient steps from each of `restarts` starts; see `PGD` for the arguments.

    Raises:
        ValueError: a number out of its range, or an unknown name.
    """

    def __init__(
        self,
        epsilon: float | Tensor,
        steps: int,
        norm: str,
        random_start: float,
        restarts: int,
        norm_mode: str,
        distribution: int,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps: expected a number >= 1, got {steps}")
        check_ball(epsilon, norm)
        check_starts(random_start, restarts)
        check_norm_mode(norm_mode)
        self.epsilon = epsilon
        self.steps = steps
        self.norm = norm
        self.random_start = random_start
        self.restarts = restarts
        self.norm_mode = norm_mode
        self.distribution = distribution

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
        return uniform_noise(images, self.random_start, self.norm, generator, rows)

    @contextmanager
    def _prepared(
        self, model: nn.Module, images: Tensor, segments: Sequence[int] | None
    ) -> Iterator[tuple[nn.Module, Tensor]]:
        """The victim, folded where that pays, and the clean images as a copy that can enter a graph.

        Raises: TypeError, ValueError: as `check_images`.
        """
        check_images(images)
        passes = self.steps * self.restarts if self.norm_mode == "eval" else 0
        attacked = only_distribution(segments, self.distribution)
        with under_attack(model, self.norm_mode), faster(model, images, passes, attacked) as victim:
            yield victim, images.detach().clone()
