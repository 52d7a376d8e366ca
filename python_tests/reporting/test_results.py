"""Reading and grouping results, tables and the figure."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from robustdml_ext.recipes import NEUTRAL_FIELDS, Recipe, make_recipe
from robustdml_ext.reporting import (
    ReportError,
    comparison_markdown,
    comparison_table,
    draw_comparison,
    group_results,
    method_label,
    read_result,
    result_table,
)
from robustdml_ext.reporting.labels import entry_label, inputs_label
from robustdml_ext.reporting.results import SEED_AND_PLACE, mean_and_deviation
from robustdml_ext.reporting.tables import shown_entries


def _threat(name: str, epsilon: float) -> dict[str, Any]:
    return {"name": name, "epsilon": epsilon, "steps": 20, "targets": 1 if name == "stax" else 5}


def make_result(recall: float = 0.5, **fields: Any) -> dict[str, Any]:
    entries: list[tuple[dict[str, Any] | None, float]] = [(None, recall)]
    entries += [(_threat(name, e), recall - 2 * e) for name in ("stax", "mtax") for e in (0.05, 0.1)]
    results = [
        {
            "threat": threat,
            "metrics": {"recall@1": value, "recall@4": 0.9, "nmi": 0.6, "pi_ratio": 1.0 - value / 2},
        }
        for threat, value in entries
    ]
    return {"recipe": make_recipe(fields).model_dump(mode="json"), "results": results}


def test_what_is_ignored_in_grouping_are_options_of_the_recipe() -> None:
    assert set(Recipe.model_fields) >= SEED_AND_PLACE
    # Longer training, and members that answer otherwise, are another method's figure, though a run may be resumed
    # with more of the one and judged again by the other. Noise may have moved to another folder when a run goes on, but
    # with a folder and without are two ways of training.
    kept_apart = {"epochs", "iterations", "inference", "musan", "rirs"}
    assert SEED_AND_PLACE - {"seed"} == NEUTRAL_FIELDS - kept_apart


def test_deviation_is_that_of_a_sample() -> None:
    assert mean_and_deviation([1.0, 3.0]) == (2.0, pytest.approx(2**0.5))
    assert mean_and_deviation([1.0]) == (1.0, None)


def test_seeds_are_averaged_and_other_recipes_kept_apart() -> None:
    results = [
        make_result(0.5, seed=0),
        make_result(0.7, seed=1, out="b", workers=2),
        make_result(0.6, epsilon=0.5),
    ]
    groups = group_results(results)
    assert [group.seeds for group in groups] == [[0, 1], [0]]
    assert groups[0].rows["clean"]["recall@1"] == [0.5, 0.7]
    assert [group.label for group in groups] == ["MP″ (1, 5), epsilon 0.01", "MP″ (1, 5), epsilon 0.5"]
    text = comparison_markdown(groups)
    assert "| 60.00 ± 14.14 |" in text
    assert "STAX PGD-20, ε = 0.1" in text and "MTAX PGD-20, T = 5, ε = 0.05" in text
    lines = text.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    out = io.StringIO()
    Console(file=out, width=140).print(comparison_table(groups))
    assert "60.00 ± 14.14" in out.getvalue()


def test_the_same_run_twice_is_refused() -> None:
    with pytest.raises(ReportError, match="seed 0"):
        group_results([make_result(), make_result()])


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"method": "standard", "targets": []}, "ST"),
        ({"method": "adversarial", "targets": [1]}, "AT"),
        ({"method": "advprop", "targets": [1]}, "AP′"),
        ({"targets": [3]}, "MP′ (3)"),
        ({"targets": [1, 3, 5]}, "MP‴ (1, 3, 5)"),
        ({"targets": [1, 2, 3, 4]}, "MP^4 (1, 2, 3, 4)"),
    ],
)
def test_labels_are_the_papers(fields: dict[str, Any], label: str) -> None:
    assert method_label(make_recipe(fields).model_dump(mode="json")) == label


def test_results_are_read_from_file_and_folder(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(make_result()))
    assert read_result(tmp_path) == read_result(tmp_path / "result.json") == make_result()


@pytest.mark.parametrize(("text", "word"), [("{", "is not a result"), ("[]", "lacks"), (None, "has ended")])
def test_a_missing_or_foreign_result_is_named(tmp_path: Path, text: str | None, word: str) -> None:
    if text is not None:
        (tmp_path / "result.json").write_text(text)
    with pytest.raises(ReportError, match=word) as caught:
        read_result(tmp_path)
    assert "result.json" in str(caught.value)


def test_the_table_of_a_run_shows_published_figures_beside() -> None:
    result = make_result(0.5)
    result["published"] = {"clean": {"recall@1": 77.77}, "adversarial": {"recall@1": 33.33}}
    out = io.StringIO()
    Console(file=out, width=140).print(result_table(result))
    for word in ("clean", "STAX PGD-20, ε = 0.1", "50.00", "77.77", "33.33"):
        assert word in out.getvalue()
    assert "optimistic" not in out.getvalue()
    Console(file=out, width=140).print(result_table({**result, "weights": {"selected_on": "test"}}))
    assert "optimistic" in out.getvalue()


def test_an_unusual_attack_is_labelled() -> None:
    usual = {**_threat("stax", 0.1), "step_size": 0.005, "norm": "linf", "restarts": 1, "precision": "float32"}
    assert inputs_label(usual) == "STAX PGD-20, ε = 0.1"
    unusual = {**usual, "step_size": 0.01, "norm": "l2", "random_start": 0.1, "restarts": 3, "keep_best": True}
    assert inputs_label(unusual) == "STAX PGD-20, ε = 0.1, l2, step 0.01, start 0.1, 3 restarts, best iterate"


def test_figures_that_are_undefined_are_no_trouble(tmp_path: Path) -> None:
    """JSON has no NaN: a figure without a value is None there."""
    result = make_result()
    for entry in result["results"]:
        entry["metrics"]["pi_ratio"] = None
    out = io.StringIO()
    Console(file=out, width=140).print(result_table(result), comparison_table(group_results([result])))
    assert out.getvalue().count("–") >= 10
    draw_comparison(group_results([result]), tmp_path / "figure.png")


def _corrupted(name: str, severity: int | None, recall: float | None) -> dict[str, Any]:
    corruption = {"name": name, "severity": severity}
    return {"corruption": corruption, "threat": None, "metrics": {"recall@1": recall}, "relative": {"recall@1": 0.5}}


def test_severities_share_a_row_on_the_screen() -> None:
    entries = [_corrupted("mean", None, 0.4), *(_corrupted("jpeg", n, n / 10) for n in range(1, 6))]
    entries += [_corrupted("contrast", 1, None), _corrupted("contrast", 2, 0.5)]
    shown = shown_entries(entries)
    assert [entry_label(entry) for entry in shown] == ["corrupted: mean", "corrupted: jpeg", "corrupted: contrast"]
    assert shown[1]["metrics"]["recall@1"] == pytest.approx(0.3) and shown[2]["metrics"] == {}


@pytest.mark.parametrize(
    ("changes", "label"),
    [
        ({}, "out APGD-20, ε = 0.1"),
        ({"norm": "l2"}, "out APGD-20, ε = 0.1, l2"),
        ({"k": 4}, "out APGD-20, ε = 0.1, k = 4"),
        ({"restarts": 3}, "out APGD-20, ε = 0.1, 3 restarts"),
        ({"name": "square", "algorithm": "square", "queries": 50}, "square, 50 queries, ε = 0.1"),
        ({"name": "worst", "attacks": ["out", "stax"]}, "worst of 2 attacks, ε = 0.1"),
        ({"algorithm": "pgd", "momentum": 0.9}, "out PGD-20, ε = 0.1, momentum 0.9"),
    ],
)
def test_attacks_of_the_suite_are_told_apart(changes: dict[str, Any], label: str) -> None:
    threat = {"name": "out", "algorithm": "adaptive", "epsilon": 0.1, "steps": 20, "norm": "linf", **changes}
    assert inputs_label(threat) == label


def _evaluation(seed: int, score: float, images: int = 100, warnings: tuple[str, ...] = ()) -> dict[str, Any]:
    result = make_result(seed=seed)
    return {
        "recipe": result["recipe"], "entries": result["results"], "score": score, "warnings": list(warnings),
        "protocol": {"suite": "s", "seed": seed, "fingerprint": f"f{seed}"}, "data": {"images": images},
    }  # fmt: skip


def test_evaluations_of_one_protocol_are_put_together_and_others_are_not() -> None:
    groups = group_results([_evaluation(0, 0.5), _evaluation(1, 0.7), _evaluation(0, 0.9, images=50)])
    assert [(group.seeds, group.scores) for group in groups] == [([0, 1], [0.5, 0.7]), ([0], [0.9])]
    assert "images 100" in groups[0].label and "images 50" in groups[1].label
    out = io.StringIO()
    Console(file=out, width=200).print(comparison_table(groups))
    assert "which do not compare" in out.getvalue() and "0.600 ± 0.141" in out.getvalue()
    with pytest.raises(ReportError, match="one recipe and the same images"):
        group_results([_evaluation(0, 0.5), _evaluation(0, 0.6)])


def test_a_score_whose_attacks_failed_is_marked() -> None:
    out = io.StringIO()
    Console(file=out, width=200).print(comparison_table(group_results([_evaluation(0, 0.5, warnings=("masked",))])))
    assert "doubtful" in out.getvalue() and "which do not compare" not in out.getvalue()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"results": []}, "must be a list that holds at least"),
        ({"results": {"threat": None}}, "must be a list that holds at least"),
        ({"results": [{"metrics": {}}]}, "entry 0 must have `threat` and `metrics`"),
        ({"results": [{"threat": None, "metrics": {"nmi": "0.5"}}]}, "`metrics` of entry 0 must be numbers or null"),
        ({"results": [{"threat": {"name": "stax"}, "metrics": {}}]}, "`threat` of entry 0 must be null or have"),
        ({"timing": {"seconds": {"data": None}}}, "`timing.seconds` must be numbers"),
        ({"environment": "x"}, "`environment` must be an object"),
        ({"published": {"clean": {}}}, "`published` must be null or have"),
        ({"published": {"source": "a", "clean": {"nmi": "1"}}}, "figures of `published` must be numbers"),
    ],
)
def test_a_result_that_another_hand_changed_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    file = tmp_path / "result.json"
    file.write_text(json.dumps({**make_result(), **changes}))
    with pytest.raises(ReportError, match=message) as raised:
        read_result(tmp_path)
    assert str(file) in str(raised.value)
    # What the data leave undefined is null.
    undefined = make_result()
    undefined["results"][0]["metrics"]["nmi"] = None
    file.write_text(json.dumps(undefined))
    assert read_result(file)["results"][0]["metrics"]["nmi"] is None
