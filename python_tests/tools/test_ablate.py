"""`run ablate`: every value with every seed, one command that goes on, and its table."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import torch

from robustdml_ext import run
from robustdml_ext.losses import TripletLoss
from robustdml_ext.methods import Standard
from robustdml_ext.recipes.commandline import Request
from robustdml_ext.tools import console
from robustdml_ext.tools.ablate import ablate_command
from robustdml_ext.training.checkpoint import load_checkpoint

QUICK = ("--loss", "triplet", "--iterations", "5", "--eval-attacks", "stax", "--eval-steps", "1")
QUICK += ("--attack-epsilons", "0.1", "--threads", "1", "--no-tensorboard", "--log-every", "1")


def _ablate(out: Path, *words: str, values: tuple[str, ...] = ("0", "0.2")) -> int:
    return run.main(["ablate", "standard", "--vary", "triplet-margin", "--values", *values, *words, "--out", str(out)])


def _results(out: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))}


def _rows(out: Path) -> dict[str, list[str]]:
    lines = [line for line in (out / "ablation.md").read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip().strip("*") for cell in line.split("|")[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in cells}


def test_every_value_is_run_with_every_seed_as_an_ordinary_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "a"
    figure = tmp_path / "a.png"
    assert _ablate(out, "--seeds", "0", "1", "--figure", str(figure), *QUICK) == 0
    captured = capsys.readouterr()
    assert "run 4 of 4: triplet-margin 0.2, seed 1" in captured.err and figure.stat().st_size > 5_000
    results = _results(out)
    names = [f"triplet-margin-{value}-seed{seed}" for value in ("0", "0.2") for seed in (0, 1)]
    assert list(results) == names
    words = ["standard", "--triplet-margin", "0.2", "--seed", "1", *QUICK, "--out", str(tmp_path / "one")]
    assert run.main(words) == 0
    one = json.loads((tmp_path / "one" / "result.json").read_text())
    assert [e["metrics"] for e in one["results"]] == [e["metrics"] for e in results[names[3]]["results"]]
    rows = _rows(out)
    assert list(rows) == ["triplet-margin", ":--", "0", "0.2"] and rows["0"][0] == "2"
    recalls = [100 * results[name]["results"][0]["metrics"]["recall@1"] for name in names[2:]]
    assert rows["0.2"][1] == f"{sum(recalls) / 2:.2f} ± {abs(recalls[0] - recalls[1]) / 2**0.5:.2f}"
    assert "R@1 %, STAX PGD-1, ε = 0.1" in rows["triplet-margin"]
    assert "Clean test images. Mean ± standard deviation over seeds" in captured.out
    # What a shell makes of FOLDER/* has the table among the runs.
    among = [str(path) for path in sorted(out.iterdir())]
    assert len(among) == 5 and run.main(["compare", *among]) == 0
    assert run.main(["curves", *among, "--metric", "loss"]) == 0
    assert "ST, triplet_margin 0.2" in capsys.readouterr().out


def test_the_effect_of_the_number_of_targets_is_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Figure 3 of MDProp: Recall@1, NMI and π_ratio against T, of one auxiliary norm and of two."""
    figure = tmp_path / "targets.svg"
    words = ["--vary", "targets", "--values", "1", "3", "1,5", "--iterations", "1", "--attack-epsilons", "0.1"]
    words += ["--eval-steps", "1", "--threads", "1", "--no-tensorboard", "--out", str(tmp_path / "a")]
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        assert run.main(["ablate", "mdprop", *words, "--figure", str(figure)]) == 0
    rows, results = _rows(tmp_path / "a"), _results(tmp_path / "a")
    assert list(rows)[2:] == ["1", "3", "1,5"]
    assert [results[f"targets-{value}-seed0"]["recipe"]["targets"] for value in ("1", "3", "1,5")] == [[1], [3], [1, 5]]
    headings = rows["targets"]
    assert {"R@1 %", "NMI %", "π_ratio", "R@1 %, MTAX PGD-1, T = 5, ε = 0.1"} <= set(headings)
    ratio = results["targets-3-seed0"]["results"][0]["metrics"]["pi_ratio"]
    assert rows["3"][headings.index("π_ratio")] == f"{ratio:.3f}"
    text = figure.read_text()
    assert all(word in text for word in ("Recall@1, %", "NMI, %", "π_ratio", "1,5", "targets"))
    assert "MTAX PGD-1" in capsys.readouterr().out


def test_the_same_command_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "a"
    assert _ablate(out, *QUICK, values=("0",)) == 0
    first = out / "triplet-margin-0-seed0" / "result.json"
    written = first.stat().st_mtime_ns
    assert _ablate(out, *QUICK, "--workers", "0", "--resume") == 0
    assert "triplet-margin 0, seed 0, finished before" in capsys.readouterr().err
    assert first.stat().st_mtime_ns == written and len(_results(out)) == 2
    # More steps, or another judgment, is not what is there: each run goes on from its checkpoint.
    assert _ablate(out, *QUICK, "--iterations", "8") == 0
    assert "finished before" not in capsys.readouterr().err
    assert {result["timing"]["steps"] for result in _results(out).values()} == {8}
    assert _ablate(out, *QUICK, "--iterations", "8", "--batch-size", "48") == 2
    assert "batch_size: the run has 60, asked for 48" in capsys.readouterr().err


