"""Figures of several recipes beside those that were published for them: which stand together, and how they compare."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustdml_ext.reporting.labels import CLEAN, SEEN, is_attack
from robustdml_ext.reporting.results import Group, mean_and_deviation
from robustdml_ext.reporting.tables import figure_columns, figure_text, metric_heading, small_is_good
from robustdml_ext.reporting.tasks import SCORERS, place_of

BETTER, WORSE = "▲", "▼"
# The images that a paper's one attack made; which attack that is, each row says by itself.
ATTACKED = "attacked"
_STEPS = re.compile(r"(.+?) \((\d+)\)")


@dataclass(frozen=True)
class PaperRow:
    """A recipe, as a row of a paper's table.

    Attributes:
        name: of the recipe.
        title: what the row is called.
        published: the figures printed for it, as `recipes.Published` has them; None where there are none.
        seeds: how many runs it was asked to have.
        group: those that are finished, none to all of them.
        remark: why some are missing, if there is a reason.
    """

    name: str
    title: str
    published: Mapping[str, Any] | None
    seeds: int
    group: Group
    remark: str = ""


@dataclass(frozen=True)
class Cell:
    """One figure, ours and the published one.

    Attributes:
        metric: its name.
        percent: whether it is shown in percent.
        ours: mean and sample deviation over seeds, fractions; None where no run has it.
        undefined: whether runs have it, but the data left it undefined.
        printed: the published figure as printed, in percent where `percent`; None where there is none.
        deviation: the published deviation, likewise.
        alike: whether both are of the same images, as far as is known: of attacks, the same algorithm and ε.
    """

    metric: str
    percent: bool
    ours: tuple[float, float | None] | None = None
    undefined: bool = False
    printed: float | None = None
    deviation: float | None = None
    alike: bool = True

    @property
    def our_text(self) -> str:
        """Ours with its mark, a dash where the data leave it undefined, or nothing."""
        if self.ours is None:
            return "–" if self.undefined else ""
        return f"{figure_text(*self.ours, self.percent)} {self.mark}".rstrip()

    @property
    def printed_text(self) -> str:
        """The published figure with its deviation, or nothing."""
        if self.printed is None:
            return ""
        digits = 2 if self.percent else 3
        text = f"{self.printed:.{digits}f}"
        return text if self.deviation is None else f"{text} ± {self.deviation:.{digits}f}"

    @property
    def mark(self) -> str:
        """▲ or ▼ where ours is better or worse than published by more than the known deviations together.

        What was lost in printing, half a unit of the last digit, is no difference either.
        """
        if self.ours is None or self.printed is None or not self.alike:
            return ""
        scale = 100.0 if self.percent else 1.0
        mean, deviation = self.ours
        difference = mean * scale - self.printed
        digits = len(repr(float(self.printed)).partition(".")[2])
        allowed = (deviation or 0.0) * scale + (self.deviation or 0.0) + 0.5 * 10.0**-digits
        if abs(difference) <= allowed:
            return ""
        return BETTER if (difference < 0) == small_is_good(self.metric) else WORSE


@dataclass
class Section:
    """The figures of one kind of images, for all rows.

    Attributes:
        heading: what the images are.
        columns: metric, heading, whether in percent.
        names: of the rows of groups that the figures are from.
        cells: for each row a cell for each column.
    """

    heading: str
    columns: list[tuple[str, str, bool]]
    names: list[str]
    cells: list[list[Cell]] = field(default_factory=list)


@dataclass(frozen=True)
class _Kind:
    """One kind of images of one row: the name of ours in its group, and what was published of it."""

    ours: str | None
    printed: Mapping[str, float]
    deviation: Mapping[str, float]
    alike: bool = True


def sections(rows: Sequence[PaperRow]) -> list[Section]:
    """Return clean figures, and those under each attack that was published, ours and published ones together.

    A paper's one attack stands beside the same one of ours, or else, without marks, the first that was judged; several
    by their names, "PGD (40)". Of rows without published figures the first attack is shown, and where no row has any,
    every one.

    Args:
        rows: of the table, in order.
    """
    every = all(row.published is None for row in rows)
    kinds = [_kinds(row, every) for row in rows]
    names = list(dict.fromkeys(name for row in kinds for name in row))
    clean = _columns(rows, kinds, CLEAN, ())
    found = []
    for name in sorted(names, key=lambda name: name != CLEAN):
        columns = clean if name == CLEAN else _columns(rows, kinds, name, clean)
        ours = dict.fromkeys(kind.ours for of_row in kinds if (kind := of_row.get(name)) and kind.ours)
        section = Section(_heading(name, list(ours)), columns, list(ours))
        for row, of_row in zip(rows, kinds, strict=True):
            section.cells.append([_cell(row, of_row.get(name), column) for column in columns])
        if any(cell.our_text or cell.printed_text for cells in section.cells for cell in cells):
            found.append(section)
    return found


def _kinds(row: PaperRow, every: bool) -> dict[str, _Kind]:
    published = row.published or {}
    ours = row.group.rows
    judged = {name: row.group.threats[name] for name in ours if name not in (CLEAN, SEEN)}
    attacked = {name: threat for name, threat in judged.items() if threat is not None}
    clean = _Kind(CLEAN if CLEAN in ours else None, published.get("clean", {}), published.get("clean_deviation", {}))
    kinds = {CLEAN: clean}
    several = published.get("attacks") or {}
    for printed, figures in several.items():
        kinds[printed] = _Kind(_same_attack(printed, attacked), figures, {})
    if every:
        return kinds | {name: _Kind(name, {}, {}) for name in attacked}
    if not any(kinds[printed].ours for printed in several):
        # The attack that the paper describes; where none was judged, another stands there without a mark.
        words = str(published.get("threat", ""))
        same = next((name for name, threat in attacked.items() if is_attack(words, threat)), None)
        shown = same or next(iter(attacked), None)
        figures, deviation = published.get("adversarial", {}), published.get("adversarial_deviation", {})
        one = _Kind(shown, figures, deviation, alike=same is not None)
        if one.ours is not None or one.printed:
            kinds[ATTACKED] = one
    return kinds


def _same_attack(printed: str, attacked: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Ours that a paper calls "PGD (40)": of that name, and with as many steps where it takes several."""
    found = _STEPS.fullmatch(printed)
    if found is None:
        return None
    name, steps = found[1].lower(), int(found[2])
    for label, threat in attacked.items():
        if threat["name"] == name and (threat["steps"] == steps or name.startswith("fgsm")):
            return label
    return None


