"""`run table`: a set of recipes with several seeds, planned, run, resumed, and put into the paper's table."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from robustdml_ext import run
from robustdml_ext.losses import MultiSimilarityLoss
from robustdml_ext.methods import Standard
from robustdml_ext.recipes import read_recipe_file
from robustdml_ext.tools.sole_user import sole_user
from robustdml_ext.tools.table_plan import plan_table
from robustdml_ext.training import RunRefusedError

TINY = (
    "--dataset", "digits", "--arch", "small", "--weights", "none", "--image-size", "8", "--channels", "1",
    "--embedding-dim", "8", "--batch-size", "60", "--samples-per-class", "12", "--iterations", "3", "--eval-steps", "1",
    "--eval-attacks", "stax", "--threads", "1", "--device", "cpu", "--no-tensorboard",
)  # fmt: skip
ROWS = ("mdprop/table3-sop-standard", "mdprop/table3-sop-advprop")
FOLDERS = [f"{name.replace('/', '-')}-seed{seed}" for name in ROWS for seed in (0, 1)]


def _table(out: Path, *words: str, recipes: tuple[str, ...] = ROWS) -> int:
    return run.main(["table", *recipes, "--out", str(out), *words])


def _results(out: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))}


def _rows(out: Path) -> dict[str, list[str]]:
    lines = [line for line in (out / "table.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_recipe_is_run_with_every_seed_and_the_table_has_the_published_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "t"
    assert _table(out, "--seeds", "2", *TINY) == 0
    captured = capsys.readouterr()
    assert "table: run 4 of 4: mdprop/table3-sop-advprop, seed 1" in captured.err
    results = _results(out)
    assert sorted(results) == sorted(FOLDERS)
    assert [results[name]["recipe"]["seed"] for name in FOLDERS] == [0, 1, 0, 1]
    assert {result["recipe"]["method"] for result in results.values()} == {"standard", "advprop"}
    recalls = [100 * results[name]["results"][0]["metrics"]["recall@1"] for name in FOLDERS[:2]]
    ours = f"{sum(recalls) / 2:.2f} ± {abs(recalls[0] - recalls[1]) / 2**0.5:.2f}"
    published = read_recipe_file(ROWS[0]).published
    assert published is not None and published.clean["recall@1"] == 78.09
    cell = _rows(out)["ST"][1]
    assert cell.startswith(ours) and cell.endswith("(78.09)") and _rows(out)["ST"][0] == "2 of 2"
    text = (out / "table.md").read_text()
    assert "Ours differ from the recipes in --dataset digits, " in text and "--iterations 3" in text
    assert "--threads" not in text and str(tmp_path) not in text
    assert ours in captured.out and "STAX PGD-1, ε = 0.01" in captured.out
    # Again: nothing is left to do, and the table is shown at once.
    written = {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")}
    assert _table(out, "--seeds", "2", *TINY, "--workers", "0") == 0
    assert "seed 1, finished before" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.glob("*/result.json")} == written
    # What a shell makes of FOLDER/* has the table among the runs.
    assert run.main(["compare", *map(str, sorted(out.glob("[!.]*"))), "--markdown"]) == 0


def test_an_interrupted_table_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    step, calls = Standard.training_step, [0]

    def asked(self: Standard, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5:  # the second of the second run
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    monkeypatch.setattr(Standard, "training_step", asked)
    recipes = ROWS[:1]
    assert _table(tmp_path, "--seeds", "2", *TINY, recipes=recipes) == 1
    assert "stopped after step 2" in capsys.readouterr().err and len(_results(tmp_path)) == 1
    assert _rows(tmp_path)["ST" if "ST" in _rows(tmp_path) else read_recipe_file(ROWS[0]).title][0] == "1 of 2"
    assert _table(tmp_path, "--seeds", "2", *TINY, recipes=recipes) == 0
    assert calls[0] == 6 and len(_results(tmp_path)) == 2


def test_a_run_that_fails_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward, calls = MultiSimilarityLoss.forward, [0]

    def failing(self: MultiSimilarityLoss, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == 1:
            raise RuntimeError("the loss fell over")
        return forward(self, embeddings, labels)

    monkeypatch.setattr(MultiSimilarityLoss, "forward", failing)
    assert _table(tmp_path, "--seeds", "2", *TINY) == 1
    captured = capsys.readouterr()
    assert "the loss fell over" in captured.err and "Traceback" not in captured.err
    assert captured.err.splitlines()[-1] == f"table: failed: {ROWS[0]}, seed 0"
    assert sorted(_results(tmp_path)) == sorted(FOLDERS[1:])
    assert _rows(tmp_path)["ST (failed: seed 0)"][0] == "1 of 2" and "failed: seed 0" in captured.out
    assert _table(tmp_path, "--seeds", "2", *TINY) == 0 and _rows(tmp_path)["ST"][0] == "2 of 2"


def test_a_dry_run_says_what_is_finished_and_runs_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _table(tmp_path, *TINY, recipes=ROWS[:1]) == 0
    begun = tmp_path / FOLDERS[3]
    begun.mkdir()
    (begun / "last.pt").touch()
    capsys.readouterr()
    before = sorted(tmp_path.rglob("*"))
    assert _table(tmp_path, "--seeds", "2", "--dry-run", *TINY) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[-1]: line.split("  ")[0] for line in lines[:-1]}
    expected = ["finished", "to run", "to run", "begun"]
    assert states == {str(tmp_path / name): state for name, state in zip(FOLDERS, expected, strict=True)}
    assert lines[-1] == "4 runs: 1 finished, 2 to run, 1 begun" and sorted(tmp_path.rglob("*")) == before


def test_missing_data_are_said_before_anything_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = tmp_path / "mine.yaml"
    options = {"dataset": "digits", "iterations": 1, "threads": 1, "eval_attacks": [], "tensorboard": False}
    own.write_text(json.dumps({"title": "Mine", "recipe": {"method": "standard", **options}}))
    out = tmp_path / "t"
    both = ("eat/table3*", str(own))
    assert _table(out, recipes=both) == 2
    error = capsys.readouterr().err
    assert "3 of 4 recipes need data that are missing: cub200-2010: no --root given" in error
    assert "--skip-missing" in error and "eat/table3-cub200-2010-mobilenetv2-ensemble" in error and not out.exists()
    assert _table(out, "--dry-run", recipes=both) == 0
    assert "4 runs: 1 to run, 3 data missing" in capsys.readouterr().out
    assert _table(out, "--skip-missing", recipes=both) == 0
    assert list(_results(out)) == ["mine-seed0"]
    rows = _rows(out)
    assert rows["Mine"][0] == "1 of 1" and any("left out: its data are missing" in name for name in rows)
    assert _table(out, "--skip-missing", recipes=both[:1]) == 2


def test_data_that_are_not_under_root_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _table(tmp_path / "t", "--root", str(tmp_path / "nowhere"), recipes=("mdprop/table3*",)) == 2
    assert "sop: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "at least one recipe"),
        (["mdprp/table1*"], "did you mean mdprop/table1"),
        ([*ROWS, "--seeds", "0"], "seeds must be at least 1"),
        ([*ROWS, "--seeds-from", "-1"], "seeds_from not negative"),
        ([*ROWS, "--jobs", "0"], "jobs must be at least 1"),
        ([*ROWS, "--seed", "3"], "--seeds says how many"),
        ([*ROWS, "--recipe", "x"], "the patterns say which"),
        ([*ROWS, "--overwrite"], "finished runs are kept"),
        ([*ROWS, "--epochs", "-3"], "mdprop/table3-sop-standard: epochs"),
        ([*ROWS, "--epsilon", "0.3"], "standard does not read --epsilon"),
        ([*ROWS, "--nosuch", "3"], "nosuch"),
        ([*ROWS, "--seeds", "many"], "seeds"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2_before_anything_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["table", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error and not list(tmp_path.iterdir())


def test_it_is_not_for_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run.main(["table", *ROWS]) == 2
    assert "not for torchrun" in capsys.readouterr().err


def test_rows_stand_as_papers_print_them_in_folders_of_their_own(tmp_path: Path) -> None:
    rows, root = plan_table(["recipes/mdprop/table1-cub200-m*.yaml"], range(3, 5), None, [], "run")
    kinds = [row.name.rpartition("multisimilarity-")[2] for row in rows]
    assert kinds == ["standard", "adversarial", "advprop", "mdprop-3", "mdprop-1-5"]
    assert root == Path("runs/table-mdprop-table1-cub200-m")
    first = rows[0].runs
    assert [run.request.recipe.seed for run in first] == [3, 4]
    assert first[1].folder == root / "mdprop-table1-cub200-multisimilarity-standard-seed4"
    assert first[1].words[:3] == ("standard", "--recipe", rows[0].name) and first[1].request.resume
    rows, _ = plan_table(["ecaml/table3*"], [0], "here", ["--root", "x"], "run")
    assert [row.name.rpartition("cars196-")[2] for row in rows] == [
        "triplet", "ecaml-triplet", "npair", "ecaml-npair", "binomial", "ecaml-binomial", "angular",
    ]  # fmt: skip
    assert rows[0].runs[0].request.recipe.root == "x" and rows[0].runs[0].folder.parent == Path("here")


def test_two_files_of_one_name_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "mine.yaml").write_text("recipe: {method: standard}\n")
    assert _table(tmp_path / "t", recipes=(f"{tmp_path}/*/mine.yaml",)) == 2
    assert "names of their own" in capsys.readouterr().err


def test_a_folder_is_for_one_command_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with sole_user(tmp_path / "t"):
        assert _table(tmp_path / "t", *TINY) == 2
        assert "at work in" in capsys.readouterr().err
        with pytest.raises(RunRefusedError, match="at work"), sole_user(tmp_path / "t"):
            pass
    assert not _results(tmp_path / "t")
    (tmp_path / "file").touch()
    with pytest.raises(RunRefusedError, match="cannot write"), sole_user(tmp_path / "file" / "t"):
        pass
