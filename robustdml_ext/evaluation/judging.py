"""One attack judged: through every route it can take, the worst of them for each query."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import routes, under_attack
from robustdml_ext.evaluation.attacked import Attacked, attack_subject, one_route
from robustdml_ext.evaluation.figures import (
    Figures,
    Wanted,
    clean_ranks,
    is_raised,
    measure,
    measure_attacked,
    recalls,
    worst,
)
from robustdml_ext.evaluation.score import relative
from robustdml_ext.evaluation.subject import Subject, broken
from robustdml_ext.evaluation.surrogate import distilled_surrogate
from robustdml_ext.evaluation.threats import BOTH_SIDES, EVERY_ROUTE, QUERIES, ThreatModel

_MOST_SAMPLES = 128


@dataclass(frozen=True)
class Flow:
    """What a route's gradients look like on some images, evenly spaced over the queries.

    Attributes:
        flows: there is a gradient at all.
        zero_share: of images whose gradient is exactly zero.
        finite: embeddings and gradients hold no NaN and no infinity.
    """

    flows: bool
    zero_share: float
    finite: bool


@dataclass
class Judge:
    """Judges one subject under one attack after another; what is clean is measured once.

    Attributes:
        subject: the model and its images.
        wanted: which figures.
        seed: of targets, random starts, and the surrogate.
        surrogate: whose gradients the attack "transfer" uses; None: one that is taught the model's embeddings.
    """

    subject: Subject
    wanted: Wanted
    seed: int = 0
    surrogate: nn.Module | None = None
    _lost: Tensor | None = field(default=None, init=False)
    _clean: Figures | None = field(default=None, init=False)
    _flows: dict[str, Flow] | None = field(default=None, init=False)
    _samples: list[Tensor] | None = field(default=None, init=False)
    _known: dict[str, nn.Module] = field(default_factory=dict, init=False)

    @property
    def clean(self) -> Figures:
        """The figures without an attack."""
        if self._clean is None:
            self._clean = measure(self.subject, self.subject.clean(), self.wanted)
        return self._clean

    @property
    def samples(self) -> list[Tensor]:
        """Batches of at most 128 queries' pixels in all, evenly spaced over the set."""
        if self._samples is None:
            self._samples = [pixels for pixels, _ in self.subject.sample(QUERIES, _MOST_SAMPLES)]
        return self._samples

    @property
    def flows(self) -> dict[str, Flow]:
        """Of each route, whether gradients come through."""
        if self._flows is None:
            self._flows = {
                name: _flow(route, self.samples, self.subject, self.seed) for name, route in self._routes().items()
            }
        return self._flows

    def _routes(self) -> Mapping[str, nn.Module]:
        if not self._known:
            # Kept, as some of them are made anew at each call, and their clean embeddings are kept by module.
            self._known = routes(self.subject.model)
        return self._known

    @property
    def _under_attack(self) -> Wanted:
        """The figures of attacked images: all but the EER, which at N² pairs takes as long as an attack."""
        return replace(self.wanted, groups=tuple(name for name in self.wanted.groups if name != "verification"))

    def ways(self, threat: ThreatModel) -> dict[str, nn.Module]:
        """The modules whose gradients the threat uses, by name; none where no gradient comes through."""
        if threat.name == "transfer":
            if self.surrogate is None:
                self.surrogate = distilled_surrogate(self.subject, self.seed)
            return {"surrogate": self.surrogate}
        if threat.route != EVERY_ROUTE:
            return {threat.route: one_route(self.subject, threat)}
        return {name: route for name, route in self._routes().items() if self.flows[name].flows}

    def attack(self, threat: ThreatModel, chosen: Tensor | None = None) -> tuple[Figures, dict[str, Any]]:
        """The figures under one threat, and its entry of the report.

        Args:
            threat: the attack.
            chosen: rows of the queries to attack and to count, int64; None for all.

        Raises:
            ValueError: all images are of one class.
        """
        began = time.perf_counter()
        classes = self.subject.all_labels.unique()
        if len(classes) < 2:
            raise ValueError(f"images: expected at least 2 classes to attack, got 1, label {int(classes[0])}")
        attacked, found = {}, {}
        for name, route in self.ways(threat).items():
            attacked[name] = attack_subject(self.subject, threat, self.seed, route=route, chosen=chosen)
            self._note(attacked[name])
            found[name] = measure_attacked(self.subject, attacked[name], threat, self._under_attack)
        side, clean = threat.attacked_side, self.clean
        if not found:
            # Without a gradient there is no attack, which a check reports.
            found = {"none": clean if side == BOTH_SIDES else Figures(recalls(clean.ahead, self.wanted), clean.ahead)}
        figures = worst(list(found.values()), self.wanted, raised=is_raised(threat))
        if chosen is not None:
            ahead = figures.ahead[chosen]
            figures = Figures(recalls(ahead, self.wanted), ahead)
        before = {name: value for name, value in clean.metrics.items() if name in figures.metrics}
        if "rank" in figures.metrics:
            before["rank"] = clean_ranks(self.subject, next(iter(attacked.values())), threat)
        entry = entry_of(
            threat.name,
            figures.metrics,
            before,
            threat=asdict(threat),
            perturbation=_perturbation(attacked),
            routes={name: one.metrics for name, one in found.items()},
            seconds=time.perf_counter() - began,
        )
        return figures, entry

    @property
    def broken(self) -> int:
        """How many images had an embedding that was not finite, clean or under any attack so far."""
        return int(self._seen_broken().sum())

    def _seen_broken(self) -> Tensor:
        if self._lost is None:
            clean = self.subject.clean()
            self._lost = broken(clean.all())
        return self._lost

    def _note(self, attacked: Attacked) -> None:
        lost, embedded = self._seen_broken(), attacked.embedded
        # The gallery's rows begin behind the queries', or are the same.
        first = len(embedded.queries) if self.subject.separate else 0
        lost[: len(embedded.queries)] |= broken(embedded.queries)
        lost[first:] |= broken(embedded.gallery)
        if attacked.moved is not None and attacked.candidates is not None:
            lost[first + attacked.candidates[broken(attacked.moved), 0]] = True