def _heading(name: str, ours: Sequence[str]) -> str:
    if name == CLEAN or len(ours) != 1 or name in ours:
        return name
    return ours[0] if name == ATTACKED else f"{name}: {ours[0]}"


def _columns(
    rows: Sequence[PaperRow],
    kinds: Sequence[Mapping[str, _Kind]],
    name: str,
    otherwise: Sequence[tuple[str, str, bool]],
) -> list[tuple[str, str, bool]]:
    """The figures that were printed; else those of clean images; else all that are usually shown."""
    here = [(row, of_row[name]) for row, of_row in zip(rows, kinds, strict=True) if name in of_row]
    printed = dict.fromkeys(metric for _, kind in here for metric in kind.printed)
    if printed:
        return [(metric, *published_heading(metric)) for metric in printed]
    figures = [row.group.rows[kind.ours] for row, kind in here if kind.ours is not None]
    kept = [column for column in otherwise if any(column[0] in row for row in figures)]
    return kept or figure_columns(figures)


def published_heading(metric: str) -> tuple[str, bool]:
    """Return what a published figure is called, with the way of scoring where there are several, and if in percent."""
    heading, percent = metric_heading(metric)
    place = place_of(metric)
    if place is None or metric.startswith("recall@"):
        return heading, percent
    return f"{heading} ({SCORERS.get(place[0], place[0])})", percent


def _cell(row: PaperRow, kind: _Kind | None, column: tuple[str, str, bool]) -> Cell:
    metric, _, percent = column
    if kind is None:
        return Cell(metric, percent)
    values = [] if kind.ours is None else row.group.rows[kind.ours].get(metric, [])
    ours = None if not values or None in values else mean_and_deviation(values)
    printed, deviation = kind.printed.get(metric), kind.deviation.get(metric)
    return Cell(metric, percent, ours, bool(values) and ours is None, printed, deviation, kind.alike)
