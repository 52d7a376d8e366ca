"""The figure of a comparison: what an attack's strength does to retrieval and to the embedding's density."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustdml_ext.reporting.results import CLEAN, Group, ReportError, algorithm_label, mean_and_deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's colors, told apart with any color vision, and a shape for each as well.
_COLORS = ("#000000", "#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
_MOST = 5  # attacks side by side
_PANELS = (("recall@1", "Recall@1, %", 100.0), ("pi_ratio", "π ratio (lower is denser)", 1.0))


def _curve(group: Group, attack: str, metric: str) -> list[tuple[float, float, float]]:
    """Return (ε, mean, deviation) for clean images, at ε = 0, and for each ε of an attack."""
    points = []
    for name, row in group.rows.items():
        threat = group.threats[name]
        clean = name == CLEAN
        if metric in row and None not in row[metric] and (clean or (threat is not None and threat["name"] == attack)):
            mean, deviation = mean_and_deviation(row[metric])
            points.append((0.0 if threat is None else float(threat["epsilon"]), mean, deviation or 0.0))
    return sorted(points)


def draw_comparison(groups: Sequence[Group], file: str | Path) -> None:
    """Draw R@1 and π_ratio against ε for every attack: one line a method, with a band of one deviation.

    Args:
        groups: from :func:`~robustdml_ext.reporting.group_results`.
        file: where to write; its ending chooses the format (png, svg, pdf).

    Raises:
        ReportError: no result holds an attack, or the format is not one that can be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = {threat["name"]: None for group in groups for threat in group.threats.values() if threat is not None}
    # The two of the paper first, then the worst of a suite; of many others, as many as a page holds.
    first = ("stax", "mtax", "worst")
    attacks = sorted(names, key=lambda name: first.index(name) if name in first else len(first))[:_MOST]
    if not attacks:
        raise ReportError("these results hold no attack to draw; run them with --attack-epsilons")
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        figure, grid = pyplot.subplots(
            len(_PANELS), len(attacks), figsize=(3.7 * len(attacks) + 0.4, 5.4), sharex="col", sharey="row",
            squeeze=False, layout="constrained",
        )  # fmt: skip
        for row, (metric, heading, scale) in enumerate(_PANELS):
            for column, attack in enumerate(attacks):
                axes = grid[row][column]
                _draw_panel(axes, groups, attack, metric, scale)
                if column == 0:
                    axes.set_ylabel(heading)
                if row == 0:
                    axes.set_title(_attack_title(groups, attack), fontsize=10)
                if row == len(_PANELS) - 1:
                    axes.set_xlabel("ε of the attack, in pixels of [0, 1]")
        handles, labels = grid[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 5), frameon=False)
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        try:
            figure.savefig(file, dpi=160)
        except ValueError as error:
            raise ReportError(f"cannot write {file}: {error}") from None
        finally:
            pyplot.close(figure)


def _draw_panel(axes: Axes, groups: Sequence[Group], attack: str, metric: str, scale: float) -> None:
    for number, group in enumerate(groups):
        points = _curve(group, attack, metric)
        if not points:
            continue
        epsilons = [point[0] for point in points]
        means = [scale * point[1] for point in points]
        deviations = [scale * point[2] for point in points]
        color = _COLORS[number % len(_COLORS)]
        marker = _MARKERS[number % len(_MARKERS)]
        axes.plot(epsilons, means, color=color, marker=marker, markersize=4.5, linewidth=1.6, label=group.label)
        low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
        high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
        axes.fill_between(epsilons, low, high, color=color, alpha=0.15, linewidth=0)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_xlim(left=-0.03 * axes.get_xlim()[1])  # so that markers at ε = 0 are whole


def _attack_title(groups: Sequence[Group], attack: str) -> str:
    threat = next(
        threat for group in groups for threat in group.threats.values() if threat and threat["name"] == attack
    )
    if attack == "worst":
        return f"worst of {len(threat['attacks'])} attacks"
    targets = {"stax": ", one target", "mtax": f", {threat['targets']} targets", "away": ", away from clean"}
    name = attack.upper() if attack in ("stax", "mtax") else attack
    return f"{name}: {algorithm_label(threat)}{targets.get(attack, '')}"
