"""The ways by which an attacker's gradient can reach a model: through all of it, its members, its surrogates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks.balls import better
from robustdml_ext.attacks.gradient import AnyObjective
from robustdml_ext.attacks.joint import Attack, SideBySide
from robustdml_ext.attacks.victim import embed, under_attack


class _Average(nn.Module):
    """The normalized mean of the members' unit embeddings."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(members)

    def forward(self, images: Tensor) -> Tensor:
        units = [F.normalize(part(images).float(), dim=1) for part in self.parts]
        return F.normalize(torch.stack(units).mean(0), dim=1)


def routes(model: nn.Module) -> dict[str, nn.Module]:
    """The differentiable modules, images → embeddings `[B, D]`, that a thorough attack on `model` goes through.

    | the model | its routes |
    |---|---|
    | any module | `"whole"`: itself |
    | with `members`, a sequence of embedders (an ensemble) | also `"member 0"`, …, each alone; where all embeddings have one size, `"average"`, the normalized mean of unit embeddings; and `"sum"`, all of them side by side (equation 10 of EAT) |
    | with `surrogates()`, a dict of name → module | those in place of `"whole"`, which it thereby says has no useful gradient (it rounds, compresses, votes) |

    What an image found through any of them does is to be judged on the model's real inference: `ThroughRoutes`. Widths
    D may differ between routes, so an objective is made for each from embeddings of that route.

    Raises:
        TypeError: members or surrogates are no modules.
        ValueError: there are none of them.
    """  # noqa: E501
    found: dict[str, nn.Module] = {}
    surrogates = getattr(model, "surrogates", None)
    if callable(surrogates):
        found = dict(surrogates())
        _check_modules("surrogates()", model, list(found.values()))
    else:
        found["whole"] = model
    members = getattr(model, "members", None)
    if isinstance(members, nn.ModuleList | list | tuple):
        _check_modules("members", model, list(members))
        found["average"] = _Average(list(members))
        found |= {f"member {i}": member for i, member in enumerate(members)}
        found["sum"] = SideBySide(list(members))
    return found


class ThroughRoutes:
    """Attacks a model through every route, and keeps for each sample what does best on the model's real inference.

    An inference that hides its gradient, or an ensemble whose average looks smooth, is then as strong as its weakest
    way in (adaptive attacks: Tramèr et al. 2020). Takes as long as one attack a route.

    Args:
        attack: any attack, made anew on each route with the same settings.
    """

    def __init__(self, attack: Attack) -> None:
        self.attack = attack

    def perturb(
        self,
        model: nn.Module,
        images: Tensor,
        objective: Callable[[nn.Module], AnyObjective],
        judge: AnyObjective,
        *,
        skip: Sequence[str] = (),
        **options: Any,
    ) -> Tensor:
        """Each sample's best image, among those of all routes and the clean one.

        Args:
            model: the victim, images `[B, C, H, W]` → embeddings `[B, D]`; its inference need not be differentiable.
            images: clean images, pixels in [0, 1].
            objective: route → the objective to attack it by, of its own embeddings.
            judge: objective of the model's own embeddings, by which images of different routes are compared.
            skip: names of routes not to try.
            options: of the attack's own `perturb`, such as `generator`.

        Raises:
            TypeError, ValueError: as `routes` and the attack's own `perturb`; a route without a gradient is an error.
        """
        best, best_values = images.detach().clone(), self._judge(model, images, judge)
        maximize = bool(getattr(judge, "maximize", False))
        for name, route in routes(model).items():
            if name not in skip:
                found = self.attack.perturb(route, images, objective(route), **options)
                best, best_values = better(found, self._judge(model, found, judge), best, best_values, maximize)
        return best

    def _judge(self, model: nn.Module, images: Tensor, judge: AnyObjective) -> Tensor:
        with under_attack(model, "eval"), torch.no_grad():
            return judge(embed(model, images, None, 0))


def _check_modules(what: str, model: nn.Module, modules: Sequence[object]) -> None:
    if not modules:
        raise ValueError(f"model: {type(model).__name__} has no {what}")
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"model: {what} of {type(model).__name__} should be modules, got {type(module).__name__}")
