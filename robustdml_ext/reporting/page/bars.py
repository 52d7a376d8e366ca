"""Bars lying side by side: one for each run, under each of several names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from robustdml_ext.reporting.page.drawing import Panel, draw_panel
from robustdml_ext.reporting.style import COLORS, FAINT, rule

_THICK = 0.8  # of the room that a name has, what its bars fill


@dataclass(frozen=True)
class BarSeries:
    """A run's bars.

    Attributes:
        number: of the group, which chooses the color.
        label: of the group.
        bars: by name: mean, deviation or None, and the text at the bar's end.
    """

    number: int
    label: str
    bars: Mapping[str, tuple[float, float | None, str]]


def draw_bars(
    identity: str, alt: str, names: Sequence[str], series: Sequence[BarSeries], axis: str, most: float | None = None
) -> Panel:
    """Return bars under each name, the first name above.

    Args:
        identity: unique on the page.
        alt: what is shown.
        names: in the order from above.
        series: the bars of each run.
        axis: below, with the unit.
        most: that a bar could reach, 100 of percents; the axis names no more.
    """
    largest = max((mean + (deviation or 0.0) for one in series for mean, deviation, _ in one.bars.values()), default=0)

    def paint(axes) -> None:  # type: ignore[no-untyped-def]
        for row, name in enumerate(names):
            there = [one for one in series if name in one.bars]
            thick = min(_THICK / max(1, len(there)), 0.5)
            for place, one in enumerate(there):
                mean, deviation, text = one.bars[name]
                y = row + thick * (place + 0.5 - len(there) / 2)
                axes.barh(
                    y, mean, height=thick * 0.9, color=COLORS[one.number % len(COLORS)], xerr=deviation or None,
                    error_kw={"elinewidth": 1, "ecolor": FAINT},
                )  # fmt: skip
                axes.text(mean + (deviation or 0.0) + 0.03 * largest, y, text, va="center", fontsize=8.5)
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.set_xlim(0, 1.34 * largest or 1.0)  # with room for the texts
        if most is not None:
            axes.set_xticks([tick for tick in axes.get_xticks() if 0 <= tick <= most])
        axes.set_xlabel(axis)
        rule(axes, "x")

    said = "; ".join(
        f"{one.label}: " + ", ".join(f"{name} {one.bars[name][2]}" for name in names if name in one.bars)
        for one in series
    )
    height = 0.55 + len(names) * max(0.26, 0.17 * len(series))
    panel = draw_panel(identity, f"{alt}. {said}", paint, (4.2, height))
    return replace(panel, labels=frozenset(one.label for one in series))
