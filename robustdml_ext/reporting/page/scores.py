"""The robustness score that runs are ranked by: of their evaluations, or of the attacks that all were judged under."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from robustdml_ext.reporting.labels import entry_label
from robustdml_ext.reporting.page.runs import PageRun
from robustdml_ext.reporting.results import entries_of, judged_of

Area = Callable[[float, Mapping[float, float]], float]
_FIGURES = {"recall@1": "Recall@1", "accuracy_similarity": "the similarity head's accuracy"}


@dataclass(frozen=True)
class Scoring:
    """How the page's scores came about.

    Attributes:
        meaning: in one sentence; empty where no run has a score.
        attacks: that it is of.
        comparable: whether the runs were scored under the same attacks, so that they can be ranked.
        doubts: warnings of the evaluations that it is from.
    """

    meaning: str = ""
    attacks: tuple[str, ...] = ()
    comparable: bool = True
    doubts: tuple[str, ...] = ()


def score_runs(runs: Sequence[PageRun], area: Area) -> Scoring:
    """Give every run that was attacked its ``score``, and say what the score is.

    Where every attacked run has an evaluation by one protocol, it is the score of that. Or else it is the area under
    the figure of the worst attack against ε, of the attacks that all attacked runs have; where there is none, of each
    run's own, and then scores do not compare.

    Args:
        runs: of the page.
        area: `evaluation.score.area_under_curve`: clean figure, {ε: figure} → mean height in [0, 1].
    """
    attacked = [run for run in runs if _attacks(run)]
    if not attacked:
        return Scoring()
    if (scoring := _of_evaluations(attacked)) is not None:
        return scoring
    common = set.intersection(*(set(_attacks(run)) for run in attacked))
    named = list(dict.fromkeys(name for run in attacked for name in _attacks(run) if not common or name in common))
    figures = {_figure_of(run) for run in attacked}
    for run in attacked:
        run.score = _own_score(run, common, area)
    figure = " or ".join(_FIGURES[name] for name in _FIGURES if name in figures)
    meaning = (
        f"The robustness score is the mean height of {figure} against ε, from 0 (clean) to the largest ε, under the "
        "worst attack at each ε or below: 1 is a model that no attack harms."
    )
    return Scoring(meaning, tuple(named), comparable=bool(common) and len(figures) == 1)


def _attacks(run: PageRun) -> dict[str, dict[str, Any]]:
    """The entries of a run under attack that have the figure scored, by label; the worst of a suite is none."""
    figure = _figure_of(run)
    entries = [] if run.result is None or figure is None else entries_of(run.result)
    return {
        entry_label(entry): entry
        for entry in entries
        if entry["threat"] is not None
        and entry["threat"]["name"] != "worst"
        and entry["metrics"].get(figure) is not None
    }


def _figure_of(run: PageRun) -> str | None:
    clean = {} if run.result is None else entries_of(run.result)[0]["metrics"]
    return next((name for name in _FIGURES if clean.get(name) is not None), None)


def _own_score(run: PageRun, common: set[str], area: Area) -> float:
    figure = _figure_of(run)
    assert run.result is not None and figure is not None
    clean = entries_of(run.result)[0]["metrics"][figure]
    found: dict[str, dict[float, float]] = {}
    for name, entry in _attacks(run).items():
        if common and name not in common:
            continue
        threat = entry["threat"]
        of_norm = found.setdefault(threat.get("norm", "linf"), {})
        epsilon = float(threat["epsilon"])
        of_norm[epsilon] = min(entry["metrics"][figure], of_norm.get(epsilon, clean))
    areas = []
    for attacked in found.values():
        worst, so_far = {}, clean
        for epsilon in sorted(attacked):  # a ball holds all smaller ones
            worst[epsilon] = so_far = min(so_far, attacked[epsilon])
        areas.append(area(clean, worst))
    return statistics.fmean(areas)


def _of_evaluations(runs: Sequence[PageRun]) -> Scoring | None:
    """Scores of one protocol that every run was evaluated by, where there is one."""
    by_run: list[dict[str, dict[str, Any]]] = []
    for run in runs:
        results = [*run.evaluations.values(), *([] if run.trained or run.result is None else [run.result])]
        scored = [result for result in results if result.get("score") is not None]
        by_run.append({json.dumps(judged_of(result), sort_keys=True): result for result in scored})
    shared = [key for key in by_run[0] if all(key in found for found in by_run)]
    if not shared:
        return None
    chosen = [found[shared[0]] for found in by_run]
    for run, result in zip(runs, chosen, strict=True):
        run.score = result["score"]
    names = dict.fromkeys(
        entry_label(entry)
        for entry in entries_of(chosen[0])
        if entry["threat"] is not None and entry["threat"]["name"] != "worst"
    )
    doubts = dict.fromkeys(warning for result in chosen for warning in result.get("warnings", []))
    meaning = f"The robustness score is that of run evaluate. {chosen[0].get('score_definition', '')}".strip()
    return Scoring(meaning, tuple(names), doubts=tuple(doubts))
