"""The result table of the page: ours, mean ± deviation over seeds, and the published figures beside them."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from robustdml_ext.reporting.labels import CLEAN, SEEN, is_attack
from robustdml_ext.reporting.page.runs import PageGroup, PageRun
from robustdml_ext.reporting.results import Group, entries_of, group_results, judged_of
from robustdml_ext.reporting.tables import comparison_columns, figure_cell, shown_entries, small_is_good
from robustdml_ext.reporting.tasks import SCORERS, has_tasks, place_of


@dataclass
class Row:
    """A line of the table: whose figures, over how many seeds, and each with whether it is the best of its kind."""

    label: str
    seeds: str
    cells: list[tuple[str, bool]]
    number: int | None = None
    kind: str = "ours"  # "member", or "published"
    note: int | None = None


@dataclass
class Block:
    """The rows of one kind of images."""

    title: str
    rows: list[Row] = field(default_factory=list)


@dataclass
class ResultTable:
    """The whole table, and the notes that published figures refer to."""

    headings: list[str]
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)


def result_table(
    groups: Sequence[Group], numbers: Sequence[int], published: Sequence[Mapping[str, Any] | None] = ()
) -> ResultTable | None:
    """Return the figures of all groups, or None where there are none.

    Args:
        groups: whose runs have ended.
        numbers: of each group on the page.
        published: of each group the paper's figures, or None.
    """
    columns = comparison_columns(groups)
    kinds = {name: None for group in groups for name in group.rows}
    if not kinds or not columns:
        return None
    table = ResultTable([heading for _, heading, _ in columns], [])
    of_block: dict[str, Block] = {}
    for kind in sorted(kinds, key=lambda name: (CLEAN, SEEN, name).index(name)):
        block = of_block[kind] = Block(kind)
        best = _best(groups, kind, columns)
        for group, number in zip(groups, numbers, strict=True):
            named = [(group.label, group.rows, "ours")]
            named += [(f"member {place}", rows, "member") for place, rows in enumerate(group.members, 1)]
            for label, rows, whose in named:
                if kind in rows:
                    cells = [
                        (
                            figure_cell(rows[kind][name], percent),
                            whose == "ours" and _mean(rows[kind], name) == best[name],
                        )
                        if name in rows[kind]
                        else ("", False)
                        for name, _, percent in columns
                    ]
                    seeds = str(max((len(values) for values in rows[kind].values()), default=0))
                    block.rows.append(Row(label, seeds, cells, number, whose))
        table.blocks.append(block)
    for group, number, figures in zip(groups, numbers, published or [None] * len(groups), strict=True):
        if figures:
            _add_published(table, of_block, group, number, figures, columns)
    return table


def _mean(row: Mapping[str, Sequence[float | None]], name: str) -> float | None:
    values = row.get(name) or [None]
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if len(known) == len(values) else None


def _best(groups: Sequence[Group], kind: str, columns: Sequence[tuple[str, str, bool]]) -> dict[str, float | None]:
    """The best mean of each column, where there are several to choose from; NaN, which nothing equals, elsewhere."""
    best: dict[str, float | None] = {}
    for name, _, _ in columns:
        means = [mean for group in groups if (mean := _mean(group.rows.get(kind, {}), name)) is not None]
        chosen = min if small_is_good(name) else max
        best[name] = chosen(means) if len(set(means)) > 1 else float("nan")
    return best


def _add_published(
    table: ResultTable,
    blocks: dict[str, Block],
    group: Group,
    number: int,
    published: Mapping[str, Any],
    columns: Sequence[tuple[str, str, bool]],
) -> None:
    """Put published figures under ours of the same images; those of an attack that we have not under its own title."""
    parts = [f"{group.label}: {published['source']}"]
    parts += [str(published["note"])] if published.get("note") else []
    if published.get("adversarial") or published.get("attacks"):
        parts.append(f"attack: {published['threat']}")
    note = ". ".join(parts)
    if note not in table.notes:
        table.notes.append(note)
    reference = table.notes.index(note) + 1
    found = [(CLEAN, published.get("clean") or {}, published.get("clean_deviation") or {})]
    threat = str(published.get("threat", ""))
    if published.get("adversarial"):
        kind = _same_attack(threat, group) or f"published, under attack: {threat}"
        found.append((kind, published["adversarial"], published.get("adversarial_deviation") or {}))
    for attack, figures in (published.get("attacks") or {}).items():
        found.append((f"published, under attack: {attack}", figures, {}))
    for kind, figures, deviations in found:
        cells = [(_printed(figures.get(name), deviations.get(name), percent), False) for name, _, percent in columns]
        if not any(text for text, _ in cells):
            continue
        if kind not in blocks:
            blocks[kind] = Block(kind)
            table.blocks.append(blocks[kind])
        row = Row(f"{group.label}, published", "", cells, number, "published", reference)
        rows = blocks[kind].rows
        after = [place for place, other in enumerate(rows) if other.number == number and other.kind == "ours"]
        rows.insert(after[-1] + 1 if after else len(rows), row)


def _printed(value: float | None, deviation: float | None, percent: bool) -> str:
    """A published figure, in percent already, with the digits that are printed."""
    if value is None:
        return ""
    digits = 2 if percent else 3
    return f"{value:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _same_attack(words: str, group: Group) -> str | None:
    """Our row of the attack that a paper describes."""
    return next((kind for kind, threat in group.threats.items() if is_attack(words, threat)), None)


def task_rows(groups: Sequence[Group], numbers: Sequence[int]) -> ResultTable | None:
    """Return retrieval, verification and few-shot figures by each way of scoring; None where no model was so judged."""
    found: dict[tuple[str, int, str], dict[str, list[float]]] = {}
    headings: dict[str, bool] = {}
    for group, number in zip(groups, numbers, strict=True):
        clean = group.rows.get(CLEAN, {})
        if not has_tasks(dict.fromkeys(clean)):
            continue
        for name, values in clean.items():
            place = place_of(name)
            if place is not None and not place[1].endswith("±"):
                scorer, heading = place
                found.setdefault((group.label, number, scorer), {})[heading] = values
                headings[heading] = heading.endswith("%")
    if not found:
        return None
    blocks: dict[str, Block] = {}
    for (label, number, scorer), figures in found.items():
        title = f"scored by {SCORERS.get(scorer, scorer)}"
        cells = [
            (figure_cell(figures[name], percent) if name in figures else "", False)
            for name, percent in headings.items()
        ]
        seeds = str(max(len(values) for values in figures.values()))
        blocks.setdefault(title, Block(title)).rows.append(Row(label, seeds, cells, number))
    return ResultTable(list(headings), list(blocks.values()))


@dataclass
class Evaluation:
    """Judgments by `run evaluate` under one protocol."""

    title: str
    table: ResultTable | None
    tasks: ResultTable | None
    scores: list[Row]
    meaning: str
    warnings: list[str]


def evaluations(groups: Sequence[PageGroup]) -> list[Evaluation]:
    """Return what the evaluations of all runs found, those under one protocol in one table."""
    under: dict[str, list[tuple[int, PageRun, dict[str, Any]]]] = {}
    for number, group in enumerate(groups):
        for run in group.runs:
            for name, result in run.evaluations.items():
                key = f"{name} {sorted((part, str(value)) for part, value in judged_of(result).items())}"
                under.setdefault(key, []).append((number, run, result))
    return [_evaluation(alike, groups) for alike in under.values()]


def _evaluation(found: Sequence[tuple[int, PageRun, dict[str, Any]]], groups: Sequence[PageGroup]) -> Evaluation:
    by_number: dict[int, list[dict[str, Any]]] = {}
    for number, _, result in found:
        name = "entries" if "entries" in result else "results"
        shown = {**result, name: shown_entries(entries_of(result))}
        by_number.setdefault(number, []).append(shown)
    own, numbers = [], []
    for number, results in by_number.items():
        group = group_results(results)[0]
        group.label = groups[number].label
        own.append(group)
        numbers.append(number)
    data = found[0][2].get("data") or {}
    gallery = f", against a gallery of {data['gallery']:,}" if data.get("gallery") else ""
    title = f"{data.get('images', 0):,} images of {data.get('dataset', '?')}, {data.get('split', '?')}{gallery}"
    scores = [
        Row(group.label, str(len(group.scores)), [(figure_cell(group.scores, False), False)], number)
        for group, number in zip(own, numbers, strict=True)
        if group.scores
    ]
    meaning = str(found[0][2].get("score_definition") or "")
    warnings = list(dict.fromkeys(f"{group.label}: {text}" for group in own for text in group.warnings))
    return Evaluation(
        title, result_table(own, numbers), task_rows(own, numbers), scores, meaning if scores else "", warnings
    )
