"""What a comparison's figure shows: figures of merit against ε, against the attack's steps, and member by member."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustdml_ext.reporting.labels import CLEAN
from robustdml_ext.reporting.results import Group, mean_and_deviation

Rows = Mapping[str, Mapping[str, list[float]]]


@dataclass(frozen=True)
class Point:
    """A mean over seeds: at `x`, with the sample deviation `deviation`, 0 where there is one seed."""

    x: float
    mean: float
    deviation: float


@dataclass(frozen=True)
class Bar:
    """One embedder of the figure of members: a method's whole model, or one member of it."""

    group: int
    label: str
    member: bool
    mean: float
    deviation: float


def attacks_of(groups: Sequence[Group]) -> list[str]:
    """The names of all attacks, those of the two papers first, then the worst of a suite."""
    names = {threat["name"]: None for group in groups for threat in group.threats.values() if threat is not None}
    first = ("stax", "mtax", "away", "worst")
    return sorted(names, key=lambda name: first.index(name) if name in first else len(first))


def usual_steps(groups: Sequence[Group], attack: str) -> int | None:
    """The number of steps that the attack was run with at most values of ε; None where it has no steps.

    Of equally many the recipe's, or else the fewest.
    """
    runs = {
        (threat["steps"], threat["epsilon"])
        for group in groups
        for threat in group.threats.values()
        if threat is not None and threat["name"] == attack and threat.get("steps") is not None
    }
    counts = Counter(steps for steps, _ in runs)
    asked = {group.recipe.get("eval_steps") for group in groups}
    return min(counts, key=lambda steps: (-counts[steps], steps not in asked, steps)) if counts else None


def swept_epsilon(groups: Sequence[Group], attack: str) -> float | None:
    """The ε at which the attack was run with several numbers of steps; with the most, and of such the smallest."""
    found: dict[float, set[int]] = {}
    for group in groups:
        for threat in group.threats.values():
            if threat is not None and threat["name"] == attack and threat.get("steps") is not None:
                found.setdefault(float(threat["epsilon"]), set()).add(threat["steps"])
    swept = {epsilon: steps for epsilon, steps in found.items() if len(steps) > 1}
    return min(swept, key=lambda epsilon: (-len(swept[epsilon]), epsilon)) if swept else None


def against_epsilon(group: Group, attack: str, metric: str, steps: int | None) -> list[Point]:
    """A method's curve over ε, from clean images at ε = 0; of several numbers of steps, the one asked for."""
    return sorted(
        (
            Point(0.0 if threat is None else float(threat["epsilon"]), mean, deviation)
            for threat, mean, deviation in _figures(group.rows, group.threats, attack, metric)
            if threat is None or threat.get("steps") == steps
        ),
        key=lambda point: point.x,
    )


def against_steps(group: Group, attack: str, metric: str, epsilon: float) -> list[Point]:
    """A method's curve over the attack's steps at one ε, from clean images at 0 steps; empty without a sweep."""
    points = [
        Point(0 if threat is None else threat["steps"], mean, deviation)
        for threat, mean, deviation in _figures(group.rows, group.threats, attack, metric)
        if threat is None or threat["epsilon"] == epsilon
    ]
    return sorted(points, key=lambda point: point.x) if len(points) > 1 else []


def members_beside(groups: Sequence[Group], row: str, metric: str) -> list[Bar]:
    """Every method's figure under the attack of one row, each ensemble's followed by its members'."""
    bars = []
    for number, group in enumerate(groups):
        named = [(group.label, group.rows)]
        named += [(f"member {which}", rows) for which, rows in enumerate(group.members, 1)]
        for label, rows in named:
            values = rows.get(row, {}).get(metric, [])
            if values and None not in values:
                mean, deviation = mean_and_deviation(values)
                bars.append(Bar(number, label, rows is not group.rows, mean, deviation or 0.0))
    return bars


def row_of_members(groups: Sequence[Group]) -> str | None:
    """The attack that most methods and members were judged under, at the ε whose steps vary, or else the smallest."""
    judged = Counter(row for group in groups for rows in group.members for row in rows if row != CLEAN)
    if not judged:
        return None
    threats = {name: threat for group in groups for name, threat in group.threats.items()}
    beside = Counter(row for group in groups for row in group.rows)

    def order(row: str) -> tuple[int, int, bool, float, bool]:
        threat = threats[row] or {}
        usual = usual_steps(groups, threat.get("name", ""))
        swept, epsilon = swept_epsilon(groups, threat.get("name", "")), float(threat.get("epsilon", 0))
        return -judged[row], -beside[row], swept not in (None, epsilon), epsilon, threat.get("steps") != usual

    return min(judged, key=order)


def _figures(
    rows: Rows, threats: Mapping[str, dict[str, Any] | None], attack: str, metric: str
) -> Iterator[tuple[dict[str, Any] | None, float, float]]:
    """The rows of clean images and of the attack that have the metric: threat, mean, deviation."""
    for name, row in rows.items():
        threat = threats[name]
        wanted = name == CLEAN or (threat is not None and threat["name"] == attack)
        if wanted and metric in row and None not in row[metric]:
            mean, deviation = mean_and_deviation(row[metric])
            yield threat, mean, deviation or 0.0
