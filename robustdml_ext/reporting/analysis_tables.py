"""What the norms of a run's distributions are worth and how far they differ, mean and deviation over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group as Lines
from rich.markup import escape
from rich.table import Table

from robustdml_ext.reporting.labels import method_label
from robustdml_ext.reporting.results import group_key, mean_and_deviation
from robustdml_ext.reporting.tables import figure_text

_Runs = Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]


def analysis_tables(runs: _Runs) -> Lines:
    """Return two tables: Recall@1 by the norms used at inference, and the mean size of differences of γ and β.

    Runs that differ in the seed alone are put together. Of runs without auxiliary norms, why they have none.

    Args:
        runs: of each the content of ``result.json`` and of ``analysis.json``.
    """
    groups: dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any]]]] = {}
    for result, analysis in runs:
        groups.setdefault(group_key(result["recipe"], {}), []).append((result, analysis))
    with_norms = {key: found for key, found in groups.items() if "missing" not in found[0][1]["auxiliary"]}
    parts: list[Table | str] = []
    if with_norms:
        parts += [_recalls(list(with_norms.values())), _differences(list(with_norms.values()))]
    for key, found in groups.items():
        if key not in with_norms:
            parts.append(f"{escape(_name(found))}: {escape(found[0][1]['auxiliary']['missing'])}")
    return Lines(*parts)


def _name(group: _Runs) -> str:
    recipe = group[0][0]["recipe"]
    return f"{method_label(recipe)}, {recipe['dataset']}"


def _text(values: Sequence[float | None], scale_to_percent: bool, sign: bool = False) -> str:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return "–"  # a figure that the data left undefined
    text = figure_text(*mean_and_deviation(known), scale_to_percent)
    return f"+{text}" if sign and not text.startswith("-") else text


def _recalls(groups: Sequence[_Runs]) -> Table:
    table = Table(title="Clean test images, by the norms used at inference", title_justify="left")
    table.add_column("method")
    for heading in ("seeds", "norms", "R@1 %", "points from clean norms", "NMI %"):
        table.add_column(heading, justify="left" if heading == "norms" else "right")
    for group in groups:
        entries = [analysis["auxiliary"]["distributions"] for _, analysis in group]
        for place, entry in enumerate(entries[0]):
            here = [found[place]["metrics"] for found in entries]
            recalls = [metrics["recall@1"] for metrics in here]
            against = [own - found[0]["metrics"]["recall@1"] for own, found in zip(recalls, entries, strict=True)]
            table.add_row(
                escape(_name(group)) if place == 0 else "",
                str(len(group)) if place == 0 else "",
                escape(entry["name"]),
                _text(recalls, True),
                _text(against, True, sign=True) if place else "",
                _text([metrics.get("nmi") for metrics in here], True),
            )
    return table


def _differences(groups: Sequence[_Runs]) -> Table:
    table = Table(title="Differences of the norms' parameters, mean size over all channels", title_justify="left")
    for heading in ("method", "norms", "|Δγ|", "|Δβ|"):
        table.add_column(heading, justify="right" if "Δ" in heading else "left")
    for group in groups:
        norms = [analysis["norms"] for _, analysis in group]
        names = norms[0]["distributions"]
        for place, (i, j) in enumerate(norms[0]["pairs"]):
            table.add_row(
                escape(_name(group)) if place == 0 else "",
                escape(f"{names[i]} and {names[j]}"),
                *(_digits([found["mean_absolute"][name][place] for found in norms]) for name in ("gamma", "beta")),
            )
    return table


def _digits(values: Sequence[float]) -> str:
    mean, deviation = mean_and_deviation(values)
    return f"{mean:.4f}" if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
