"""Square Attack: a search that needs values of the objective alone, no gradient."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustdml_ext.attacks.balls import better, check_ball, check_images, generator_on, per_sample
from robustdml_ext.attacks.folding import faster
from robustdml_ext.attacks.gradient import AnyObjective
from robustdml_ext.attacks.objectives import Objective
from robustdml_ext.attacks.victim import embed, under_attack

# After which share of the queries the squares' area is halved, once more each (Andriushchenko et al. 2020, section 4).
_HALVINGS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8)


class SquareAttack:
    """Square Attack (Andriushchenko et al. 2020): random squares of ±ε, kept where they improve the objective.

    A check that needs no gradient, so that a model which hides its gradient gains nothing. The first pass is of the
    images themselves, the second of vertical stripes of ±ε, and every further one of each sample's best image with one
    random square, all of whose pixels are put to the clean image's ± ε, one sign a channel. The squares' area falls
    from `area` of the image, by halves, over the queries. Embeddings are computed by the running norm statistics,
    without gradients. A start takes exactly `queries` forward passes.

    Args:
        epsilon: radius ε of the l∞ ball, in pixels; a number, or one a sample `[B]`.
        queries: forward passes a start, >= 2.
        norm: `"linf"`; the attack's other form, for l2, is not offered.
        restarts: searches with other stripes and squares; each sample keeps its best.
        distribution: of an Embedder, the one attacked.
        area: share of the image that the first squares take, p of the paper.

    Raises:
        ValueError: a number out of its range, or another norm.
    """

    def __init__(
        self,
        epsilon: float | Tensor,
        queries: int,
        norm: str = "linf",
        restarts: int = 1,
        distribution: int = 0,
        *,
        area: float = 0.8,
    ) -> None:
        if norm == "l2":
            raise ValueError("norm: SquareAttack offers 'linf' only, got 'l2'")
        check_ball(epsilon, norm)
        if queries < 2:
            raise ValueError(f"queries: expected a number >= 2, got {queries}")
        if restarts < 1:
            raise ValueError(f"restarts: expected a number >= 1, got {restarts}")
        if not 0 < area <= 1:
            raise ValueError(f"area: expected a share above 0, at most 1, got {area}")
        self.epsilon = epsilon
        self.queries = queries
        self.norm = norm
        self.restarts = restarts
        self.distribution = distribution
        self.area = area

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        objective: AnyObjective,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Each sample's best image.

        Args:
            model: the victim, images `[B, C, H, W]` → embeddings `[B, D]`; any module, differentiable or not. It is
                left as it was.
            images: clean images, pixels in [0, 1], floating point.
            objective: embeddings → values `[B]`, each of its own row; minimized, or maximized where it has a true
                `maximize`.
            generator: what squares are drawn from; None for PyTorch's global generator.

        Returns:
            Images within ε of `images` and within [0, 1]; detached. No value is worse than the clean image's.

        Raises:
            TypeError: images are no floating-point batch, or the victim gives no embeddings.
            ValueError: images lie outside of [0, 1] (checked on the CPU), or are no `[B, C, H, W]`.
        """
        check_images(images)
        if images.dim() != 4:
            raise ValueError(f"images: expected [B, C, H, W], got shape {list(images.shape)}")
        own = generator_on(images.device, generator)
        passes = self.queries * self.restarts
        with under_attack(model, "eval"), torch.no_grad(), faster(model, images, passes, self.distribution) as victim:
            clean = images.detach().clone()
            wide = torch.promote_types(clean.dtype, torch.float32)
            radius = torch.as_tensor(self.epsilon, dtype=wide, device=clean.device).expand(len(clean))
            reach = per_sample(radius, clean).to(clean.dtype)
            embeddings = embed(victim, clean, None, self.distribution)
            if isinstance(objective, Objective):
                objective = objective.at_start(embeddings)
            maximize = bool(getattr(objective, "maximize", False))
            clean_values = objective(embeddings)
            kept: Tensor | None = None
            kept_values: Tensor | None = None
            for _ in range(self.restarts):
                best, best_values = clean, clean_values
                for query in range(1, self.queries):
                    if query == 1:
                        candidate = self._stripes(clean, reach, own)
                    else:
                        candidate = self._squares(best, clean, reach, query / self.queries, own)
                    values = objective(embed(victim, candidate, None, self.distribution))
                    best, best_values = better(candidate, values, best, best_values, maximize)
                kept, kept_values = better(best, best_values, kept, kept_values, maximize)
            assert kept is not None
            return kept

    def _stripes(self, clean: Tensor, reach: Tensor, generator: torch.Generator | None) -> Tensor:
        batch, channels, _, width = clean.shape
        return (clean + reach * _signs((batch, channels, 1, width), clean, generator)).clamp(0, 1)

    def _squares(
        self, best: Tensor, clean: Tensor, reach: Tensor, done: float, generator: torch.Generator | None
    ) -> Tensor:
        batch, channels, height, width = clean.shape
        area = self.area / 2 ** sum(done > share for share in _HALVINGS)
        side = min(max(round((area * height * width) ** 0.5), 1), height, width)
        place = torch.rand(2, batch, generator=generator, device=clean.device)
        top, left = (place[0] * (height - side + 1)).long(), (place[1] * (width - side + 1)).long()
        rows = torch.arange(height, device=clean.device) - top[:, None]
        columns = torch.arange(width, device=clean.device) - left[:, None]
        inside = ((rows >= 0) & (rows < side))[:, None, :, None] & ((columns >= 0) & (columns < side))[:, None, None, :]
        moved = (clean + reach * _signs((batch, channels, 1, 1), clean, generator)).clamp(0, 1)
        return torch.where(inside, moved, best)


def _signs(shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None) -> Tensor:
    bits = torch.randint(2, shape, generator=generator, device=like.device)
    return (2 * bits - 1).to(like.dtype)
