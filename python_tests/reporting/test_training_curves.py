"""Curves over training: what is read, means over seeds, the table and the figure, and the tool that shows them."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from made_up import shown

from robustdml_ext import run
from robustdml_ext.recipes import resolve
from robustdml_ext.reporting import ReportError, curves_table, draw_curves, group_curves, read_curves
from robustdml_ext.reporting.training_curves import CurveGroup, best_point, curve, panels


def _line(kind: str, step: int, **values: Any) -> dict[str, Any]:
    return {"kind": kind, "step": step, "epoch": 1, **values}


def _group(*runs: list[dict[str, Any]]) -> CurveGroup:
    recipe = resolve("standard").model_dump(mode="json")
    (group,) = group_curves(({**recipe, "seed": seed}, lines) for seed, lines in enumerate(runs))
    return group


def write_run(folder: Path, method: str, seed: int, *, steps: int = 6, terms: bool = False, **fields: Any) -> Path:
    """A run's folder as training leaves it, whose Recall@1 goes up by a percent a step from 50 % + seed."""
    folder.mkdir(parents=True)
    recipe = resolve(method, {"seed": seed, "out": str(folder), **fields}).model_dump(mode="json")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"recipe": recipe}))
    lines = []
    for step in range(1, steps + 1):
        losses = {"loss": 1 / step + seed} | ({"loss/metric": 2 / step + seed, "loss/generator": 3.0} if terms else {})
        lines.append(_line("train", step, **losses))
        recall = 0.5 + 0.01 * (step + seed)
        lines += [_line("test", step, **{"recall@1": recall}), _line("seen", step, **{"recall@1": 0.3 + recall})]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@given(values=st.lists(st.lists(st.floats(0, 1), min_size=5, max_size=5), min_size=1, max_size=4))
def test_points_are_means_and_deviations_over_seeds(values: list[list[float]]) -> None:
    found = curve(_group(*([_line("test", s, x=v) for s, v in enumerate(run)] for run in values)), "test", "x")
    assert found.runs == len(values) and [point.x for point in found.points] == list(range(5))
    for step, point in enumerate(found.points):
        column = [run[step] for run in values]
        assert point.mean == pytest.approx(statistics.fmean(column))
        assert point.deviation == pytest.approx(statistics.stdev(column) if len(column) > 1 else 0)


def test_a_curve_ends_with_the_run_that_is_behind() -> None:
    group = _group([_line("test", s, x=1.0) for s in (2, 4, 6)], [_line("test", s, x=3.0) for s in (2, 4)], [])
    found = curve(group, "test", "x")
    assert [(point.x, point.mean) for point in found.points] == [(2, 2.0), (4, 2.0)] and found.runs == 2
    assert curve(group, "seen", "x").points == []
    text = "\n".join(shown(curves_table([group], ["x"])))
    assert "2 of 3" in text


def test_kinds_are_kept_apart_and_undefined_values_left_out() -> None:
    lines = [_line("train", 1, x=1.0), _line("test", 1, x=5.0), _line("test", 2, x=None)]
    lines += [_line("test", 3, x=float("nan")), _line("test", 4, x=7.0), _line("epoch", 4, x=9.0)]
    group = _group(lines)
    assert [(point.x, point.mean) for point in curve(group, "test", "x").points] == [(1, 5.0), (4, 7.0)]
    assert panels([group], ["x"]) == [("x", "test"), ("x", "train")]


def test_the_loss_of_a_method_with_one_term_is_its_metric_loss(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / "plain", "standard", 0), write_run(tmp_path / "terms", "mdprop", 0, terms=True)]
    plain, terms = group_curves(read_curves(folder) for folder in folders)
    assert [curve(each, "train", "loss/metric").points[0].mean for each in (plain, terms)] == [1.0, 2.0]
    assert curve(plain, "train", "loss/generator").points == []
    assert panels([plain, terms], ["loss/generator", "recall@1"]) == [
        ("loss/generator", "train"), ("recall@1", "seen"), ("recall@1", "test"),
    ]  # fmt: skip