def entry_of(
    name: str,
    metrics: Mapping[str, float],
    clean: Mapping[str, float],
    *,
    threat: dict[str, Any] | None = None,
    corruption: dict[str, Any] | None = None,
    perturbation: dict[str, float] | None = None,
    routes: Mapping[str, Mapping[str, float]] | None = None,
    seconds: float = 0.0,
) -> dict[str, Any]:
    """An entry of `RobustnessReport.entries`."""
    return {
        "attack": name,
        "threat": threat,
        "corruption": corruption,
        "metrics": dict(metrics),
        "clean": dict(clean),
        "relative": relative(metrics, clean),
        "perturbation": perturbation,
        "routes": {key: dict(value) for key, value in (routes or {}).items()},
        "seconds": seconds,
    }


def worst_entry(norm: str, epsilon: float, figures: Figures, attacks: Sequence[str], clean: Figures) -> dict[str, Any]:
    """The entry of the worst of some attacks at one ε, as `figures.worst_cases` found it."""
    threat = {"name": "worst", "epsilon": epsilon, "norm": norm, "attacks": list(attacks)}
    before = {name: clean.metrics[name] for name in figures.metrics if name in clean.metrics}
    return entry_of("worst", figures.metrics, before, threat=threat)


def _perturbation(attacked: Mapping[str, Attacked]) -> dict[str, float]:
    """The largest over routes, and the mean of their means."""
    every = [one.perturbation.figures() for one in attacked.values()]
    if not every:
        return {"linf_max": 0.0, "linf_mean": 0.0, "l2_max": 0.0, "l2_mean": 0.0}
    largest = {key: max(one[key] for one in every) for key in ("linf_max", "l2_max")}
    mean = {key: sum(one[key] for one in every) / len(every) for key in ("linf_mean", "l2_mean")}
    return {key: (largest | mean)[key] for key in ("linf_max", "linf_mean", "l2_max", "l2_mean")}


def _flow(route: nn.Module, samples: Sequence[Tensor], subject: Subject, seed: int) -> Flow:
    """Gradients of a random projection of the embeddings, which no objective can have switched off, near the images."""
    generator = torch.Generator().manual_seed(seed)
    flows, finite = False, True
    zero: list[Tensor] = []
    with subject.autocast("float32"), under_attack(route, "eval"):
        for pixels in samples:
            noise = (torch.rand(pixels.shape, generator=generator) * 2 - 1) * (2 / 255)
            images = (pixels.detach() + noise.to(pixels)).clamp(0, 1).requires_grad_()
            embeddings = route(images)
            finite &= bool(embeddings.isfinite().all())
            direction = torch.randn(embeddings.shape, generator=generator).to(embeddings)
            gradient = None
            if embeddings.requires_grad:
                (gradient,) = torch.autograd.grad((embeddings * direction).sum(), images, allow_unused=True)
            if gradient is None:
                zero.append(torch.ones(len(pixels), dtype=torch.bool))
                continue
            flows = True
            finite &= bool(gradient.isfinite().all())
            zero.append((gradient.flatten(1) == 0).all(1).cpu())
    return Flow(flows, float(torch.cat(zero).double().mean()), finite)
