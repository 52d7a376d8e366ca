"""A paper's table with ours beside it: a row a recipe, figures over seeds above the published ones."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table

from robustdml_ext.reporting.labels import CLEAN, inputs_label
from robustdml_ext.reporting.paper_figures import BETTER, WORSE, PaperRow, Section, sections

_READ = (
    "Mean ± sample standard deviation over seeds. {better} better and {worse} worse than published, by more than the "
    "deviations that are known, together."
)
_MOST_COLUMNS = 6


def paper_table(rows: Sequence[PaperRow], notes: Sequence[str] = ()) -> Lines:
    """Return the table for the screen, one for clean images and one for each attack: ours, and below it published.

    Args:
        rows: of the table, in order.
        notes: to stand below it, beside its own.
    """
    common, titles = _short_titles(rows)
    parts: list[Any] = [escape(common)] if common else []
    for section in sections(rows):
        table = Table(title=escape(section.heading), title_justify="left", show_lines=True)
        table.add_column("recipe")
        table.add_column("seeds", justify="right", no_wrap=True)
        kept = _kept(section)
        for place in kept:
            table.add_column(escape(section.columns[place][1]), justify="right", no_wrap=True)
        for row, title, cells in zip(rows, titles, section.cells, strict=True):
            shown = ["\n".join(filter(None, (_marked(cells[p].our_text), _dim(cells[p].printed_text)))) for p in kept]
            table.add_row(_with_remark(title, row), _seeds(row), *shown)
        parts.append(table)
    if not parts:
        parts.append("no run has finished, and no figures are published for these recipes")
    return Lines(*parts, *(f"[dim]{escape(line)}[/dim]" for line in ["below ours: published", *_notes(rows, notes)]))


def paper_markdown(rows: Sequence[PaperRow], notes: Sequence[str] = ()) -> str:
    """Return the table as Markdown: one row a recipe, ours and in brackets published, and below it what they are of.

    Args:
        rows: of the table, in order.
        notes: to stand below it, beside its own.
    """
    common, titles = _short_titles(rows)
    found = sections(rows)
    headings = ["recipe", "seeds"]
    headings += [f"{column[1]}, {section.heading}" for section in found for column in section.columns]
    lines = [headings, [":--", *["--:"] * (len(headings) - 1)]]
    for number, (row, title) in enumerate(zip(rows, titles, strict=True)):
        cells = [cell for section in found for cell in section.cells[number]]
        texts = [
            f"{cell.our_text or '–'} ({cell.printed_text})" if cell.printed_text else cell.our_text for cell in cells
        ]
        lines.append([title + (f" ({row.remark})" if row.remark else ""), _seeds(row), *texts])
    table = "".join(f"| {' | '.join(text.replace('|', chr(92) + '|') for text in line)} |\n" for line in lines)
    below = "".join(f"- {line}\n" for line in _notes(rows, notes))
    return f"{common or 'Ours beside published figures'}\n\n{table}\nIn brackets: published.\n\n{below}"


def _marked(text: str) -> str:
    return text.replace(BETTER, f"[green]{BETTER}[/green]").replace(WORSE, f"[yellow]{WORSE}[/yellow]")


def _dim(text: str) -> str:
    return f"[dim]{text}[/dim]" if text else ""


def _seeds(row: PaperRow) -> str:
    return f"{len(row.group.seeds)} of {row.seeds}"


def _with_remark(title: str, row: PaperRow) -> str:
    return escape(title) + (f"\n[yellow]{escape(row.remark)}[/yellow]" if row.remark else "")


def _kept(section: Section) -> list[int]:
    """As many columns as a screen holds: of more, the first and the last recall, as table 3 of the EAT paper."""
    places = list(range(len(section.columns)))
    if len(places) <= _MOST_COLUMNS:
        return places
    recalls = [place for place in places if section.columns[place][0].startswith("recall@")]
    return [place for place in places if place not in recalls[1:-1]]


def _short_titles(rows: Sequence[PaperRow]) -> tuple[str, list[str]]:
    """What all titles begin with, by parts between commas, and what is left of each."""
    parts = [row.title.split(", ") for row in rows]
    common = 0
    while len(rows) > 1 and all(len(one) > common + 1 and one[common] == parts[0][common] for one in parts):
        common += 1
    return ", ".join(parts[0][:common]) if parts else "", [", ".join(one[common:]) for one in parts]


def _notes(rows: Sequence[PaperRow], more: Sequence[str]) -> list[str]:
    """How to read the table: what the signs mean, how much is finished, whose figures they are, under which threats."""
    finished, asked = sum(len(row.group.seeds) for row in rows), sum(row.seeds for row in rows)
    notes = [_READ.format(better=BETTER, worse=WORSE), f"Seeds: {finished} of {asked} runs are finished.", *more]
    published = [row.published for row in rows if row.published is not None]
    notes += [f"Published: {source}." for source in dict.fromkeys(_table_of(figures) for figures in published)]
    notes += [
        f"Threat, published: {threat}." for threat in dict.fromkeys(str(figures["threat"]) for figures in published)
    ]
    names = dict.fromkeys(name for section in sections(rows) for name in section.names if name != CLEAN)
    shown = dict.fromkeys(
        _our_threat(row.group.threats[name]) for name in names for row in rows if name in row.group.threats
    )
    notes += [f"Threat, ours: {threat}." for threat in shown]
    notes += [f"Note: {note}." for note in dict.fromkeys(str(figures.get("note", "")) for figures in published) if note]
    return notes


def _table_of(published: Mapping[str, Any]) -> str:
    """A source up to its table; what comes behind says the row."""
    source = str(published["source"])
    found = re.match(r".*?\btable \d+", source)
    return found[0] if found else source


def _our_threat(threat: Mapping[str, Any] | None) -> str:
    if threat is None:
        return "none"
    ball = "l2" if threat.get("norm") == "l2" else "l∞"
    attacked = f", on {threat['attacked']}" if threat.get("attacked") else ""
    return f"{inputs_label(threat)}, in {ball}, of pixels in [0, 1]{attacked}"
