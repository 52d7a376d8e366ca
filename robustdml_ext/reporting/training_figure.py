"""The figure of training curves: one panel for each metric and kind of images, against iterations."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robustdml_ext.reporting.style import STYLE, draw_line, name_below, rule, write_figure
from robustdml_ext.reporting.tables import metric_heading
from robustdml_ext.reporting.training_curves import KINDS, CurveGroup, curve, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIDE_BY_SIDE = 3
_WIDTH, _HEIGHT = 3.9, 2.9  # of a panel, in inches


def draw_curves(groups: Sequence[CurveGroup], metrics: Sequence[str], file: str | Path) -> None:
    """Draw each metric on training, test and validation images, one line a method, with a band of one deviation.

    Args:
        groups: from :func:`~robustdml_ext.reporting.group_curves`.
        metrics: names in ``metrics.jsonl``: ``recall@1``, ``loss``, ...
        file: where to write; its ending chooses the format (png, svg, pdf).

    Raises:
        ReportError: a metric that no run has, or the format is not one that can be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = panels(groups, metrics)
    columns = 2 if len(shown) == 4 else min(len(shown), _SIDE_BY_SIDE)
    rows = -(-len(shown) // columns)
    with matplotlib.rc_context(STYLE):
        figure, grid = pyplot.subplots(
            rows, columns, figsize=(_WIDTH * columns + 0.4, _HEIGHT * rows + 0.5), squeeze=False, layout="constrained"
        )
        places = list(grid.flat)
        for axes, (metric, kind) in zip(places, shown, strict=False):
            draw_panel(axes, groups, metric, kind)
        for axes in places[len(shown) :]:
            axes.set_visible(False)
        name_below(figure, places[: len(shown)], [group.label for group in groups], _WIDTH * columns + 0.4)
        write_figure(figure, file)


def draw_panel(axes: Axes, groups: Sequence[CurveGroup], metric: str, kind: str) -> None:
    """Draw a metric's curve of every group, of one kind of lines of ``metrics.jsonl``."""
    heading, percent = metric_heading(metric)
    for number, group in enumerate(groups):
        draw_line(axes, number, group.label, curve(group, kind, metric).points, 100.0 if percent else 1.0)
    rule(axes)
    axes.set_title(KINDS[kind], fontsize=10)
    axes.set_ylabel(heading.replace("R@", "Recall@").replace(" %", ", %"))
    axes.set_xlabel("iterations")
