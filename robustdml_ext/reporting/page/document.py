"""The page as a whole: what it shows of the runs, put into its templates."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdml_ext.reporting.page.analysis import NOT_A_RUN, NOT_ANALYZED, NOT_ENDED, Analysis, AnalysisError
from robustdml_ext.reporting.page.curves import robustness_panels, time_panel, training_panels
from robustdml_ext.reporting.page.drawing import key_of
from robustdml_ext.reporting.page.facts import machines, recipes, run_facts, threats
from robustdml_ext.reporting.page.maps import auxiliary_panel, embedding_map, norm_differences
from robustdml_ext.reporting.page.results import evaluations, result_table, task_rows
from robustdml_ext.reporting.page.runs import PageGroup, PageRun, group_runs
from robustdml_ext.reporting.page.scores import Scoring
from robustdml_ext.reporting.page.sheets import MOST_BYTES, retrieval_sheets
from robustdml_ext.reporting.results import ReportError
from robustdml_ext.reporting.tables import figure_text

if TYPE_CHECKING:
    from jinja2 import Environment

# Why a run has no analysis, where that is no news.
_EXPECTED = frozenset({"", NOT_ANALYZED, NOT_ENDED, NOT_A_RUN})
_TEMPLATES = Path(__file__).parent / "templates"


def write_page(runs: Sequence[PageRun], scoring: Scoring, file: str | Path) -> None:
    """Write the page of one run, or of several side by side.

    Args:
        runs: as `read_run` gives them, their scores set.
        scoring: how the scores came about.
        file: where to; what was there is replaced once the page is whole.

    Raises:
        ReportError: there is no run, one was named twice, or the file cannot be written.
    """
    place = Path(file)
    text = page(runs, scoring)
    part = place.with_name(f".{place.name}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8")
        os.replace(part, place)
    except OSError as error:
        raise ReportError(f"cannot write {file}: {error.strerror}") from None


def page(runs: Sequence[PageRun], scoring: Scoring) -> str:
    """Return the page as HTML that needs no other file.

    Raises:
        ReportError: there is no run, or one was named twice.
    """
    if not runs:
        raise ReportError("name at least one run to report")
    groups = group_runs(runs)
    ended = [(number, group) for number, group in enumerate(groups) if group.results.rows]
    results, numbers = [group.results for _, group in ended], [number for number, _ in ended]
    recall, loss = training_panels(groups)
    context: dict[str, Any] = {
        "title": groups[0].label if len(groups) == 1 else f"{len(groups)} methods side by side",
        "keys_of_groups": [{"label": group.label, **key_of(number)} for number, group in enumerate(groups)],
        "runs": run_facts(groups),
        "recipes": recipes(groups),
        "threats": threats(groups),
        "machines": machines(groups),
        "datasets": ", ".join(dict.fromkeys(str(group.recipe.get("dataset", "?")) for group in groups)),
        "scoring": scoring,
        "ranking": _ranking(groups, scoring),
        "notes": _notes(groups),
        "results": result_table(results, numbers, [group.published for _, group in ended]),
        "tasks": task_rows(results, numbers),
        "evaluations": evaluations(groups),
        "several_seeds": any(len(group.seeds) > 1 for group in results),
        "recall": recall,
        "loss": loss,
        "robustness": robustness_panels(groups),
        "time": time_panel(groups),
        **_analyzed(groups),
    }
    style = (_TEMPLATES / "page.css").read_text(encoding="utf-8")
    return _templates().get_template("page.html").render(style=style, key_of=key_of, reasons_of=_reasons_of, **context)


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _ranking(groups: Sequence[PageGroup], scoring: Scoring) -> list[dict[str, Any]]:
    """The groups that have a score, and their places where scores compare."""
    rows: list[dict[str, Any]] = []
    for number, group in enumerate(groups):
        if group.score is None:
            continue
        mean, deviation = group.score
        place = str(len(rows) + 1) if scoring.comparable else ""
        text = figure_text(mean, deviation, False)
        rows.append({"place": place, "number": number, "label": group.label, "score": text, "share": mean,
                     "seeds": sum(run.score is not None for run in group.runs)})  # fmt: skip
    return rows


def _notes(groups: Sequence[PageGroup]) -> list[str]:
    """What a reader of figures must know first."""
    said = []
    for group in groups:
        selected = {((run.result or {}).get("weights") or {}).get("selected_on") for run in group.runs}
        if "test" in selected:
            said.append(f"{group.label}: the weights were selected on the test images, so its figures are optimistic.")
        if not group.results.rows:
            said.append(f"{group.label} has not ended: there are only the curves of its training so far.")
        elif any(run.result is None for run in group.runs):
            said.append(f"{group.label}: not all of its seeds have ended; the figures are of those that have.")
    return said


def _analyzed(groups: Sequence[PageGroup]) -> dict[str, Any]:
    """Maps, sheets and norms of every group's first run that has them, and the reasons where none has.

    A part is empty where no run has it, nor a reason that is worth a word.
    """
    parts: dict[str, Any] = {}
    share = MOST_BYTES // max(1, len(groups))
    makers: dict[str, Callable[[Analysis, int], Any]] = {
        "maps": lambda analysis, number: embedding_map(analysis, f"map-{number + 1}"),
        "sheets": lambda analysis, _: retrieval_sheets(analysis, share),
        "norms": lambda analysis, number: norm_differences(analysis, f"norms-{number + 1}", number),
    }
    for part, make in makers.items():
        entries = [_first(group, number, make) for number, group in enumerate(groups)]
        parts[part] = entries if any(entry["found"] or entry["missing"] not in _EXPECTED for entry in entries) else []
    panel, reasons = auxiliary_panel(groups)
    # What has no norms to compare has none to exchange either, which need not be said twice.
    said = {entry["label"]: entry["missing"] for entry in parts["norms"]}
    others = [{"label": label, "missing": text} for label, text in reasons.items() if said.get(label) != text]
    shown = panel is not None or any(entry["missing"] not in _EXPECTED for entry in others)
    return {**parts, "auxiliary": panel, "auxiliary_missing": others if shown else []}


def _reasons_of(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Why something is missing, each reason once, with all whom it is true of."""
    labels: dict[str, list[str]] = {}
    for entry in entries:
        if entry["missing"]:
            labels.setdefault(entry["missing"], []).append(entry["label"])
    return list(labels.items())


def _first(group: PageGroup, number: int, make: Callable[[Analysis, int], Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"number": number, "label": group.label, "found": None, "missing": "", "seed": None}
    for run in group.runs:
        try:
            if run.analysis is None:
                raise AnalysisError(run.missing)
            return entry | {"found": make(run.analysis, number), "seed": run.recipe.get("seed"), "missing": ""}
        except AnalysisError as error:
            reason = str(error)
        except (KeyError, TypeError, ValueError, IndexError) as error:
            reason = f"its analysis cannot be read ({type(error).__name__}: {error})"
        entry["missing"] = entry["missing"] or reason
    return entry
