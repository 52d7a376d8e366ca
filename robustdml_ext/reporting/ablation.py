"""An ablation: figures of runs that differ in one option, a row a value, as table 1 of the ECAML paper has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table

from robustdml_ext.reporting.curves import Point
from robustdml_ext.reporting.labels import CLEAN, SEEN
from robustdml_ext.reporting.results import Group, ReportError, mean_and_deviation
from robustdml_ext.reporting.style import STYLE, draw_line, name_below, rule, write_figure
from robustdml_ext.reporting.tables import figure_columns, figure_text, metric_heading, small_is_good

_FIGURE = ("recall@1", "nmi", "pi_ratio", "accuracy_similarity", "accuracy_dense")
# Of images other than clean test images.
_OF_OTHERS = ("recall@1", "accuracy_similarity", "accuracy_dense")


@dataclass(frozen=True)
class _Column:
    """A column of the table: a figure of one kind of images."""

    images: str
    metric: str
    heading: str
    percent: bool


def ablation_table(option: str, groups: Sequence[Group], values: Sequence[str]) -> Lines:
    """Return the ablation for the screen: clean figures, and Recall@1 of training images and under attacks.

    Args:
        option: what was varied.
        groups: for each value its runs with all seeds, none where all of them failed.
        values: as they were asked for.
    """
    columns = _columns(groups)
    clean = [column for column in columns if column.images == CLEAN]
    others = [column for column in columns if column.images != CLEAN]
    several = any(len(group.seeds) > 1 for group in groups)
    if several:  # deviations take their room: of all recalls the first and the last
        between = [column for column in clean if column.metric.startswith("recall@")][1:-1]
        clean = [column for column in clean if column not in between]
    title = "Mean ± standard deviation over seeds" if several else "One seed each"
    parts = []
    for heading, shown in ((f"Clean test images. {title}", clean), ("R@1 %, beyond clean test images", others)):
        if not shown:
            continue
        table = Table(title=heading, title_justify="left")
        table.add_column(escape(option))
        table.add_column("seeds", justify="right")
        for column in shown:
            table.add_column(column.heading if column.images == CLEAN else escape(column.images), justify="right")
        for group, value, cells in zip(groups, values, _cells(groups, shown), strict=True):
            marked = [f"[bold]{text}[/bold]" if best else text for text, best in cells]
            table.add_row(escape(value), str(len(group.seeds)), *marked)
        parts.append(table)
    return Lines(*parts)


def ablation_markdown(option: str, groups: Sequence[Group], values: Sequence[str]) -> str:
    """Return the ablation as one Markdown table; the best mean of each column is bold."""
    columns = _columns(groups)
    headings = [option, "seeds"]
    headings += [c.heading if c.images == CLEAN else f"{c.heading}, {c.images}" for c in columns]
    rows = [headings, [":--", *["--:"] * (len(headings) - 1)]]
    for group, value, cells in zip(groups, values, _cells(groups, columns), strict=True):
        marked = [f"**{text}**" if best else text for text, best in cells]
        rows.append([value, str(len(group.seeds)), *marked])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def draw_ablation(option: str, groups: Sequence[Group], values: Sequence[str], file: str | Path) -> None:
    """Draw Recall@1, NMI and π_ratio, or accuracies, against the values, one line for each kind of images.

    Values are evenly spaced, whatever they are.

    Args:
        option: what was varied.
        groups: for each value its runs with all seeds.
        values: as they were asked for.
        file: where to write; its ending chooses the format (png, svg, pdf).

    Raises:
        ReportError: there is nothing to draw, or the format is not one that can be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    images = _images(groups)
    lines = {metric: {kind: _points(groups, kind, metric) for kind in images} for metric in _FIGURE}
    shown = [metric for metric in _FIGURE if any(lines[metric].values())]
    if not shown:
        raise ReportError("no run of this ablation has ended with figures to draw")
    width = 4.2 * len(shown) + 0.4
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(1, len(shown), figsize=(width, 3.4), squeeze=False, layout="constrained")
        for axes, metric in zip(grid[0], shown, strict=True):
            heading, percent = metric_heading(metric)
            for number, kind in enumerate(images):
                draw_line(axes, number, kind, lines[metric][kind], 100.0 if percent else 1.0)
            rule(axes)
            axes.set_xticks(range(len(values)), values)
            axes.set_xlabel(option)
            axes.set_ylabel(heading.replace("R@", "Recall@").replace(" %", ", %"))
        name_below(figure, grid[0], images, width)
        write_figure(figure, file)


def _images(groups: Sequence[Group]) -> list[str]:
    found = {name: None for group in groups for name in group.rows}
    return sorted(found, key=lambda name: (CLEAN, SEEN, name).index(name))


def _columns(groups: Sequence[Group]) -> list[_Column]:
    clean = figure_columns([group.rows[CLEAN] for group in groups if CLEAN in group.rows])
    columns = [_Column(CLEAN, *column) for column in clean]
    others = [name for name in _images(groups) if name != CLEAN]
    return columns + [
        _Column(name, metric, *metric_heading(metric))
        for name in others
        for metric in _OF_OTHERS
        if any(metric in group.rows.get(name, {}) for group in groups)
    ]


def _figures(group: Group, images: str, metric: str) -> tuple[float, float | None] | None:
    values = group.rows.get(images, {}).get(metric, [])
    return mean_and_deviation(values) if values and None not in values else None


def _cells(groups: Sequence[Group], columns: Sequence[_Column]) -> list[list[tuple[str, bool]]]:
    """Each group's figures as text, and whether its mean is the best of several."""
    cells: list[list[tuple[str, bool]]] = [[] for _ in groups]
    for column in columns:
        found = [_figures(group, column.images, column.metric) for group in groups]
        means = [figures[0] for figures in found if figures is not None]
        best = (min if small_is_good(column.metric) else max)(means) if len(means) > 1 else None
        for row, figures in zip(cells, found, strict=True):
            text = "–" if figures is None else figure_text(*figures, column.percent)
            row.append((text, figures is not None and figures[0] == best))
    return cells


def _points(groups: Sequence[Group], images: str, metric: str) -> list[Point]:
    found = [(place, _figures(group, images, metric)) for place, group in enumerate(groups)]
    return [Point(place, figures[0], figures[1] or 0.0) for place, figures in found if figures is not None]
