"""Tables of one model on several tasks: a row for each way of scoring, a column for each figure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from rich.table import Table

SCORERS = {
    "similarity": "SIM", "cosine": "cosine", "sum": "SIM + cosine",
    "published-sum": "σ(SIM) + (1 + cosine) / 2",
}  # fmt: skip
_FEW_SHOT = re.compile(r"few_shot_(\d+)way_(\d+)shot_(.+?)(_interval)?")
_RECALL = re.compile(r"(?:(.+)_)?recall@(\d+)")
_TRIALS = re.compile(r"(eer|min_dcf@[0-9.e-]+)_(.+)")

Place = tuple[str, str]


def place_of(name: str, first: str = "similarity") -> Place | None:
    """Return the scorer and the heading that a figure belongs under; None for one that is of no such task.

    An interval has the heading of its accuracy, with "±" behind it. A plain Recall@k is that of the `first` scorer.
    """
    listed, slash, name = name.rpartition("/")
    place = _of_figure(name, first)
    return place if place is None or not slash else (place[0], f"{listed}: {place[1]}")


def _of_figure(name: str, first: str) -> Place | None:
    if found := _FEW_SHOT.fullmatch(name):
        return found[3], f"{found[1]}-way {found[2]}-shot %" + (" ±" if found[4] else "")
    if found := _RECALL.fullmatch(name):
        return found[1] or first, f"R@{found[2]} %"
    if found := _TRIALS.fullmatch(name):
        figure = "EER %" if found[1] == "eer" else f"minDCF {found[1].partition('@')[2]}"
        return found[2], figure
    return None


def has_tasks(metrics: Mapping[str, float | None]) -> bool:
    """Whether figures are of several scorers, or of tasks that have a table of their own."""
    return any(place is not None and not name.startswith("recall@") for name in metrics if (place := place_of(name)))


def task_table(metrics: Mapping[str, float | None], title: str, first: str = "similarity") -> Table:
    """Return the table of one set of figures; fractions, which are shown in percent but for minDCF.

    Args:
        metrics: figures by name, see `place_of`.
        title: of the table.
        first: the scorer of plain Recall@k.
    """
    cells: dict[str, dict[str, float | None]] = {}
    headings: list[str] = []
    for name, value in metrics.items():
        place = place_of(name, first)
        if place is None:
            continue
        scorer, heading = place
        cells.setdefault(scorer, {})[heading] = value
        if not heading.endswith("±") and heading not in headings:
            headings.append(heading)
    table = Table(title=title, title_justify="left")
    table.add_column("scored by")
    for heading in headings:
        table.add_column(heading, justify="right")
    for scorer, found in cells.items():
        table.add_row(SCORERS.get(scorer, scorer), *_row(found, headings))
    return table


def _row(found: Mapping[str, float | None], headings: Sequence[str]) -> list[str]:
    row = []
    for heading in headings:
        value, interval = found.get(heading), found.get(f"{heading} ±")
        if value is None:
            row.append("–" if heading in found else "")
            continue
        scale, digits = (100.0, 2) if heading.endswith("%") else (1.0, 3)
        text = f"{value * scale:.{digits}f}"
        row.append(text if interval is None else f"{text} ± {interval * scale:.{digits}f}")
    return row


def task_columns(rows: Sequence[Mapping[str, float]]) -> list[tuple[str, str, bool]]:
    """Return metric, heading, and whether in percent, of what a comparison shows of tasks, by the similarity."""
    names = dict.fromkeys(name for row in rows for name in row)
    columns = []
    for name in names:
        place = place_of(name)
        if place is None or place[0] != "similarity" or name.startswith("recall@") or place[1].endswith("±"):
            continue
        columns.append((name, place[1], place[1].endswith("%")))
    return columns
