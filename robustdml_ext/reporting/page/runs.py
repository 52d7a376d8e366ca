"""What the page is of: runs as their folders hold them, put together where they differ in the seed alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from robustdml_ext.reporting.labels import method_label
from robustdml_ext.reporting.page.analysis import (
    NOT_A_RUN,
    NOT_ENDED,
    Analysis,
    AnalysisError,
    judged_weights,
    read_analysis,
)
from robustdml_ext.reporting.results import (
    Group,
    ReportError,
    group_key,
    group_results,
    judged_of,
    mean_and_deviation,
    read_result,
    tell_apart,
)
from robustdml_ext.reporting.training_curves import CurveGroup, Lines, group_curves, read_curves


@dataclass
class PageRun:
    """A run, or an evaluation of a model, as far as it has come.

    Attributes:
        name: as it was asked for.
        folder: of its files.
        recipe: the run's own; of a model that no run made, what stands in its place.
        result: the content of ``result.json``; None before the run has ended.
        lines: of ``metrics.jsonl``.
        published: the paper's figures, where the recipe has them.
        evaluations: results of `run evaluate` in folders below, by the folder's name.
        analysis: what the maps, sheets and norms are drawn from.
        missing: why there is no analysis.
        failure: the last line of what ended the run.
        score: its robustness score, see :func:`~robustdml_ext.reporting.page.score_runs`.
    """

    name: str
    folder: Path
    recipe: dict[str, Any]
    result: dict[str, Any] | None = None
    lines: Lines = field(default_factory=list)
    published: dict[str, Any] | None = None
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)
    analysis: Analysis | None = None
    missing: str = ""
    failure: str = ""
    score: float | None = None

    @property
    def trained(self) -> bool:
        """Whether it is a run of training that has ended, and not an evaluation."""
        return self.result is not None and "protocol" not in self.result

    def read_analysis(self) -> None:
        """Read the analysis in its folder, or else say why there is none."""
        self.analysis, self.missing = None, ""
        if not self.trained:
            self.missing = NOT_ENDED if self.result is None else NOT_A_RUN
            return
        try:
            self.analysis = read_analysis(self.folder, judged_weights(self.result))
        except AnalysisError as error:
            self.missing = str(error)


def read_run(path: str | Path) -> PageRun:
    """Read what there is of a run, given its folder or a file in it.

    Raises:
        ReportError: there is nothing of a run, or what there is cannot be read.
    """
    place = Path(path)
    folder = place if place.is_dir() else place.parent
    result = read_result(folder) if (folder / "result.json").is_file() else None
    recipe: dict[str, Any] = {}
    lines: Lines = []
    if (folder / "metrics.jsonl").is_file() and (folder / "recipe.yaml").is_file():
        recipe, lines = read_curves(folder)
    if result is None and not recipe:
        raise ReportError(
            f"nothing of a run at {path}: expected a folder with result.json, or with recipe.yaml and metrics.jsonl"
        )
    if result is None and not lines:
        raise ReportError(f"nothing to report of {path} yet: the run has logged no step")
    recipe = recipe if result is None else result["recipe"]
    try:
        method_label(recipe)
        published = _published(folder) if result is None else result.get("published")
        run = PageRun(str(path), folder, recipe, result, lines, published)
        run.evaluations = {
            file.parent.name: read_result(file)
            for file in sorted(folder.glob("evaluation*/result.json"))
            if "protocol" not in (result or {})
        }
    except (KeyError, TypeError) as error:
        raise ReportError(f"{folder} holds no run of ours ({type(error).__name__}: {error})") from None
    run.failure = _last_line(folder / "failure.txt")
    run.read_analysis()
    return run


def _published(folder: Path) -> dict[str, Any] | None:
    try:
        found = yaml.safe_load((folder / "recipe.yaml").read_text(encoding="utf-8")).get("published")
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        return None
    return found if isinstance(found, dict) else None


def _last_line(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


@dataclass
class PageGroup:
    """Runs that differ in the seed alone: one color, one shape, one line in every figure.

    Attributes:
        label: short name, unique on the page.
        recipe: of the first run.
        judged: as in :class:`~robustdml_ext.reporting.Group`.
        runs: one for each seed.
        results: their figures; without rows where none has ended.
        curves: of their training; without runs where none has any.
    """

    label: str
    recipe: dict[str, Any]
    judged: dict[str, Any]
    runs: list[PageRun]
    results: Group
    curves: CurveGroup

    @property
    def score(self) -> tuple[float, float | None] | None:
        """Mean and deviation of the robustness score over the runs that have one."""
        scores = [run.score for run in self.runs if run.score is not None]
        return mean_and_deviation(scores) if scores else None

    @property
    def published(self) -> dict[str, Any] | None:
        """The paper's figures for the recipe."""
        return next((run.published for run in self.runs if run.published), None)


def group_runs(runs: Iterable[PageRun]) -> list[PageGroup]:
    """Put together the runs that differ in the seed alone, the highest robustness score first; then those without one.

    Raises:
        ReportError: a run was named twice.
    """
    found: dict[str, list[PageRun]] = {}
    places: dict[Path, str] = {}
    for run in runs:
        place = run.folder.resolve()
        if place in places:
            raise ReportError(f"{places[place]} and {run.name} are one run; name it once")
        places[place] = run.name
        judged = judged_of(run.result or {"recipe": run.recipe})
        found.setdefault(group_key(run.recipe, judged), []).append(run)
    groups = [_group(alike) for alike in found.values()]
    tell_apart(groups)
    for group in groups:
        group.results.label = group.curves.label = group.label
    return sorted(groups, key=lambda group: -group.score[0] if group.score else float("inf"))


def _group(runs: Sequence[PageRun]) -> PageGroup:
    recipe = runs[0].recipe
    judged, label = judged_of(runs[0].result or {"recipe": recipe}), method_label(recipe)
    results = group_results(run.result for run in runs if run.result is not None)
    # Runs without lines too, so that a seed given twice is found.
    curves = group_curves((run.recipe, run.lines) for run in runs)[0]
    return PageGroup(label, recipe, judged, list(runs), results[0] if results else Group(label, recipe, judged), curves)
