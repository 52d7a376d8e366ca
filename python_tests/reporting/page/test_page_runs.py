"""What a page reads of runs, and how it puts them together."""

from __future__ import annotations

from pathlib import Path

import pytest
from page_runs import page_of, result_of, write_result, write_run

from python_tests.reporting.made_up import away
from robustdml_ext.evaluation.score import area_under_curve
from robustdml_ext.reporting import ReportError
from robustdml_ext.reporting.page import group_runs, read_run, score_runs

pytestmark = pytest.mark.usefixtures("undrawn")


def test_runs_that_differ_in_the_seed_alone_are_one_group(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{m}-{s}", m, s) for m in ("pal", "at") for s in (0, 1)]
    runs = [read_run(folder) for folder in folders]
    score_runs(runs, area_under_curve)
    groups = group_runs(runs)
    assert [(group.label, group.results.seeds) for group in groups] == [("PAL + AT", [0, 1]), ("PAL", [0, 1])]
    assert [group.curves.seeds for group in groups] == [[0, 1], [0, 1]]


def test_the_highest_score_is_first_and_runs_without_one_are_last(tmp_path: Path) -> None:
    plain = write_run(tmp_path / "iat", "iat")
    write_result(plain, {**result_of(plain), "results": result_of(plain)["results"][:1]})
    folders = [plain, *(write_run(tmp_path / m, m) for m in ("pal", "trades", "at", "eat"))]
    runs = [read_run(folder) for folder in folders]
    scoring = score_runs(runs, area_under_curve)
    groups = group_runs(runs)
    assert [group.recipe["method"] for group in groups] == ["eat", "at", "trades", "pal", "iat"]
    assert scoring.comparable and groups[-1].score is None
    text = page_of(*folders)
    places = [text.index(f"</span> {name}</th>") for name in ("PAL + EAT", "PAL + AT", "PAL + TRADES", "PAL")]
    assert places == sorted(places)


def test_the_score_is_the_area_under_the_worst_attack(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    clean = {"recall@1": 0.9}
    found = [
        (None, 0.9), (away(0.1), 0.6), (away(0.1, 20), 0.5), (away(0.2), 0.7), (away(0.4), 0.2),
        ({**away(0.4), "name": "worst", "attacks": []}, 0.01),
    ]  # fmt: skip
    entries = [{"threat": threat, "metrics": {**clean, "recall@1": recall}} for threat, recall in found]
    write_result(folder, {**result_of(folder), "results": entries})
    run = read_run(folder)
    scoring = score_runs([run], area_under_curve)
    # 0.9 at 0, 0.5 at 0.1, no more than that at 0.2, 0.2 at 0.4; over 0.4. The row "worst" is of other attacks' rows.
    assert run.score == pytest.approx((0.1 * 0.7 + 0.1 * 0.5 + 0.2 * 0.35) / 0.4)
    assert len(scoring.attacks) == 4


def test_scores_are_of_the_attacks_that_all_runs_have(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "at"), write_run(tmp_path / "pal", "pal")
    harder = result_of(one)
    harder["results"].append({"threat": away(0.5), "metrics": {"recall@1": 0.0}})
    write_result(one, harder)
    runs = [read_run(one), read_run(other)]
    alone = read_run(one)
    score_runs([alone], area_under_curve)
    scoring = score_runs(runs, area_under_curve)
    assert scoring.comparable and "ε = 0.5" not in " ".join(scoring.attacks)
    assert runs[0].score > alone.score  # type: ignore[operator]
    write_result(one, {**harder, "results": [harder["results"][0], harder["results"][-1]]})
    runs = [read_run(one), read_run(other)]
    assert not score_runs(runs, area_under_curve).comparable
    assert "do not compare" in page_of(one, other)


def test_the_score_of_one_evaluation_of_all_comes_first(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / m, m) for m in ("pal", "at")]
    for folder, score in zip(folders, (0.7, 0.2), strict=True):
        (folder / "evaluation-digits-test").mkdir()
        entries = [
            {**entry, "attack": "away", "corruption": None, "relative": {}, "clean": {}, "perturbation": None}
            for entry in result_of(folder)["results"]
        ]
        write_result(
            folder / "evaluation-digits-test",
            {"recipe": result_of(folder)["recipe"], "entries": entries, "score": score, "warnings": ["<b>odd</b>"],
             "protocol": {"seed": 0, "fingerprint": "x"}, "data": {"dataset": "digits", "split": "test", "images": 9},
             "score_definition": "The mean of something."},
        )  # fmt: skip
    runs = [read_run(folder) for folder in folders]
    scoring = score_runs(runs, area_under_curve)
    assert [run.score for run in runs] == [0.7, 0.2] and "The mean of something." in scoring.meaning
    assert [group.label for group in group_runs(runs)] == ["PAL", "PAL + AT"]
    text = page_of(*folders)
    assert 'id="evaluations"' in text and "&lt;b&gt;odd" in text and "<b>odd" not in text
    # By one run's evaluation alone they cannot be ranked.
    (folders[0] / "evaluation-digits-test" / "result.json").unlink()
    score_runs(again := [read_run(folder) for folder in folders], area_under_curve)
    assert again[0].score != 0.7 and again[1].score != 0.2


def test_a_run_that_goes_on_has_a_page_of_its_curves(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at", ended=False)
    (folder / "failure.txt").write_text("Traceback\nRuntimeError: <i>no memory</i>\n\n")
    run = read_run(folder)
    assert run.result is None and run.failure == "RuntimeError: <i>no memory</i>"
    text = page_of(folder)
    assert 'id="training"' in text and 'id="results"' not in text and 'id="time"' not in text
    assert "40 steps so far" in text and "&lt;i&gt;no memory" in text
    beside = page_of(folder, write_run(tmp_path / "pal", "pal"))
    assert 'id="results"' in beside and "PAL + AT has not ended" in beside


def test_where_there_is_nothing_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"nothing of a run at .*: expected a folder with result\.json"):
        read_run(tmp_path / "none")
    folder = write_run(tmp_path / "at", ended=False)
    (folder / "metrics.jsonl").write_text("")
    with pytest.raises(ReportError, match="has logged no step"):
        read_run(folder)
    (folder / "result.json").write_text("{")
    with pytest.raises(ReportError, match="is not a result"):
        read_run(folder)
    write_result(folder, {"recipe": {"seed": 0}, "results": [{"threat": None, "metrics": {}}]})
    with pytest.raises(ReportError, match="holds no run of ours"):
        read_run(folder)


def test_a_run_counts_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    with pytest.raises(ReportError, match="are one run; name it once"):
        group_runs([read_run(folder), read_run(folder / "result.json")])
    copy = write_run(tmp_path / "copy")
    with pytest.raises(ReportError, match="seed 0"):
        group_runs([read_run(folder), read_run(copy)])
