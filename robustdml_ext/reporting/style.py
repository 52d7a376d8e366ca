"""What all figures look like: colors, lines with a band of one deviation, names below, and the file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdml_ext.reporting.curves import Point
from robustdml_ext.reporting.results import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colors, told apart with any color vision, and a shape for each as well.
COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GRID, FAINT = "#dddddd", "#777777"
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
_MOST_MARKERS = 15  # of a line; more would hide it


def draw_line(axes: Axes, number: int, label: str, points: Sequence[Point], scale: float) -> None:
    """Draw means as the line of a number, which chooses its color and shape, with a band of one deviation."""
    if not points:
        return
    places = [point.x for point in points]
    color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
    means = [scale * point.mean for point in points]
    every = -(-len(points) // _MOST_MARKERS)
    axes.plot(
        places, means, color=color, marker=marker, markersize=4.5, markevery=every, linewidth=1.6, label=label
    )  # fmt: skip
    low = [scale * (point.mean - point.deviation) for point in points]
    high = [scale * (point.mean + point.deviation) for point in points]
    axes.fill_between(places, low, high, color=color, alpha=0.15, linewidth=0)


def rule(axes: Axes, lines: Any = "both") -> None:
    """Draw a faint grid behind what the panel shows."""
    axes.grid(axis=lines, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)


def name_below(figure: Figure, panels: Iterable[Axes], labels: Sequence[str], width: float) -> None:
    """Put one legend below all panels, of the labels that any of them has, in their order.

    Args:
        figure: with constrained layout.
        panels: whose lines are named.
        labels: in the order of the legend.
        width: of the figure, in inches.
    """
    named: dict[Any, Any] = {}
    for axes in panels:
        handles, found = axes.get_legend_handles_labels()
        named = dict(zip(found, handles, strict=True)) | named
    order = [label for label in labels if label in named]
    # As many side by side as the figure is wide enough for: clipped names cannot be told apart.
    room = width * 72 / (6.2 * max((len(label) for label in order), default=1) + 40)
    figure.legend(
        [named[label] for label in order], order, loc="outside lower center",
        ncols=max(1, min(len(order), int(room))), frameon=False,
    )  # fmt: skip


def write_figure(figure: Figure, file: str | Path) -> None:
    """Write a figure and close it; the file's ending chooses the format (png, svg, pdf).

    Raises:
        ReportError: the format is not one that can be written.
    """
    from matplotlib import pyplot

    Path(file).parent.mkdir(parents=True, exist_ok=True)
    try:
        figure.savefig(file, dpi=160)
    except ValueError as error:
        raise ReportError(f"cannot write {file}: {error}") from None
    finally:
        pyplot.close(figure)
