"""The figure of a comparison: what an attack's strength does to retrieval, and to clusters or density."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from robustdml_ext.reporting.curves import (
    Point,
    against_epsilon,
    against_steps,
    attacks_of,
    members_beside,
    row_of_members,
    swept_epsilon,
    usual_steps,
)
from robustdml_ext.reporting.labels import algorithm_label, inputs_label, pixels_label
from robustdml_ext.reporting.results import Group, ReportError
from robustdml_ext.reporting.style import COLORS, FAINT, STYLE, draw_line, name_below, rule, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST = 5  # attacks side by side
_RECALL = ("recall@1", "Recall@1, %", 100.0)
_DENSITY = ("pi_ratio", "π ratio (lower is denser)", 1.0)
_CLUSTERS = ("f1", "F1, %", 100.0)
# Of classifiers, each head through itself.
_ACCURACIES = (("accuracy_similarity", "accuracy of SIM, %", 100.0), ("accuracy_dense", "accuracy of DOL, %", 100.0))
_NAMES = tuple(name for name, _, _ in (_RECALL, _DENSITY, _CLUSTERS, *_ACCURACIES))


@dataclass(frozen=True)
class Column:
    """One column of panels, a panel for each metric: what it shows, its words, and what draws a panel."""

    shows: Literal["epsilon", "steps", "members"]
    title: str
    axis: str
    draw: Callable[[Axes, str, float], None]
    width: float = 3.7
    lines: Literal["both", "y"] = "both"


def draw_comparison(groups: Sequence[Group], file: str | Path) -> None:
    """Draw R@1, and π_ratio (MDProp) or F1 (EAT, figures 2 to 4), one line a method, with a band of one deviation.

    Of classifiers the accuracy of each head, attacked through itself, in their place.

    A column for every attack has ε below; a further one its number of gradient steps, where results at one ε hold
    several; and the last one, where members of an ensemble were judged alone, each of them beside every method.

    Args:
        groups: from :func:`~robustdml_ext.reporting.group_results`.
        file: where to write; its ending chooses the format (png, svg, pdf).

    Raises:
        ReportError: no result holds an attack, or the format is not one that can be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = robustness_columns(groups)
    if not columns:
        raise ReportError("these results hold no attack to draw; name some by --eval-attacks and --attack-epsilons")
    metrics = robustness_metrics(groups)
    widths = [column.width for column in columns]
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            len(metrics), len(columns), figsize=(sum(widths) + 0.4, 2.7 * len(metrics)), sharex="col",
            squeeze=False, width_ratios=widths, layout="constrained",
        )  # fmt: skip
        for row, (metric, heading, scale) in enumerate(metrics):
            for number, column in enumerate(columns):
                axes = grid[row][number]
                # Curves compare over columns; bars begin at 0, which would flatten the curves.
                if number > 0 and column.lines == "both":
                    axes.sharey(grid[row][0])
                    axes.tick_params(labelleft=False)
                column.draw(axes, metric, scale)
                rule(axes, column.lines)
                if number == 0:
                    axes.set_ylabel(heading)
                if row == 0:
                    axes.set_title(column.title, fontsize=10)
                if row == len(metrics) - 1:
                    axes.set_xlabel(column.axis)
        name_below(figure, grid[0], [group.label for group in groups], sum(widths) + 0.4)
        write_figure(figure, file)


def robustness_metrics(groups: Sequence[Group]) -> tuple[tuple[str, str, float], ...]:
    """The metrics that are drawn, each with its heading and its scale.

    The EAT paper's two where attacks are away from the clean embedding, and MDProp's two where they are its own.

    Of classifiers alone the accuracy of each head.
    """
    rows = [row for group in groups for row in group.rows.values()]
    if not any("recall@1" in row for row in rows):
        heads = tuple(metric for metric in _ACCURACIES if any(metric[0] in row for row in rows))
        if heads:
            return heads
    names = attacks_of(groups)
    clustered = any("f1" in row for group in groups for row in group.rows.values())
    eat = "away" in names and not {"stax", "mtax"} & set(names) and clustered
    return (_RECALL, _CLUSTERS if eat else _DENSITY)


