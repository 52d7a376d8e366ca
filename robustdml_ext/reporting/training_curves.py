"""Curves of runs that have ended, or still run, out of ``metrics.jsonl``: mean and deviation over seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from robustdml_ext.reporting.curves import Point
from robustdml_ext.reporting.labels import is_plain, method_label
from robustdml_ext.reporting.results import ReportError, group_key, mean_and_deviation, tell_apart
from robustdml_ext.reporting.tables import figure_text, metric_heading, small_is_good

# The kinds of lines that are drawn, in this order, and what they are of.
KINDS = {
    "seen": "training images",
    "test": "test images",
    "validation": "validation images",
    "train": "training batches",
}
# What a method whose loss is one term, of clean images, logs that term as.
_ELSE = {"loss/metric": "loss"}

Lines = list[dict[str, Any]]


@dataclass
class CurveGroup:
    """The curves of runs of one recipe with several seeds.

    Attributes:
        label: short name, unique among the groups compared.
        recipe: the recipe of the first run.
        judged: nothing, as curves are all judged alike; see :class:`~robustdml_ext.reporting.Group`.
        seeds: one for each run.
        runs: the lines of each run's ``metrics.jsonl``.
    """

    label: str
    recipe: dict[str, Any]
    judged: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    runs: list[Lines] = field(default_factory=list)


@dataclass(frozen=True)
class Curve:
    """A metric of one kind of line over training: `points` over iterations, means of so many runs."""

    points: list[Point]
    runs: int


def read_curves(path: str | Path) -> tuple[dict[str, Any], Lines]:
    """Return a run's recipe and the lines of its curves so far.

    Args:
        path: the run's folder, or a file in it.

    Raises:
        ReportError: there are none, or they are not ours.
    """
    place = Path(path)
    if not place.exists():
        raise ReportError(f"no curves at {path}: name the folder of a run that has begun")
    folder = place if place.is_dir() else place.parent
    file = folder / "metrics.jsonl"
    try:
        recipe = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8"))["recipe"]
        text = file.read_text(encoding="utf-8")
        # A run that goes on may be amid its last line.
        lines = [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
        if not all(isinstance(line, dict) and {"kind", "step"} <= set(line) for line in lines):
            raise TypeError("a line lacks `kind` or `step`")
        method_label(recipe)
    except FileNotFoundError as error:
        raise ReportError(f"no curves at {error.filename}: name the folder of a run that has begun") from None
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError) as error:
        raise ReportError(f"{folder} holds no curves of a run ({type(error).__name__}: {error})") from None
    return dict(recipe), lines


def group_curves(runs: Iterable[tuple[dict[str, Any], Lines]]) -> list[CurveGroup]:
    """Put together the runs whose recipes differ in nothing but the seed and where they ran.

    Raises:
        ReportError: the same recipe and seed came twice, which would count one run as two.
    """
    groups: dict[str, CurveGroup] = {}
    for recipe, lines in runs:
        group = groups.setdefault(group_key(recipe, {}), CurveGroup(method_label(recipe), recipe))
        if recipe["seed"] in group.seeds:
            raise ReportError(
                f"two runs of {group.label} have one recipe and the seed {recipe['seed']}; give each once"
            )
        group.seeds.append(recipe["seed"])
        group.runs.append(lines)
    found = list(groups.values())
    tell_apart(found)
    return found


def curve(group: CurveGroup, kind: str, metric: str) -> Curve:
    """Return the mean and the deviation of a metric over training.

    At the steps that all runs have which have the metric at all: where some are behind, the curve ends with them, since
    a mean over fewer seeds would jump. ``loss/metric`` is the ``loss`` of a run whose loss is that term alone.
    """
    name = _ELSE.get(metric) if is_plain(group.recipe) else None
    every = [found for lines in group.runs if (found := _values(lines, kind, metric, name))]
    steps = sorted(set.intersection(*map(set, every))) if every else []
    points = []
    for step in steps:
        mean, deviation = mean_and_deviation([found[step] for found in every])
        points.append(Point(step, mean, deviation or 0.0))
    return Curve(points, len(every))


def _values(lines: Sequence[Mapping[str, Any]], kind: str, metric: str, otherwise: str | None) -> dict[int, float]:
    of_kind = [line for line in lines if line["kind"] == kind]
    if otherwise is not None and not any(metric in line for line in of_kind):
        metric = otherwise
    values = {line["step"]: line.get(metric) for line in of_kind}
    return {step: float(value) for step, value in values.items() if value is not None and math.isfinite(value)}


def panels(groups: Sequence[CurveGroup], metrics: Sequence[str]) -> list[tuple[str, str]]:
    """Return the metrics and the kinds of lines that any of the groups has them in.

    Raises:
        ReportError: a metric that no run has; the message names those that there are.
    """
    found = [
        (metric, kind) for metric in metrics for kind in KINDS if any(curve(g, kind, metric).points for g in groups)
    ]
    known = {
        name for group in groups for lines in group.runs for line in lines if line["kind"] in KINDS for name in line
    }
    for metric in metrics:
        if not any(metric == name for name, _ in found):
            names = ", ".join(sorted(known - {"kind", "step", "epoch"})) or "none yet"
            raise ReportError(f"no run has a curve of {metric!r}; there are: {names}")
    return found


def best_point(metric: str, points: Sequence[Point]) -> Point:
    """Return the best mean: the smallest of a loss and of what should be small, the largest of all else."""
    small = metric.startswith(("loss", "generator/", "objective/", "distance/")) or small_is_good(metric)
    return (min if small else max)(points, key=lambda point: point.mean)


def curves_table(groups: Sequence[CurveGroup], metrics: Sequence[str]) -> Table:
    """Return each curve's last and best values, mean ± deviation over seeds; the best is that of the mean.

    Raises:
        ReportError: as `panels`.
    """
    table = Table(title="Curves: mean ± standard deviation over seeds", title_justify="left")
    for heading, justify in (("curve", "left"), ("seeds", "right"), ("last", "right"), ("at", "right")):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    for heading in ("best", "at"):
        table.add_column(heading, justify="right")
    for number, (metric, kind) in enumerate(panels(groups, metrics)):
        heading, percent = metric_heading(metric)
        if number:
            table.add_section()
        table.add_row(f"{heading}, {KINDS[kind]}", style="bold")
        for group in groups:
            found = curve(group, kind, metric)
            cells = []
            if found.points:
                for point in (found.points[-1], best_point(metric, found.points)):
                    deviation = None if found.runs == 1 else point.deviation
                    cells += [figure_text(point.mean, deviation, percent), f"{point.x:g}"]
            seeds = str(found.runs) if found.runs == len(group.runs) else f"{found.runs} of {len(group.runs)}"
            table.add_row(f"  {escape(group.label)}", seeds, *cells)
    return table
