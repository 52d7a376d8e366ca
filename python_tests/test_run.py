"""A whole small run by the command line: what it writes, that it can be repeated, resumed, compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from commands import QUICK, run_apart, said

from robustdml_ext import run
from robustdml_ext.recipes.commandline import parse_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MDProp; its result is `finished / "result.json"`."""
    folder = tmp_path_factory.mktemp("runs") / "mdprop"
    done = run_apart("mdprop", "--out", str(folder), *QUICK, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    assert "STAX PGD-1, ε = 0.1" in done.stdout and "MTAX" in done.stdout and "clean" in done.stdout
    return folder


def test_a_run_writes_everything_it_promises(finished: Path) -> None:
    assert {path.name for path in finished.iterdir()} == {
        "recipe.yaml", "last.pt", "best.pt", "metrics.jsonl", "tensorboard", "result.json", "backbone.pt",
    }  # fmt: skip
    result = json.loads((finished / "result.json").read_text())
    assert [entry["threat"] and entry["threat"]["name"] for entry in result["results"]] == [
        None,
        "stax",
        "mtax",
    ]
    for entry in result["results"]:
        assert {"recall@1", "recall@4", "nmi", "f1", "pi_ratio"} <= set(entry["metrics"])
        assert 0 < entry["metrics"]["recall@1"] <= 1 and entry["seconds"] > 0
    stax = result["results"][1]["threat"]
    assert stax["epsilon"] == 0.1 and stax["steps"] == 1 and stax["targets"] == 1
    assert {"step_size", "norm", "random_start", "restarts", "space", "norm_mode", "attacked"} <= set(stax)
    assert stax["precision"] == "float32" and stax["keep_best"] is False
    assert result["recipe"]["method"] == "mdprop" and result["recipe"]["targets"] == [1, 5]
    assert result["weights"] == {"chosen": "last", "selected_on": None, "best": None}
    assert result["environment"]["versions"]["torch"] == torch.__version__
    assert set(result["environment"]["kernels"]) == {"cpu", "cuda"}
    assert result["timing"]["steps_per_second"] > 0
    stages = {"data", "attack", "forward", "backward", "update", "other", "evaluation", "checkpoint"}
    assert set(result["timing"]["seconds"]) == stages


def test_the_backbone_is_plain(finished: Path) -> None:
    state = torch.load(finished / "backbone.pt", weights_only=True)
    norms = [name for name in state if name.endswith("running_mean")]
    assert norms and all(state[name].dim() == 1 for name in norms)
    last = torch.load(finished / "last.pt", weights_only=True)["method"]
    assert any(name.endswith("running_mean") and value.shape[0] == 3 for name, value in last.items())


def test_the_saved_recipe_makes_the_same_run(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    assert run.main(["mdprop", "--recipe", str(finished / "recipe.yaml"), "--out", str(again)]) == 0
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (finished, again))
    assert [e["metrics"] for e in first["results"]] == [e["metrics"] for e in second["results"]]


def test_resuming_a_finished_run_judges_it_again(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = json.loads((finished / "result.json").read_text())
    words = ["mdprop", "--out", str(finished), "--resume", *QUICK, "--attack-epsilons", "0.1", "0.2"]
    assert run.main(words) == 0
    after = json.loads((finished / "result.json").read_text())
    assert len(after["results"]) == 5
    assert after["results"][0]["metrics"] == before["results"][0]["metrics"]
    assert after["timing"]["steps"] == before["timing"]["steps"]
    (finished / "result.json").write_text(json.dumps(before))
    assert not said(capsys)


def test_compare_prints_and_draws(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["compare", str(finished), "--figure", str(tmp_path / "f.png"), "--markdown"]) == 0
    assert "| clean | MP″ (1, 5) | 1 |" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 1000
    assert run.main(["compare", str(finished)]) == 0
    assert "MP″ (1, 5)" in capsys.readouterr().out
    assert run.main(["compare", str(tmp_path)]) == 2
    assert "no result at" in said(capsys)


def test_a_standing_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["mdprop", "--out", str(finished), *QUICK]) == 2
    message = said(capsys)
    assert "--resume" in message and "--overwrite" in message and len(message.splitlines()) == 1


def test_resume_with_another_recipe_names_what_differs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["mdprop", "--out", str(finished), "--resume", "--epsilon", "0.3", *QUICK]) == 2
    assert "epsilon: the run has" in said(capsys)
    assert run.main(["mdprop", "--out", str(finished), "--resume", "--overwrite", *QUICK]) == 2
    assert "one of them" in said(capsys)


def test_the_options_of_the_evaluation_reach_the_threat_model() -> None:
    from robustdml_ext.training.result import threat_models

    words = ["--eval-step-size", "0.02", "--eval-random-start", "0.05", "--eval-restarts", "2", "--eval-keep-best"]
    request = parse_run("mdprop", "", [*words, "--eval-norm", "l2"], "run")
    for threat in threat_models(request.recipe):
        assert (threat.step_size, threat.random_start, threat.restarts) == (0.02, 0.05, 2)
        assert threat.keep_best and threat.norm == "l2" and threat.precision == "float32"
    usual = threat_models(parse_run("mdprop", "", [], "run").recipe)[0]
    assert usual.step_size == pytest.approx(usual.epsilon / 20) and usual.norm == "linf" and not usual.keep_best
