"""One attack on several models at once: it descends the sum of their objectives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks.gradient import AnyObjective
from robustdml_ext.attacks.objectives import Objective
from robustdml_ext.attacks.streams import in_streams


class Attack(Protocol):
    """What every attack here offers."""

    def perturb(self, model: nn.Module, images: Tensor, objective: AnyObjective, **options: Any) -> Tensor: ...


class SideBySide(nn.Module):
    """Several embedders as one: their embeddings, one after the other, `[B, D_1 + … + D_N]`, in full precision.

    Where all embeddings are of unit length, the squared distance of two such rows is the sum of the members' squared
    distances, and their cosine the mean of the members' cosines: whatever moves them away moves the members' sum.

    Args:
        members: images → embeddings `[B, D_i]`; any modules, the same one twice included.
        normalize: scale each member's embeddings to unit length, so that no member outweighs the others.

    Attributes:
        widths: D_1, …, D_N of the last pass.

    Raises:
        ValueError: no member.
    """

    def __init__(self, members: Sequence[nn.Module], normalize: bool = False) -> None:
        super().__init__()
        if not len(members):
            raise ValueError("members: expected at least one module, got none")
        self.parts = nn.ModuleList(members)
        self.normalize = normalize
        self.widths: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `[B, D_1 + … + D_N]` of images `[B, C, H, W]`."""
        embeddings = in_streams([partial(part, images) for part in self.parts], images.device)
        self.widths = [part.shape[1] for part in embeddings]
        wide = [part.to(torch.promote_types(part.dtype, torch.float32)) for part in embeddings]
        return torch.cat([F.normalize(part, dim=1) for part in wide] if self.normalize else wide, 1)


class Summed(Objective):
    """The sum of several objectives, each of its own columns of the embeddings `[B, D_1 + … + D_N]`.

    Args:
        objectives: one a member; all are minimized or all maximized.
        widths: D_1, …, D_N; or a function that gives them once the embeddings are there.

    Raises:
        ValueError: there is none, or the objectives pull in both directions.
    """

    def __init__(self, objectives: Sequence[AnyObjective], widths: Sequence[int] | Callable[[], Sequence[int]]) -> None:
        if not objectives:
            raise ValueError("objectives: expected at least one, got none")
        directions = {bool(getattr(objective, "maximize", False)) for objective in objectives}
        if len(directions) > 1:
            raise ValueError("objectives: some are to be minimized, some maximized; attack them separately")
        self.objectives, self.widths = list(objectives), widths
        self.maximize = directions.pop()

    def __call__(self, embeddings: Tensor) -> Tensor:
        values = [objective(part) for objective, part in self._parts(embeddings)]
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total

    def at_start(self, embeddings: Tensor) -> Objective:
        started = [
            objective.at_start(part) if isinstance(objective, Objective) else objective
            for objective, part in self._parts(embeddings)
        ]
        return Summed(started, self.widths)

    def _parts(self, embeddings: Tensor) -> list[tuple[AnyObjective, Tensor]]:
        widths = self.widths() if callable(self.widths) else self.widths
        if len(widths) != len(self.objectives) or sum(widths) != embeddings.shape[1]:
            raise ValueError(
                f"widths: expected {len(self.objectives)} numbers that add up to {embeddings.shape[1]}, "
                f"got {list(widths)}"
            )
        return list(zip(self.objectives, embeddings.split(list(widths), 1), strict=True))


class JointAttack:
    """One attack on several (model, objective) pairs: it descends the sum of their values.

    The gradient of the sum is the sum of the gradients, SG = Σ_i ∇ₓ L(F⁽ⁱ⁾(x_adv), F⁽ⁱ⁾(x)) of equation 10 of EAT,
    where each member's objective is `AwayFromClean` of its own clean embeddings.

    Args:
        attack: any attack, such as `PGD(epsilon, steps, step_size, random_start=…)`.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack

    def perturb(self, pairs: Sequence[tuple[nn.Module, AnyObjective]], images: Tensor, **options: Any) -> Tensor:
        """Adversarial images `[B, C, H, W]` against all members at once.

        Args:
            pairs: members, images → embeddings `[B, D_i]`, with their objectives.
            images: clean images, pixels in [0, 1].
            options: of the attack's own `perturb`, such as `generator`.

        Raises:
            ValueError: no pair, or objectives pull in both directions; and as the attack's own.
            TypeError: as the attack's own.
        """
        members = SideBySide([model for model, _ in pairs])
        objective = Summed([objective for _, objective in pairs], lambda: members.widths)
        return self.attack.perturb(members, images, objective, **options)
