"""The curves behind a comparison's figure, and the figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made_up import EPSILONS, STEPS, away, made_up

from robustdml_ext.recipes import make_recipe
from robustdml_ext.recipes.names import DEFENSES
from robustdml_ext.reporting import Group, ReportError, draw_comparison, group_results
from robustdml_ext.reporting.curves import (
    against_epsilon,
    against_steps,
    attacks_of,
    members_beside,
    row_of_members,
    swept_epsilon,
    usual_steps,
)
from robustdml_ext.reporting.figures import robustness_columns, robustness_metrics


def _all_seven() -> list[Group]:
    results = [
        made_up(method, seed, members=3 if method in ("ensemble", "eat") else 0)
        for method in DEFENSES
        for seed in (0, 1)
    ]
    return group_results(results)


def _of_mdprop(recall: float = 0.5, **fields: Any) -> dict[str, Any]:
    threats = [None]
    threats += [{"name": n, "epsilon": e, "steps": 20, "targets": 5} for n in ("stax", "mtax") for e in (0.05, 0.1)]
    results = [
        {"threat": threat, "metrics": {"recall@1": recall - (2 * threat["epsilon"] if threat else 0), "pi_ratio": 0.8}}
        for threat in threats
    ]
    return {"recipe": make_recipe(fields).model_dump(mode="json"), "results": results}


def test_a_curve_over_epsilon_keeps_to_one_number_of_steps() -> None:
    (group,) = group_results([made_up("at", 0), made_up("at", 1)])
    assert attacks_of([group]) == ["away"] and usual_steps([group], "away") == 10
    points = against_epsilon(group, "away", "recall@1", 10)
    assert [point.x for point in points] == [0.0, *EPSILONS]
    assert points[0].mean == pytest.approx(0.545) and points[0].deviation == pytest.approx(0.01 / 2**0.5)
    assert points[0].mean > points[1].mean > points[2].mean


def test_a_curve_over_steps_keeps_to_one_epsilon() -> None:
    (group,) = group_results([made_up("at")])
    assert swept_epsilon([group], "away") == EPSILONS[0]
    points = against_steps(group, "away", "f1", EPSILONS[0])
    assert [point.x for point in points] == sorted([0, *STEPS, 10])
    assert swept_epsilon(group_results([_of_mdprop()]), "stax") is None


def test_the_usual_steps_are_the_recipes_where_all_are_as_common() -> None:
    result = made_up("at", eval_steps=5)
    result["results"] = [{"threat": away(0.1, steps), "metrics": {"recall@1": 0.5, "f1": 0.2}} for steps in (2, 5, 9)]
    assert usual_steps(group_results([result]), "away") == 5
    result["recipe"]["eval_steps"] = 100
    assert usual_steps(group_results([result]), "away") == 2


def test_of_several_sweeps_the_longest_counts_and_of_equal_ones_that_at_the_smallest_epsilon() -> None:
    result = made_up("at")
    result["results"] += [{"threat": away(0.2, steps), "metrics": {"recall@1": 0.1}} for steps in (2, 3)]
    assert swept_epsilon(group_results([result]), "away") == EPSILONS[0]
    result["results"] += [{"threat": away(0.2, steps), "metrics": {"recall@1": 0.1}} for steps in (4, 5, 6)]
    assert swept_epsilon(group_results([result]), "away") == 0.2
    result["results"] += [{"threat": away(0.4, steps), "metrics": {"recall@1": 0.1}} for steps in (2, 3, 4, 5, 6)]
    assert swept_epsilon(group_results([result]), "away") == 0.2


def test_members_are_shown_under_the_usual_steps() -> None:
    result = made_up("eat", members=2)
    for entries in (result["results"], *result["members"]):
        entries.reverse()  # so that the first is not the usual
    assert row_of_members(group_results([result])) == "PGD-10 away from clean, ε = 8/255"


def test_members_stand_beside_every_method() -> None:
    groups = _all_seven()
    row = row_of_members(groups)
    assert row == "PGD-10 away from clean, ε = 8/255"
    bars = members_beside(groups, row, "recall@1")
    assert [bar.label for bar in bars if not bar.member] == [group.label for group in groups]
    assert [bar.label for bar in bars if bar.member] == ["member 1", "member 2", "member 3"] * 2
    of_eat = [bar.mean for bar in bars if groups[bar.group].label == "PAL + EAT"]
    assert of_eat == sorted(of_eat, reverse=True) and of_eat[0] - of_eat[1] == pytest.approx(0.03)
    assert row_of_members(group_results([made_up("at")])) is None


def test_columns_and_metrics_follow_what_the_results_hold() -> None:
    groups = _all_seven()
    titles = [column.title for column in robustness_columns(groups)]
    assert titles == [
        "PGD-10, away from clean",
        "away from clean, ε = 8/255",
        "members alone: PGD-10 away from clean, ε = 8/255",
    ]
    assert [name for name, _, _ in robustness_metrics(groups)] == ["recall@1", "f1"]
    mdprop = group_results([_of_mdprop()])
    assert [column.title for column in robustness_columns(mdprop)] == [
        "STAX: PGD-20, one target",
        "MTAX: PGD-20, 5 targets",
    ]
    assert [name for name, _, _ in robustness_metrics(mdprop)] == ["recall@1", "pi_ratio"]
    assert [name for name, _, _ in robustness_metrics([*mdprop, *groups])] == ["recall@1", "pi_ratio"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_the_figure_is_drawn(tmp_path: Path, ending: str) -> None:
    groups = group_results([_of_mdprop(0.5, seed=0), _of_mdprop(0.7, seed=1), _of_mdprop(0.4, targets=[3])])
    file = tmp_path / f"figure.{ending}"
    draw_comparison(groups, file)
    assert file.stat().st_size > 10_000
    if ending == "svg":
        assert "<svg" in file.read_text()[:1000]


def test_the_figures_of_the_eat_paper_are_drawn_in_one(tmp_path: Path) -> None:
    import matplotlib

    file = tmp_path / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # words as words
        draw_comparison(_all_seven(), file)
    text = file.read_text()
    for words in ("F1, %", "Recall@1, %", "gradient steps of the attack", "member 3", "PAL + TRADES", "naive ensemble"):
        assert words in text
    assert "π ratio" not in text


def test_training_images_have_no_place_on_a_curve_over_epsilon(tmp_path: Path) -> None:
    result = made_up("at")
    (without,) = group_results([result])
    (group,) = group_results([{**result, "seen": {"threat": None, "metrics": {"recall@1": 0.99, "f1": 0.9}}}])
    assert "clean, training images" in group.rows
    for metric in ("recall@1", "f1"):
        assert against_epsilon(group, "away", metric, 10) == against_epsilon(without, "away", metric, 10)
    draw_comparison([group], tmp_path / "figure.png")


def test_a_figure_without_attacks_or_of_unknown_format_is_refused(tmp_path: Path) -> None:
    result = _of_mdprop()
    with pytest.raises(ReportError, match="cannot write"):
        draw_comparison(group_results([result]), tmp_path / "figure.xyz")
    result["results"] = result["results"][:1]
    with pytest.raises(ReportError, match="attack"):
        draw_comparison(group_results([result]), tmp_path / "figure.png")


def test_figures_that_are_undefined_leave_gaps(tmp_path: Path) -> None:
    """JSON has no NaN: a figure without a value is None there."""
    result = made_up("eat", members=2)
    for entry in [*result["results"], *result["members"][0]]:
        entry["metrics"]["f1"] = None
    groups = group_results([result])
    row = row_of_members(groups)
    assert row is not None and [bar.label for bar in members_beside(groups, row, "f1")] == ["member 2"]
    draw_comparison(groups, tmp_path / "figure.png")
