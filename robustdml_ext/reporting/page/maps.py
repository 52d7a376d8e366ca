"""The map of the embeddings, clean and attacked, and what the distributions' norms have come to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustdml_ext.reporting.labels import inputs_label
from robustdml_ext.reporting.page.analysis import Analysis, AnalysisError
from robustdml_ext.reporting.page.bars import BarSeries, draw_bars
from robustdml_ext.reporting.page.drawing import Panel, draw_panel, key_of
from robustdml_ext.reporting.page.runs import PageGroup
from robustdml_ext.reporting.results import mean_and_deviation
from robustdml_ext.reporting.style import COLORS, FAINT, MARKERS, rule
from robustdml_ext.reporting.tables import figure_text

_MOST_POINTS = 800  # of a map; each is some 60 bytes of the page
_SHARES = (5, 25, 50, 75, 95)  # percentiles of a layer's channels


@dataclass(frozen=True)
class EmbeddingMap:
    """A run's map: its panels, the classes' keys, and what its caption tells."""

    panels: list[Panel]
    classes: list[dict[str, str]]
    method: str
    threat: str
    shown: int
    points: int


def embedding_map(analysis: Analysis, identity: str) -> EmbeddingMap:
    """Return the map, clean and attacked, on the same axes.

    Args:
        analysis: of the run.
        identity: unique on the page.

    Raises:
        AnalysisError: there is none.
    """
    facts = analysis.part("map")
    names = [str(name) for name in facts.get("classes", [])]
    classes = analysis.arrays["map_class"].astype(int)
    both = {kind: analysis.arrays[f"map_{kind}"].astype(float) for kind in ("clean", "attacked")}
    if any(points.ndim != 2 or points.shape[1] != 2 for points in both.values()):
        raise AnalysisError("the points of the map are not pairs of numbers")
    if len(classes) and not 0 <= classes.min() <= classes.max() < len(names):
        raise AnalysisError("the map has points of classes that it does not name")
    finite = np.flatnonzero(np.isfinite(both["clean"]).all(1) & np.isfinite(both["attacked"]).all(1))
    if not len(finite):
        raise AnalysisError("the map has no points")
    rows = finite[np.unique(np.linspace(0, len(finite) - 1, min(len(finite), _MOST_POINTS)).round().astype(int))]
    every = np.concatenate([both["clean"][rows], both["attacked"][rows]])
    low, high = every.min(0), every.max(0)
    room = 0.04 * np.maximum(high - low, 1e-9)
    limits = np.stack([low - room, high + room], 1)
    threat = inputs_label(analysis.facts["threat"]) if analysis.facts.get("threat") else "attacked"
    panels = []
    for kind, title in (("clean", "clean"), ("attacked", threat)):

        def paint(axes: Any, points: NDArray[Any] = both[kind], title: str = title) -> None:
            for number in sorted(set(classes[rows].tolist())):
                own = points[rows[classes[rows] == number]]
                axes.plot(
                    own[:, 0], own[:, 1], linestyle="", marker=MARKERS[_shape(number)], markersize=3.2, alpha=0.75,
                    markeredgewidth=0, color=COLORS[number % len(COLORS)], label="_",
                )  # fmt: skip
            axes.set_xlim(*limits[0])
            axes.set_ylim(*limits[1])
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[["top", "right"]].set_visible(True)
            for spine in axes.spines.values():
                spine.set_color(FAINT)
            axes.set_title(title, fontsize=10)

        alt = f"{facts.get('method', 'map')} of {len(rows)} embeddings, {title}; {len(names)} classes"
        panels.append(draw_panel(f"{identity}-{kind}", alt, paint, (3.9, 3.6)))
    present = sorted(set(classes[rows].tolist()))
    keys = [{"label": names[number], **key_of(number), "glyph": key_of(_shape(number))["glyph"]} for number in present]
    return EmbeddingMap(panels, keys, _method(facts), threat, len(rows), len(classes))


def _method(facts: Mapping[str, Any]) -> str:
    said = [str(facts.get("method") or "a map in two dimensions")]
    said += [f"perplexity {facts['perplexity']:g}"] if facts.get("perplexity") is not None else []
    said += [f"fitted on {facts['fitted_on']}"] if facts.get("fitted_on") else []
    return ", ".join(said)


def _shape(number: int) -> int:
    """Classes of one color have different shapes; the first ones of each color the shape that runs of it have."""
    return (number + number // len(COLORS)) % len(MARKERS)


@dataclass(frozen=True)
class NormDifferences:
    """A run's norms: panels of γ and β for each pair of distributions, and the layers' names in order of depth."""

    panels: list[Panel]
    layers: list[str]


def norm_differences(analysis: Analysis, identity: str, number: int) -> NormDifferences:
    """Return what the learned γ and β of each pair of distributions differ by, layer by layer (MDProp, figure 2).

    Args:
        analysis: of the run.
        identity: unique on the page.
        number: of the run's group, which chooses the color.

    Raises:
        AnalysisError: there are none.
    """
    facts = analysis.part("norms")
    names, pairs = [str(name) for name in facts["distributions"]], facts["pairs"]
    layer, layers = analysis.arrays["norm_layer"].astype(int), [str(name) for name in facts["layers"]]
    panels = []
    for letter, array in (("γ", "norm_gamma"), ("β", "norm_beta")):
        differences = analysis.arrays[array].astype(float)
        if differences.shape != (len(pairs), len(layer)):
            raise AnalysisError(f"{array} has the shape {list(differences.shape)}, not {[len(pairs), len(layer)]}")
        height = np.nanmax(np.abs(differences)) if differences.size else 0.0
        for place, (one, other) in enumerate(pairs):
            of_layers = [differences[place][layer == depth] for depth in range(len(layers))]
            depths = [depth for depth, values in enumerate(of_layers) if len(values)]
            shares = np.array([np.percentile(of_layers[depth], _SHARES) for depth in depths])

            def paint(
                axes: Any, shares: NDArray[Any] = shares, depths: Sequence[int] = depths, height: float = height
            ) -> None:
                color, at = COLORS[number % len(COLORS)], np.array(depths) + 1
                axes.axhline(0, color=FAINT, linewidth=0.8)
                axes.vlines(at, shares[:, 0], shares[:, 4], color=color, linewidth=1.0)
                axes.vlines(at, shares[:, 1], shares[:, 3], color=color, linewidth=4.0, alpha=0.55)
                axes.plot(at, shares[:, 2], linestyle="", marker="o", markersize=3.4, color=color, label="_")
                axes.set_ylim(-1.08 * height or -1, 1.08 * height or 1)
                axes.xaxis.get_major_locator().set_params(integer=True)
                axes.set_xlim(0.4, len(layers) + 0.6)
                rule(axes, "y")

            what = f"{letter} of {names[one]} − {letter} of {names[other]}"

            def titled(axes: Any, paint: Any = paint, what: str = what) -> None:
                paint(axes)
                axes.set_title(what, fontsize=10)
                axes.set_xlabel("layer, from the input")

            widest = max(np.abs(shares[:, 2]).tolist(), default=0.0)
            alt = f"{what} in {len(layers)} layers; medians up to {widest:.3g} from zero"
            panels.append(draw_panel(f"{identity}-{array.removeprefix('norm_')}-{place}", alt, titled, (3.9, 2.5)))
    return NormDifferences(panels, layers)


def auxiliary_panel(groups: Sequence[PageGroup]) -> tuple[Panel | None, dict[str, str]]:
    """Return R@1 with each distribution's norm at inference, and for groups without it the reason."""
    series: list[BarSeries] = []
    reasons: dict[str, str] = {}
    for number, group in enumerate(groups):
        found: dict[str, list[float]] = {}
        for run in group.runs:
            try:
                if run.analysis is None:
                    raise AnalysisError(run.missing)
                for one in run.analysis.part("auxiliary")["distributions"]:
                    if one["metrics"].get("recall@1") is not None:
                        found.setdefault(str(one["name"]), []).append(float(one["metrics"]["recall@1"]))
            except AnalysisError as error:
                reasons.setdefault(group.label, str(error))
        bars = {}
        for name, values in found.items():
            mean, deviation = mean_and_deviation(values)
            bars[name] = (
                100 * mean,
                None if deviation is None else 100 * deviation,
                figure_text(mean, deviation, True),
            )
        if bars:
            series.append(BarSeries(number, group.label, bars))
            reasons.pop(group.label, None)
    if not series:
        return None, reasons
    names = list(dict.fromkeys(name for one in series for name in one.bars))
    alt = "Recall@1 of clean images with the norm of each distribution at inference"
    return draw_bars("auxiliary-bars", alt, names, series, "Recall@1 of clean images, %", 100.0), reasons