def test_the_best_is_the_smallest_where_small_is_good() -> None:
    points = curve(_group([_line("test", s, x=v) for s, v in enumerate((3.0, 1.0, 2.0))]), "test", "x").points
    assert [best_point(name, points).x for name in ("recall@1", "loss", "loss/metric", "pi_ratio")] == [0, 1, 1, 1]


def test_runs_are_grouped_as_results_are(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"a{seed}", "standard", seed, workers=seed) for seed in range(2)]
    folders += [write_run(tmp_path / f"m{margin}", "standard", 0, triplet_margin=margin) for margin in (0.2, 0.3)]
    groups = group_curves(read_curves(folder) for folder in folders)
    assert [group.seeds for group in groups] == [[0, 1], [0], [0]]
    assert [group.label for group in groups] == [f"ST, triplet_margin {margin}" for margin in (0.1, 0.2, 0.3)]
    with pytest.raises(ReportError, match="seed 0; give each once"):
        group_curves(read_curves(folders[0]) for _ in range(2))


def test_a_line_that_is_being_written_is_left_for_later(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "r", "standard", 0, steps=2)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "test", "st')
    _, lines = read_curves(folder)
    assert len(lines) == 6
    assert read_curves(folder / "metrics.jsonl")[1] == lines


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("metrics.jsonl", None, r"metrics\.jsonl: name the folder of a run that has begun"),
        ("recipe.yaml", None, r"recipe\.yaml: name the folder"),
        ("metrics.jsonl", "no json\n", "holds no curves"),
        ("metrics.jsonl", '{"loss": 1}\n', "lacks `kind` or `step`"),
        ("recipe.yaml", "nothing: 1", "holds no curves"),
        ("recipe.yaml", "recipe: 3", "holds no curves"),
    ],
)
def test_what_are_no_curves_is_named(tmp_path: Path, name: str, text: str | None, word: str) -> None:
    folder = write_run(tmp_path / "r", "standard", 0)
    if text is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(text)
    with pytest.raises(ReportError, match=word):
        read_curves(folder)


def test_the_tool_prints_and_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import matplotlib

    runs = [str(write_run(tmp_path / f"st{seed}", "standard", seed)) for seed in range(2)]
    runs += [str(write_run(tmp_path / f"mp{seed}", "mdprop", seed, terms=True, steps=4)) for seed in range(2)]
    file = tmp_path / "figures" / "curves.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # words as words
        assert run.main(["curves", *runs, "--metric", "recall@1", "loss/metric", "--figure", str(file)]) == 0
    printed = capsys.readouterr().out
    cells = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in printed.splitlines()
        if line.strip("│ ")[:2] == "ST"
    ]
    assert cells[0] == ["ST", "2", "86.50 ± 0.71", "6", "86.50 ± 0.71", "6"]
    assert cells[1] == ["ST", "2", "56.50 ± 0.71", "6", "56.50 ± 0.71", "6"]
    assert cells[2] == ["ST", "2", "0.667 ± 0.707", "6", "0.667 ± 0.707", "6"]
    drawn = file.read_text()
    for words in ("Recall@1, %", "training images", "test images", "training batches", "MP″ (1, 5)", "iterations"):
        assert words in drawn
    assert "validation" not in drawn


def test_what_the_tool_cannot_do_ends_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(write_run(tmp_path / "r", "standard", 0))
    for words, said in (
        (["curves"], "at least one run"),
        (["curves", str(tmp_path)], "a run that has begun"),
        (["curves", folder, "--metric", "recal"], "there are: loss, recall@1"),
        (["curves", folder, "--figure", str(tmp_path / "f.xyz")], "cannot write"),
    ):
        assert run.main(words) == 2
        error = capsys.readouterr().err
        assert said in error and "Traceback" not in error


def test_many_panels_are_drawn(tmp_path: Path) -> None:
    group = _group([_line("test", s, a=s, b=s, c=s, d=s, e=s) for s in range(100)])
    for count in (1, 4, 5):
        file = tmp_path / f"{count}.png"
        draw_curves([group], list("abcde")[:count], file)
        assert file.stat().st_size > 5_000
