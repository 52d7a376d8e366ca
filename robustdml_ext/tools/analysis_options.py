"""What `run analyze` can be asked for, and the attack that map and sheets are under."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from robustdml_ext.evaluation import ATTACKS, CLASS_ATTACKS, ClassThreat, ThreatModel, standard_threat
from robustdml_ext.evaluation.protocol import varied
from robustdml_ext.evaluation.threats import GALLERY
from robustdml_ext.recipes import Recipe
from robustdml_ext.training import RunRefusedError

Threat = ThreatModel | ClassThreat


@dataclass(frozen=True)
class AnalysisOptions:
    """What is asked of an analysis.

    Attributes:
        attack: name of the map's and the sheets' attack; None for the run's first one that moves queries.
        epsilon, steps: in place of the attack's own.
        classes, images_per_class: of the map, at most.
        queries: of each sheet, at most.
        seed: of what is drawn, and of the map.
    """

    attack: str | None = None
    epsilon: float | None = None
    steps: int | None = None
    classes: int = 12
    images_per_class: int = 40
    queries: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        known = [*ATTACKS, *CLASS_ATTACKS]
        if self.attack is not None and self.attack not in known:
            raise ValueError(f"attack must be one of {', '.join(known)}; got {self.attack!r}")
        for name in ("classes", "images_per_class", "queries", "steps"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


def choose_threat(result: Mapping[str, Any], recipe: Recipe, options: AnalysisOptions) -> Threat | None:
    """Return the attack of map and sheets: the run's own, by default its first on queries; None where it has none.

    One that is asked for by a name that the run was not attacked by is as `evaluate` runs it.

    Raises:
        RunRefusedError: an attack on gallery items, or one that is on a classifier that the run has not.
        ValueError: a number out of its range.
    """
    own = [_threat_of(entry["threat"]) for entry in result["results"] if entry["threat"] is not None]
    known = [threat for threat in own if threat is not None]
    name = options.attack
    if name is not None:
        of_class = name in CLASS_ATTACKS
        if of_class and (recipe.method != "prototypes" or result["data"].get("zero_shot", True)):
            raise RunRefusedError(f"attack {name} is on a classifier of the test classes, which this run is not")
        if not of_class and ATTACKS[name].attacked == GALLERY:
            raise RunRefusedError(f"attack {name} moves gallery items; map and sheets show attacked queries")
        found = next((threat for threat in known if threat.name == name), None) or _standard(name, recipe, options)
    else:
        movers = (threat for threat in known if isinstance(threat, ClassThreat) or threat.attacked_side != GALLERY)
        first = next(movers, None)
        if first is None:
            return None
        found = first
    if options.epsilon is None and options.steps is None:
        return found
    epsilon, steps = options.epsilon or found.epsilon, options.steps or found.steps
    if isinstance(found, ThreatModel):
        return varied(found, epsilon, steps)
    scale = epsilon / found.epsilon
    step = None if found.step_size is None or steps != found.steps else found.step_size * scale
    return replace(found, epsilon=epsilon, steps=steps, step_size=step, random_start=(found.random_start or 0) * scale)


def _threat_of(record: Mapping[str, Any]) -> Threat | None:
    """A threat as a result has it; None for the worst of several, which is none by itself."""
    name = record["name"]
    if name not in ATTACKS and name not in CLASS_ATTACKS:
        return None
    kind = ThreatModel if name in ATTACKS else ClassThreat
    return kind(**{field.name: record[field.name] for field in fields(kind) if field.name in record})


def _standard(name: str, recipe: Recipe, options: AnalysisOptions) -> Threat:
    epsilon, steps = options.epsilon or recipe.attack_epsilons[0], options.steps or recipe.eval_steps
    if name in ATTACKS:
        return standard_threat(name, epsilon, steps=steps, norm=recipe.eval_norm)
    return ClassThreat(name, epsilon, steps, norm=recipe.eval_norm)
