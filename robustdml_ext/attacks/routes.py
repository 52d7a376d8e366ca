"""The ways by which an attacker's gradient can reach a model: through all of it, its members, its surrogates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks.balls import better
from robustdml_ext.attacks.gradient import AnyObjective, gradient_flows
from robustdml_ext.attacks.joint import Attack, SideBySide
from robustdml_ext.attacks.nested import Within
from robustdml_ext.attacks.objectives import merit
from robustdml_ext.attacks.ranking import full
from robustdml_ext.attacks.victim import embed, same_draws, under_attack

_SEQUENCES = (nn.ModuleList, list, tuple)


class _Average(nn.Module):
    """The normalized mean of the members' unit embeddings; where their sizes differ, these side by side.

    Attributes:
        sizes: D_1, …, D_N of the last pass.
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(members)
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        units = [F.normalize(full(part(images)), dim=1) for part in self.parts]
        self.sizes = [unit.shape[1] for unit in units]
        if len(set(self.sizes)) > 1:
            together: Tensor = torch.cat(units, 1) / len(units) ** 0.5
            return together
        return F.normalize(torch.stack(units).mean(0), dim=1)


def routes(model: nn.Module, images: Tensor | None = None) -> dict[str, nn.Module]:
    """The differentiable modules, images → embeddings `[B, D]`, that a thorough attack on `model` goes through.

    - Any module: `"whole"`, itself.
    - One with `members`, a sequence of embedders (an ensemble): also `"member 0"`, …, each alone; where all embeddings
      have one size, `"average"`, the normalized mean of unit embeddings; and `"sum"`, all unit embeddings side by side,
      whose cosine is the mean of the members' (the sum of gradients of equation 10 of EAT).
    - One with `surrogates()`, a dict of name → module: those in place of `"whole"`, which it thereby says has no useful
      gradient (it rounds, compresses, votes).
    - One with such a module anywhere inside: also the model with that module replaced by each of its routes, one module
      at a time, by the same names; where a name is taken, `"member 0 of <where the module is>"`.

    An ensemble with an `own_route` says by it which of these it is itself (`models.ensemble.Ensemble`); that one is
    left out. So is `"average"` where members are known to differ in size, by their `embedding_dim` or by a pass of
    `images`; where nothing tells before the attack, unit embeddings stand side by side there too.

    What an image found through any of them does is to be judged on the model's real inference: `ThroughRoutes`. Widths
    D may differ between routes, so an objective is made for each from embeddings of that route. The model is left as it
    was: routes share its parameters, and are to be made anew where its modules are exchanged.

    Args:
        model: images `[B, C, H, W]` → embeddings `[B, D]`; any module.
        images: a few, pixels in [0, 1], to look at the members' sizes; None for no look.

    Raises:
        TypeError: members or surrogates are no modules.
        ValueError: there are none of them.
    """
    found: dict[str, nn.Module] = {} if callable(getattr(model, "surrogates", None)) else {"whole": model}
    found |= _own_routes(model)
    for path, module in model.named_modules():
        if module is not model and _has_routes(module):
            for name, route in _own_routes(module).items():
                found[name if name not in found else f"{name} of {path}"] = Within(model, module, route)
    if images is None or not len(images):
        return found
    return {name: route for name, route in found.items() if not _differs(route, images)}


def _has_routes(module: nn.Module) -> bool:
    """Whether a module inside a model is an ensemble, or has surrogates; `members` can mean anything there."""
    if isinstance(module, torch.jit.ScriptModule):
        return False
    members = getattr(module, "members", None)
    ensemble = isinstance(members, _SEQUENCES) and len(members) and all(isinstance(x, nn.Module) for x in members)
    return bool(ensemble) or callable(getattr(module, "surrogates", None))


def _own_routes(model: nn.Module) -> dict[str, nn.Module]:
    """The routes of its own members and surrogates, without `"whole"`."""
    found: dict[str, nn.Module] = {}
    surrogates = getattr(model, "surrogates", None)
    if callable(surrogates):
        found = dict(surrogates())
        _check_modules("surrogates()", model, list(found.values()))
    members = getattr(model, "members", None)
    if isinstance(members, _SEQUENCES):
        _check_modules("members", model, list(members))
        sizes = {getattr(member, "embedding_dim", None) for member in members}
        if len(sizes) == 1 or None in sizes:
            found["average"] = _Average(list(members))
        found |= {f"member {i}": member for i, member in enumerate(members)}
        found["sum"] = SideBySide(list(members), normalize=True)
        own = getattr(model, "own_route", None)
        if isinstance(own, str):
            found.pop(own, None)
    return found


def _differs(route: nn.Module, images: Tensor) -> bool:
    """Whether the route averages members that differ in size."""
    averages = [module for module in route.modules() if isinstance(module, _Average)]
    if averages:
        with under_attack(route, "eval"), torch.no_grad(), same_draws(images.device):
            embed(route, images, None, 0)
    return any(len(set(average.sizes)) > 1 for average in averages)


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
            TypeError, ValueError: as `routes` and the attack's own `perturb`; a route without a gradient is an error,
                but for the whole of a model that has others.
        """
        best, best_values = images.detach().clone(), self._judge(model, images, judge)
        maximize = bool(getattr(judge, "maximize", False))
        known = routes(model, images[:2])
        for name, route in known.items():
            # Surrogates deeper inside say that the whole may pass no gradient on, which is then no mistake.
            hidden = name == "whole" and len(known) > 1 and not gradient_flows(model, images)
            if name not in skip and not hidden:
                found = self.attack.perturb(route, images, objective(route), **options)
                best, best_values = better(found, self._judge(model, found, judge), best, best_values, maximize)
        return best

    def _judge(self, model: nn.Module, images: Tensor, judge: AnyObjective) -> Tensor:
        with under_attack(model, "eval"), torch.no_grad():
            embeddings = embed(model, images, None, 0)
            return merit(judge, embeddings, judge(embeddings))


def _check_modules(what: str, model: nn.Module, modules: Sequence[object]) -> None:
    if not modules:
        raise ValueError(f"model: {type(model).__name__} has no {what}")
    for module in modules:
        if not isinstance(module, nn.Module):
            raise TypeError(f"model: {what} of {type(model).__name__} should be modules, got {type(module).__name__}")