def test_an_interrupted_run_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _ablate(tmp_path / "whole", *QUICK) == 0
    step, calls = Standard.training_step, [0]

    def asked(self: Standard, *arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 8:  # the third of the second run
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *arguments)

    monkeypatch.setattr(Standard, "training_step", asked)
    assert _ablate(tmp_path / "a", *QUICK) == 1
    assert "stopped after step 3" in capsys.readouterr().err and len(_results(tmp_path / "a")) == 1
    assert _ablate(tmp_path / "a", *QUICK) == 0
    assert calls[0] == 10
    assert _rows(tmp_path / "a") == _rows(tmp_path / "whole")


def test_a_value_that_diverges_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = TripletLoss.forward

    def diverging(self: TripletLoss, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return forward(self, embeddings, labels) * (float("nan") if self.margin == 0 else 1)

    monkeypatch.setattr(TripletLoss, "forward", diverging)
    assert _ablate(tmp_path / "a", *QUICK, "--figure", str(tmp_path / "f.svg")) == 1
    error = capsys.readouterr().err
    assert "the loss diverged with triplet-margin 0, seed 0" in error and "Traceback" not in error
    rows = _rows(tmp_path / "a")
    assert rows["0"][:2] == ["0", "–"] and rows["0.2"][0] == "1" and (tmp_path / "f.svg").exists()
    monkeypatch.undo()
    assert _ablate(tmp_path / "a", *QUICK) == 0
    assert _rows(tmp_path / "a")["0"][0] == "1"


def test_any_other_failure_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: TripletLoss, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the loss fell over")

    monkeypatch.setattr(TripletLoss, "forward", broken)
    assert _ablate(tmp_path / "a", *QUICK) == 1
    error = capsys.readouterr().err
    assert "the loss fell over" in error and "run 2" not in error


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fly", "--vary", "epochs", "--values", "1"], "method must be one of"),
        (["standard", "--vary", "triplet-margins", "--values", "1"], "did you mean triplet-margin"),
        (["standard", "--vary", "seed", "--values", "1"], "--seeds says which"),
        (["standard", "--vary", "out", "--values", "x"], "a folder of its own"),
        (["standard", "--vary", "method", "--values", "x"], "not an option"),
        (["standard", "--vary", "epochs", "--values", "1", "1"], "each given once"),
        (["standard", "--vary", "epochs", "--values"], "at least one"),
        (["standard", "--vary", "triplet-margin", "--values", "0.1", "0.10"], "0.1 and 0.10 are one value"),
        (["standard", "--vary", "epochs", "--values", "1", "--seeds", "0", "0"], "seeds must be"),
        (["standard", "--vary", "epochs", "--values", "1", "--seed", "0"], "--seeds says which"),
        (["standard", "--vary", "epochs", "--values", "1", "--epochs", "3"], "it is what is varied"),
        (["standard", "--vary", "epochs", "--values", "1", "--overwrite"], "finished runs are kept"),
        (["standard", "--vary", "triplet-margin", "--values", "1", "-2"], "triplet_margin must be greater"),
        (["standard", "--vary", "triplet-margin", "--values", "1", "a"], "could not convert"),
        (["standard", "--vary", "freeze-norm", "--values", "on", "maybe"], "a switch"),
        (["standard", "--vary", "epsilon", "--values", "0.1", "0.3"], "standard does not read --epsilon"),
        (["standard", "--vary", "epochs", "--values", "1", "--nosuch", "3"], "nosuch"),
        (["standard", "--values", "1"], "--vary"),
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
    assert run.main(["ablate", *words]) == 2
    error = capsys.readouterr().err
    assert expected in error and "Traceback" not in error and not list(tmp_path.iterdir())


class _Stop(Exception):
    """Ends an ablation at its first run."""


def _first(*words: str) -> Request:
    asked: list[Request] = []

    def train(request: Request) -> int:
        asked.append(request)
        raise _Stop

    with pytest.raises(_Stop):
        ablate_command(words, "run ablate", console(), train)
    return asked[0]


def test_values_of_switches_of_several_numbers_and_fractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    frozen = _first("standard", "--vary", "freeze_norm", "--values", "on", "off").recipe
    assert frozen.freeze_norm and frozen.out == "runs/ablate-digits-standard-multisimilarity-freeze-norm/" + (
        "freeze-norm-on-seed0"
    )
    assert not _first("standard", "--vary", "freeze-norm", "--values", "No").recipe.freeze_norm
    several = _first("mdprop", "--loss=npair", "--vary=--targets", "--values=1,3", "--seeds", "7")
    assert (several.recipe.targets, several.recipe.seed, several.resume) == ((1, 3), 7, True)
    assert several.recipe.out == "runs/ablate-digits-mdprop-npair-targets/targets-1,3-seed7"
    fraction = _first("at", "--vary", "epsilon", "--values", "8/255", "--out", "here").recipe
    assert fraction.epsilon == 8 / 255 and fraction.out == "here/epsilon-8_255-seed0"
    assert _first("standard", "--vary", "loss", "--values", "npair").recipe.out_folder.startswith(
        "runs/ablate-digits-standard-loss/"
    )


def test_what_is_finished_is_what_would_come_of_it_again(tmp_path: Path) -> None:
    assert _ablate(tmp_path, *QUICK, values=("0",)) == 0
    folder = tmp_path / "triplet-margin-0-seed0"
    assert load_checkpoint(folder / "last.pt")["step"] == 5
    words = ["standard", "--vary", "triplet-margin", "--values", "0", "--out", str(tmp_path), *QUICK]
    assert ablate_command([*words, "--log-every", "3"], "run ablate", console(), lambda request: 1 / 0) == 0  # type: ignore[arg-type, return-value]
    assert _first(*words, "--recall-at", "1", "2").recipe.recall_at == (1, 2)
