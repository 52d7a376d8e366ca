"""Tables of results: on the screen, and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table

from robustdml_ext.reporting.results import Group, entries_of, entry_label, inputs_label, mean_and_deviation

# Metric, heading, and whether it is shown in percent.
_SHOWN = (
    ("recall@1", "R@1 %", True),
    ("recall@4", "R@4 %", True),
    ("nmi", "NMI %", True),
    ("f1", "F1 %", True),
    ("pi_ratio", "π_ratio", False),
)
_MORE = (
    ("map@r", "MAP@R %", True), ("r_precision", "R-precision %", True), ("ami", "AMI %", True),
    ("eer", "EER %", True), ("rho_spectrum", "ρ-spectrum", False), ("pi_intra", "π_intra", False),
    ("pi_inter", "π_inter", False),
)  # fmt: skip


def _figure(values: Sequence[float], percent: bool) -> str:
    if None in values:
        return "–"  # a figure that the data left undefined
    mean, deviation = mean_and_deviation(values)
    scale, digits = (100.0, 2) if percent else (1.0, 3)
    text = f"{mean * scale:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation * scale:.{digits}f}"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    return [column for column in _SHOWN if any(column[0] in row for row in rows)]


def result_table(result: Mapping[str, Any]) -> Table:
    """Return the table shown at the end of a run: clean, attacked, and published figures if there are any."""
    columns = _columns([entry["metrics"] for entry in result["results"]])
    unseen = result.get("data", {}).get("zero_shot", True)
    title = "Test classes, unseen in training" if unseen else "Test images, of the classes trained on"
    if result.get("weights", {}).get("selected_on") == "test":
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
    table = Table(title="Mean ± standard deviation over seeds", title_justify="left")
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number < 2 else "right")
    before = None
    for row in rows:
        if before not in (None, row[0]):
            table.add_section()
        table.add_row("" if row[0] == before else row[0], *row[1:])
        before = row[0]
    scored = sorted((group for group in groups if group.scores), key=lambda group: -statistics.fmean(group.scores))
    if scored:
        lines = [f"{group.label}: {_figure(group.scores, False)}{_doubt(group.warnings)}" for group in scored]
        one = len({json.dumps(group.judged, sort_keys=True) for group in scored}) == 1
        heading = "robustness score" if one else "robustness score (of different protocols, which do not compare)"
        table.caption, table.caption_justify = "\n".join([heading, *lines]), "left"
    return table


def _doubt(warnings: Sequence[str]) -> str:
    return ", doubtful: see the warnings of its evaluation" if warnings else ""


def comparison_markdown(groups: Sequence[Group]) -> str:
    """Return the comparison as a Markdown table."""
    headings, rows = comparison_rows(groups)
    rules = [":--" if number < 2 else "--:" for number in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, rules, *rows)) + "\n"


def evaluation_table(result: Mapping[str, Any]) -> Lines:
    """Return what `run evaluate` shows: every entry in one table, more clean figures, the score, and warnings."""
    entries = entries_of(result)
    data, model = result["data"], result["model"]
    columns = _columns([entry["metrics"] for entry in entries])
    gallery = "" if data["gallery"] is None else f" against a gallery of {data['gallery']:,}"
    weights = f" ({model['weights']})" if "weights" in model else ""
    size = f"{data['image_size']} pixels"
    title = (
        f"{model['name']}{weights} on {data['images']:,} images of {data['dataset']}, {data['split']}, {size}{gallery}"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("images", no_wrap=True)
    for _, heading, _ in columns:
        table.add_column(heading, justify="right")
    table.add_column("of clean R@1", justify="right")
    ranked = any("rank" in entry["metrics"] for entry in entries)
    if ranked:
        table.add_column("rank", justify="right")
    table.add_column("change", justify="right")
    before = ""
    for entry in shown_entries(entries):
        metrics = entry["metrics"]
        kind = entry["attack"]
        if before not in ("", kind):
            table.add_section()
        before = kind
        figures = [_cell(metrics.get(name), percent) for name, _, percent in columns]
        table.add_row(entry_label(entry), *figures, *_attack_cells(entry, ranked))
    parts: list[Any] = [table]
    more = [
        f"{heading.removesuffix(' %')} {_cell(entries[0]['metrics'][name], percent)}" + (" %" if percent else "")
        for name, heading, percent in _MORE
        if entries[0]["metrics"].get(name) is not None
    ]
    if more:
        parts.append("clean: " + ", ".join(more))
    if result["score"] is not None:
        parts.append(
            f"robustness score: {result['score']:.4f} (mean worst-case R@1 over ε from 0 to the largest; compares "
            f"within protocol {result['protocol']['fingerprint']}){_doubt(result['warnings'])}"
        )
    parts += [f"[yellow]warning:[/yellow] {escape(warning)}" for warning in result["warnings"]]
    return Lines(*parts)


def shown_entries(entries: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The entries as a screen holds them: of each kind of corruption the mean over its severities, in place of each."""
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    shown: list[Mapping[str, Any]] = []
    for entry in entries:
        corruption = entry.get("corruption")
        if corruption is None or corruption["severity"] is None:
            shown.append(entry)
        else:
            kinds.setdefault(corruption["name"], []).append(entry)
    for name, alike in kinds.items():
        figures = {
            part: {
                metric: statistics.fmean(values)
                for metric in alike[0][part]
                if None not in (values := [entry[part].get(metric) for entry in alike])
            }
            for part in ("metrics", "relative")
        }
        shown.append({**alike[0], "corruption": {"name": name, "severity": None}, **figures})
    return shown


def _cell(value: float | None, percent: bool) -> str:
    return "" if value is None else _figure([value], percent)


def _attack_cells(entry: Mapping[str, Any], ranked: bool) -> list[str]:
    """What is left of clean Recall@1, the candidates' normalized rank before and after, the largest change."""
    relative = entry["relative"].get("recall@1") if entry["threat"] or entry["corruption"] else None
    rank, was = entry["metrics"].get("rank"), entry["clean"].get("rank")
    used = entry["perturbation"]
    ranks = "" if rank is None else f"{was:.3f} → {rank:.3f}" if was is not None else f"{rank:.3f}"
    return [
        "" if relative is None else f"{relative:.1%}",
        *([ranks] if ranked else []),
        "" if used is None else f"{used['l2_max' if entry['threat']['norm'] == 'l2' else 'linf_max']:.4g}",
    ]
