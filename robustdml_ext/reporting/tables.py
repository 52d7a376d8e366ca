"""Tables of results: on the screen, and as Markdown."""

from __future__ import annotations

import json
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table

from robustdml_ext.reporting.curves import row_of_members
from robustdml_ext.reporting.labels import CLEAN, SEEN, entry_label, shows_every_recall
from robustdml_ext.reporting.results import Group, entries_of, mean_and_deviation
from robustdml_ext.reporting.tasks import place_of, task_columns

# Metric, heading, and whether it is shown in percent; beside Recall@k.
_SHOWN = (
    ("nmi", "NMI %", True),
    ("f1", "F1 %", True),
    ("pi_ratio", "π_ratio", False),
)
# Of classifiers, by head: through itself, and on images that were made to mislead the other one.
_ACCURACIES = (
    ("accuracy_similarity", "SIM %", True), ("accuracy_dense", "DOL %", True),
    ("accuracy_similarity_from_dense", "SIM, attacked through DOL %", True),
    ("accuracy_dense_from_similarity", "DOL, attacked through SIM %", True),
)  # fmt: skip
_MORE = (
    ("map@r", "MAP@R %", True), ("r_precision", "R-precision %", True), ("ami", "AMI %", True),
    ("eer", "EER %", True), ("rho_spectrum", "ρ-spectrum", False), ("pi_intra", "π_intra", False),
    ("pi_inter", "π_inter", False),
)  # fmt: skip

# Of these one wants little; of all others, losses apart, much.
_SMALL_IS_GOOD = frozenset({"pi_ratio", "pi_intra", "eer", "rho_spectrum"})


def small_is_good(metric: str) -> bool:
    """Whether one wants little of a figure: of errors and costs, and of some distances."""
    name = metric.rpartition("/")[2]
    return name in _SMALL_IS_GOOD or name.startswith(("eer_", "min_dcf@"))


ROUTES = {"whole": "the whole, as deployed", "sum": "the sum of all members", "average": "the members' average"}


def figure_cell(values: Sequence[float], percent: bool) -> str:
    """Return a figure of one or several runs as tables show it, see `figure_text`; a dash where it is undefined."""
    if None in values:
        return "–"  # a figure that the data left undefined
    return figure_text(*mean_and_deviation(values), percent)


def figure_text(mean: float, deviation: float | None, percent: bool) -> str:
    """Return a figure as tables show it, in percent or as it is, with its deviation where there is one."""
    scale, digits = (100.0, 2) if percent else (1.0, 3)
    text = f"{mean * scale:.{digits}f}"
    return text if deviation is None else f"{text} ± {deviation * scale:.{digits}f}"


def columns_of(rows: Sequence[Mapping[str, Any]], every_recall: bool = False) -> list[tuple[str, str, bool]]:
    """The figures that any row has; of Recall@k those of the MDProp paper's tables, or every one."""
    found = {int(name.removeprefix("recall@")) for row in rows for name in row if name.startswith("recall@")}
    recalls = [(f"recall@{k}", f"R@{k} %", True) for k in sorted(found) if every_recall or k in (1, 4)]
    accuracies = [column for column in _ACCURACIES if any(column[0] in row for row in rows)]
    shown = [column for column in _SHOWN if any(column[0] in row for row in rows)]
    return accuracies + recalls + shown + task_columns(rows)


def figure_columns(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, bool]]:
    """Return metric, heading, and whether it is in percent, of every Recall@k and the usual figures of any row."""
    return columns_of(rows, every_recall=True)


def metric_heading(name: str) -> tuple[str, bool]:
    """Return what a metric is called above a column, and whether it is shown in percent there."""
    if name.startswith("recall@"):
        return f"R@{name.removeprefix('recall@')} %", True
    known = {metric: (heading, percent) for metric, heading, percent in (*_SHOWN, *_MORE, *_ACCURACIES)}
    if name not in known and (place := place_of(name)) is not None:
        return place[1], place[1].endswith("%")
    return known.get(name, (name, False))


def route_label(name: str) -> str:
    # The suite counts members from 0, and readers from 1.
    kind, _, number = name.partition(" ")
    return f"member {int(number) + 1} alone" if kind == "member" and number.isdecimal() else ROUTES.get(name, name)


