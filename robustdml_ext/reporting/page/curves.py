"""The figures of training curves and of an attack's strength, a panel each, so that they stack on a narrow screen."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from robustdml_ext.reporting.curves import members_beside, row_of_members
from robustdml_ext.reporting.figures import robustness_columns, robustness_metrics
from robustdml_ext.reporting.page.bars import BarSeries, draw_bars
from robustdml_ext.reporting.page.drawing import Panel, draw_panel
from robustdml_ext.reporting.page.runs import PageGroup
from robustdml_ext.reporting.results import Group, mean_and_deviation
from robustdml_ext.reporting.style import rule
from robustdml_ext.reporting.tables import figure_text, metric_heading
from robustdml_ext.reporting.training_curves import KINDS, panels
from robustdml_ext.reporting.training_figure import draw_panel as paint_curve

# Stages in the order in which a step goes through them; others follow.
STAGES = ("data", "step", "attack", "forward", "backward", "update", "other", "evaluation", "checkpoint")
JUDGING = "judging"
_WHOLE = "whole model"
_MOST_TERMS = 12  # of a loss
_RECALLS = ("recall@1", "accuracy_similarity", "accuracy_dense")


def training_panels(groups: Sequence[PageGroup]) -> tuple[list[Panel], list[Panel]]:
    """Return the panels of recall over training, and those of the loss and its terms."""
    curves = [group.curves for group in groups]
    logged = {
        name: None
        for group in curves
        for lines in group.runs
        for line in lines
        if line["kind"] in KINDS
        for name in line
    }
    recalls = [name for name in _RECALLS if name in logged]
    losses = sorted((name for name in logged if name == "loss" or name.startswith("loss/")), key=_term_order)
    drawn: list[list[Panel]] = []
    for part, names in (("recall", recalls), ("loss", losses[:_MOST_TERMS])):
        drawn.append([])
        for number, (metric, kind) in enumerate(panels(curves, names) if names else []):
            what = f"{metric_heading(metric)[0]} of {KINDS[kind]} against iterations"
            paint = partial(paint_curve, groups=curves, metric=metric, kind=kind)
            drawn[-1].append(draw_panel(f"curve-{part}-{number}", what, paint))
    return drawn[0], drawn[1]


def _term_order(name: str) -> tuple[bool, str]:
    return name != "loss", name


def robustness_panels(groups: Sequence[PageGroup]) -> dict[str, list[list[Panel]]]:
    """Return the panels against ε (``epsilon``), against the attack's steps, and of ensembles' members, by metric."""
    results = [group.results for group in groups]
    drawn: dict[str, list[list[Panel]]] = {"epsilon": [], "steps": [], "members": []}
    for metric, heading, scale in robustness_metrics(results):
        if not any(metric in row for group in results for row in group.rows.values()):
            continue
        of_metric: dict[str, list[Panel]] = {}
        for number, column in enumerate(robustness_columns(results)):
            if column.shows == "members":
                continue

            def paint(
                axes: Any, column: Any = column, metric: str = metric, of: tuple[str, float] = (heading, scale)
            ) -> None:
                column.draw(axes, metric, of[1])
                rule(axes, column.lines)
                axes.set_ylabel(of[0])
                axes.set_xlabel(column.axis)
                axes.set_title(column.title, fontsize=10)

            alt = f"{heading} under {column.title} against {column.axis}"
            identity = f"robustness-{metric.replace('@', '')}-{number}"
            of_metric.setdefault(column.shows, []).append(draw_panel(identity, alt, paint))
        if (panel := _members(results, metric, heading, scale)) is not None:
            of_metric["members"] = [panel]
        for shows, row in of_metric.items():
            drawn[shows].append(row)
    for shows, rows in drawn.items():
        if all(len(row) == 1 for row in rows):  # of one attack all metrics beside each other
            drawn[shows] = [[panel for row in rows for panel in row]] if rows else []
    return drawn


def _members(results: Sequence[Group], metric: str, heading: str, scale: float) -> Panel | None:
    """Every method beside its members judged alone, under the attack that most of them were judged under."""
    row = row_of_members(results)
    if row is None:
        return None
    found: dict[int, dict[str, tuple[float, float | None, str]]] = {}
    for bar in members_beside(results, row, metric):
        mean, deviation = scale * bar.mean, scale * bar.deviation
        name = bar.label if bar.member else _WHOLE
        found.setdefault(bar.group, {})[name] = (mean, deviation, figure_text(bar.mean, None, scale == 100.0))
    series = [BarSeries(number, results[number].label, bars) for number, bars in found.items()]
    names = list(dict.fromkeys([_WHOLE, *(name for one in series for name in one.bars)]))
    what = f"{heading} under {row}"
    most = 100.0 if scale == 100.0 else None
    return draw_bars(f"members-{metric.replace('@', '')}", f"Members alone: {what}", names, series, what, most)


def time_panel(groups: Sequence[PageGroup]) -> Panel | None:
    """Return the seconds of every stage, with their share of the run's; None where no run has ended."""
    series = []
    for number, group in enumerate(groups):
        found: dict[str, list[float]] = {}
        for run in group.runs:
            timing = (run.result or {}).get("timing") or {}
            seconds = dict(timing.get("seconds") or {})
            if timing.get("judging_seconds") is not None:
                seconds[JUDGING] = timing["judging_seconds"]
            for stage, value in seconds.items():
                found.setdefault(stage, []).append(float(value))
        means = {stage: mean_and_deviation(values) for stage, values in found.items()}
        total = sum(mean for mean, _ in means.values())
        if total:
            bars = {
                stage: (mean, deviation, f"{_seconds(mean)} ({mean / total:.0%})")
                for stage, (mean, deviation) in means.items()
            }
            series.append(BarSeries(number, group.label, bars))
    if not series:
        return None
    known = {stage: None for one in series for stage in one.bars}
    names = sorted(known, key=lambda stage: (stage == JUDGING, _place(stage)))
    return draw_bars("time-bars", "Seconds spent in each stage", names, series, "seconds, and share of the whole run")


def _place(stage: str) -> int:
    return STAGES.index(stage) if stage in STAGES else len(STAGES)


def _seconds(value: float) -> str:
    if value >= 7200:
        return f"{value / 3600:.1f} h"
    return f"{value / 60:.1f} min" if value >= 120 else f"{value:.3g} s"