def robustness_columns(groups: Sequence[Group]) -> list[Column]:
    """What a comparison's figure has beside each other; nothing, where no result holds an attack."""
    attacks = attacks_of(groups)[:_MOST]
    columns = [_epsilon_column(groups, attack) for attack in attacks]
    for attack in attacks:
        epsilon = swept_epsilon(groups, attack)
        if epsilon is not None:
            columns.append(_steps_column(groups, attack, epsilon))
    row = row_of_members(groups)
    return [*columns, _members_column(groups, row)] if row is not None else columns


def _epsilon_column(groups: Sequence[Group], attack: str) -> Column:
    steps = usual_steps(groups, attack)
    curves = {metric: [against_epsilon(group, attack, metric, steps) for group in groups] for metric in _NAMES}
    radii = {point.x for of_metric in curves.values() for points in of_metric for point in points}
    levels = all("/255" in pixels_label(radius) for radius in radii if radius)

    def draw(axes: Axes, metric: str, scale: float) -> None:
        _draw_curves(axes, groups, curves[metric], scale)
        if levels:
            ticks = sorted(radii)
            axes.set_xticks(ticks, [str(round(255 * tick)) for tick in ticks])
        axes.set_xlim(left=-0.03 * axes.get_xlim()[1])  # so that markers at ε = 0 are whole

    unit = "255ths of the pixels' range" if levels else "pixels of [0, 1]"
    return Column("epsilon", _attack_title(groups, attack, steps), f"ε of the attack, in {unit}", draw)


def _steps_column(groups: Sequence[Group], attack: str, epsilon: float) -> Column:
    def draw(axes: Axes, metric: str, scale: float) -> None:
        curves = [against_steps(group, attack, metric, epsilon) for group in groups]
        _draw_curves(axes, groups, curves, scale)
        # Logarithmic from 1 on, with room for clean images at 0.
        axes.set_xscale("symlog", linthresh=1, linscale=0.5)
        ticks = sorted({point.x for curve in curves for point in curve})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()

    name = "away from clean" if attack == "away" else attack
    return Column("steps", f"{name}, ε = {pixels_label(epsilon)}", "gradient steps of the attack", draw)


def _members_column(groups: Sequence[Group], row: str) -> Column:
    threat = next(group.threats[row] for group in groups if row in group.threats)
    count = max(len(members_beside(groups, row, metric)) for metric in _NAMES)

    def draw(axes: Axes, metric: str, scale: float) -> None:
        bars = members_beside(groups, row, metric)
        for place, bar in enumerate(bars):
            color = COLORS[bar.group % len(COLORS)]
            axes.bar(
                place, scale * bar.mean, yerr=scale * bar.deviation or None, width=0.75, color=color,
                alpha=0.45 if bar.member else 1.0, error_kw={"elinewidth": 1, "ecolor": FAINT},
            )  # fmt: skip
        axes.set_xticks(range(len(bars)), [bar.label for bar in bars], rotation=50, ha="right", rotation_mode="anchor")

    return Column(
        "members", f"members alone: {inputs_label(threat)}", "", draw, width=max(3.7, 0.6 + 0.32 * count), lines="y"
    )


def _draw_curves(axes: Axes, groups: Sequence[Group], curves: Sequence[Sequence[Point]], scale: float) -> None:
    for number, (group, points) in enumerate(zip(groups, curves, strict=True)):
        draw_line(axes, number, group.label, points, scale)


def _attack_title(groups: Sequence[Group], attack: str, steps: int | None) -> str:
    found = [threat for group in groups for threat in group.threats.values() if threat and threat["name"] == attack]
    threat = next((threat for threat in found if threat.get("steps") == steps), found[0])
    if attack == "worst":
        return f"worst of {len(threat['attacks'])} attacks"
    if attack == "away":
        return f"{algorithm_label(threat)}, away from clean"
    targets = {"stax": ", one target", "mtax": f", {threat.get('targets')} targets"}
    name = attack.upper() if attack in ("stax", "mtax") else attack
    return f"{name}: {algorithm_label(threat)}{targets.get(attack, '')}"
