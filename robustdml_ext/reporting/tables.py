"""Tables of results: on the screen, and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table

from robustdml_ext.reporting.results import Group, inputs_label, mean_and_deviation

# Metric, heading, and whether it is shown in percent.
_SHOWN = (
    ("recall@1", "R@1 %", True), ("recall@4", "R@4 %", True), ("nmi", "NMI %", True), ("f1", "F1 %", True),
    ("pi_ratio", "π_ratio", False),
)  # fmt: skip


def _figure(values: Sequence[float], percent: bool) -> str:
    mean, deviation = mean_and_deviation(values)
    scale, digits = (100.0, 2) if percent else (1.0, 3)
    text = f"{mean * scale:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation * scale:.{digits}f}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    return [column for column in _SHOWN if any(column[0] in row for row in rows)]


def result_table(result: Mapping[str, Any]) -> Table:
    """Return the table shown at the end of a run: clean, attacked, and published figures if there are any."""
    columns = _columns([entry["metrics"] for entry in result["results"]])
    title = "Test classes, unseen in training"
    if result.get("weights", {}).get("select_on_test"):
        title += "; the weights were selected on them, so the figures are optimistic"
    table = Table(title=title, title_justify="left")
    table.add_column("images")
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    for entry in result["results"]:
        figures = [_figure([entry["metrics"][name]], percent) for name, _, percent in columns]
        table.add_row(inputs_label(entry["threat"]), *figures)
    published = result.get("published")
    if published:
        table.add_section()
        for kind in ("clean", "adversarial"):
            if not published[kind]:
                continue
            cells = [str(published[kind].get(name, "")) for name, _, _ in columns]
            table.add_row(f"published, {kind}", *cells, style="dim")
        table.caption, table.caption_justify = published.get("note") or None, "left"
    return table


def comparison_rows(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells: for each kind of input, one row a method, mean ± deviation."""
    columns = _columns([row for group in groups for row in group.rows.values()])
    kinds: dict[str, None] = {name: None for group in groups for name in group.rows}
    cells = []
    for kind in kinds:
        for group in groups:
            if kind in group.rows:
                row = group.rows[kind]
                figures = [_figure(row[name], percent) if name in row else "" for name, _, percent in columns]
                cells.append([kind, group.label, str(len(group.seeds)), *figures])
    return ["images", "method", "seeds", *(heading for _, heading, _ in columns)], cells


def comparison_table(groups: Sequence[Group]) -> Table:
    """Return the comparison for the screen."""
    headings, rows = comparison_rows(groups)
    table = Table(title="Mean ± standard deviation over seeds, on unseen test classes", title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    before = None
    for row in rows:
        if before not in (None, row[0]):
            table.add_section()
        table.add_row("" if row[0] == before else row[0], *row[1:])
        before = row[0]
    return table


def comparison_markdown(groups: Sequence[Group]) -> str:
    """Return the comparison as a Markdown table."""
    headings, rows = comparison_rows(groups)
    rules = [":--" if number < 2 else "--:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *rows)) + "\n"