def cells_of(figures: Mapping[str, Any], columns: Sequence[tuple[str, str, bool]]) -> list[str]:
    return [figure_cell([figures[name]], percent) if name in figures else "" for name, _, percent in columns]


def comparison_columns(groups: Sequence[Group]) -> list[tuple[str, str, bool]]:
    """The figures that a comparison shows: every Recall@k where a group's paper prints them."""
    rows = [row for group in groups for row in group.rows.values()]
    return columns_of(rows, any(shows_every_recall(group.recipe) for group in groups))


def comparison_rows(
    groups: Sequence[Group],
    columns: Sequence[tuple[str, str, bool]] | None = None,
    kinds_of_members: Collection[str | None] | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Return headings and cells: for each kind of input, one row a method, mean ± deviation.

    Below an ensemble are its members, where they were judged; for all kinds of input, or those given.
    """
    columns = comparison_columns(groups) if columns is None else columns
    found = {name: None for group in groups for name in group.rows}
    kinds = sorted(found, key=lambda name: (CLEAN, SEEN, name).index(name))
    cells = []
    for kind in kinds:
        for group in groups:
            named = [(group.label, group.rows)]
            if kinds_of_members is None or kind in kinds_of_members:
                named += [(f"{group.label}: member {number}", rows) for number, rows in enumerate(group.members, 1)]
            for label, rows in named:
                if kind in rows:
                    row = rows[kind]
                    figures = [figure_cell(row[name], percent) if name in row else "" for name, _, percent in columns]
                    seeds = max((len(values) for values in row.values()), default=0)
                    cells.append([kind, label, str(seeds), *figures])
    return ["images", "method", "seeds", *(heading for _, heading, _ in columns)], cells


def _columns_for_screen(groups: Sequence[Group]) -> list[tuple[str, str, bool]]:
    """As many figures as 120 characters hold; of more, the first and the last recall, as table 3 of the EAT paper."""
    columns = comparison_columns(groups)
    if not any(shows_every_recall(group.recipe) for group in groups) or all(len(group.seeds) == 1 for group in groups):
        return columns
    recalls = [column for column in columns if column[0].startswith("recall@")]
    kept = {"nmi", "f1", "accuracy_similarity", "accuracy_dense", *(column[0] for column in recalls[:1] + recalls[-1:])}
    # Of the tasks of prototypes what its paper prints.
    kept |= {name for name, _, _ in columns if name.startswith(("few_shot_", "eer_"))}
    return [column for column in columns if column[0] in kept]


def comparison_table(groups: Sequence[Group]) -> Table:
    """Return the comparison for the screen; of members, clean and under the one attack that a figure would show."""
    headings, rows = comparison_rows(groups, _columns_for_screen(groups), (CLEAN, row_of_members(groups)))
    several = any(len(group.seeds) > 1 for group in groups)
    title = "Mean ± standard deviation over seeds" if several else "One seed each"
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(headings[1:]):
        table.add_column("images and method" if number == 0 else heading, justify="right" if number else "left")
    before = None
    for kind, label, *cells in rows:
        if kind != before:
            if before is not None:
                table.add_section()
            table.add_row(escape(kind), style="bold")
        table.add_row(f"  {escape(label)}", *cells)
        before = kind
    scored = sorted((group for group in groups if group.scores), key=lambda group: -statistics.fmean(group.scores))
    if scored:
        lines = [f"{group.label}: {figure_cell(group.scores, False)}{_doubt(group.warnings)}" for group in scored]
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
    columns = columns_of([entry["metrics"] for entry in entries])
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
        routes = entry.get("routes") or {}
        together = f", worst of {len(routes)} routes" if len(routes) > 1 else ""
        table.add_row(entry_label(entry) + together, *figures, *_attack_cells(entry, ranked))
        if together:
            # What one attacker reaches: the row above takes the worst route for each query by itself.
            name = min(routes, key=lambda route: float(routes[route]["recall@1"]))
            cells = [_cell(routes[name].get(metric), percent) for metric, _, percent in columns]
            table.add_row(f"  worst one: through {route_label(name)}", *cells, style="dim")
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
    return "" if value is None else figure_cell([value], percent)


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
