"""The tables at the end of a run and of an evaluation of tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.table import Table

from robustdml_ext.reporting.labels import SEEN, inputs_label, shows_every_recall
from robustdml_ext.reporting.tables import cells_of, columns_of, metric_heading, route_label
from robustdml_ext.reporting.tasks import has_tasks, place_of, task_table

_PRINTED_BY_MDPROP = frozenset({"recall@1", "recall@4"})


def result_table(result: Mapping[str, Any]) -> Table | Lines:
    """Return what is shown at the end of a run; of a model of several tasks a table for each set of images.

    See `task_table` and, for all other runs, below.
    """
    entries = result["results"]
    if len(entries) == 1 and has_tasks(entries[0]["metrics"]):
        table = task_table(entries[0]["metrics"], _title(result))
        if published := result.get("published"):
            table.caption, table.caption_justify = _published_line(published), "left"
        return table
    return _entries_table(result)


def _published_line(published: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{_published_name(name)} {value:g}" for name, value in published["clean"].items())
    return f"published: {figures}" + (f"\n{published['note']}" if published.get("note") else "")


def _published_name(name: str) -> str:
    place = place_of(name)
    return metric_heading(name)[0] if place is None else f"{place[1]} ({place[0]})"


def _title(result: Mapping[str, Any]) -> str:
    unseen = result.get("data", {}).get("zero_shot", True)
    title = "Test classes, unseen in training" if unseen else "Test images, of the classes trained on"
    if result.get("seen"):
        title += ", and images trained on"
    if result.get("weights", {}).get("selected_on") == "test":
        title += "; the weights were selected on them, so the figures are optimistic"
    return title


def _entries_table(result: Mapping[str, Any]) -> Table:
    """Return the table shown at the end of a run: clean, attacked, and published figures if there are any.

    Below an attack that went through several routes into an ensemble is what each led to by itself; below it all are
    the ensemble's members, each judged alone, where they were.
    """
    published = result.get("published") or {}
    printed = {name for kind in ("clean", "adversarial") for name in published.get(kind, ())}
    every = shows_every_recall(result["recipe"]) or any(
        name.startswith("recall@") for name in printed - _PRINTED_BY_MDPROP
    )
    columns = columns_of([entry["metrics"] for entry in result["results"]], every)
    table = Table(title=_title(result), title_justify="left")
    table.add_column("images")
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    for entry in result["results"]:
        routes = entry.get("routes") or {}
        worst = f", worst of {len(routes)} routes" if len(routes) > 1 else ""
        table.add_row(inputs_label(entry["threat"]) + worst, *cells_of(entry["metrics"], columns))
        for route, figures in routes.items() if worst else ():
            table.add_row(f"  through {route_label(route)}", *cells_of(figures, columns), style="dim")
    if result.get("seen") is not None:
        table.add_section()
        table.add_row(SEEN, *cells_of(result["seen"]["metrics"], columns))
    if published:
        table.add_section()
        for kind in ("clean", "adversarial"):
            if published.get(kind):
                printed_cells = _printed(published[kind], columns)
                table.add_row(f"published, {kind}", *printed_cells, style="dim")
        for attack, figures in (published.get("attacks") or {}).items():
            table.add_row(f"published, {attack}", *_printed(figures, columns), style="dim")
        table.caption, table.caption_justify = published.get("note") or None, "left"
    members = result.get("members") or []
    for number, entries in enumerate(members, 1):
        table.add_section()
        table.add_row(f"member {number} of {len(members)}, alone")
        for entry in entries:
            table.add_row(f"  {inputs_label(entry['threat'])}", *cells_of(entry["metrics"], columns))
    return table


def _printed(figures: Mapping[str, float], columns: Sequence[tuple[str, str, bool]]) -> list[str]:
    """Published figures, which are in percent already, with the digits that were printed."""
    shown = [(figures.get(name), percent) for name, _, percent in columns]
    return ["" if value is None else f"{value:.{2 if percent else 3}f}" for value, percent in shown]


def task_tables(entries: Sequence[Mapping[str, Any]], title: str, first: str = "similarity") -> Lines:
    """Return what an evaluation of tasks shows: accuracies, clean and attacked, and a row for each way of scoring.

    Args:
        entries: of the result, the clean one first.
        title: of the tables.
        first: the scorer of plain Recall@k.
    """
    parts: list[Table] = []
    of_classes = [
        {**entry, "metrics": {name: value for name, value in entry["metrics"].items() if name.startswith("accuracy_")}}
        for entry in entries
    ]
    if of_classes[0]["metrics"]:
        columns = columns_of([entry["metrics"] for entry in of_classes])
        table = Table(title=f"Classification: {title}", title_justify="left")
        table.add_column("images", no_wrap=True)
        for _, heading, _ in columns:
            table.add_column(heading, justify="right")
        for entry in of_classes:
            table.add_row(inputs_label(entry["threat"]), *cells_of(entry["metrics"], columns))
        parts.append(table)
    others = {name: value for name, value in entries[0]["metrics"].items() if not name.startswith("accuracy_")}
    if others:
        parts.append(task_table(others, title, first))
    return Lines(*parts)
