"""Ensembles through the whole run: judged, saved, loaded again, and resumed bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import said
from training.tiny import ALONE, same

from robustdml_ext import run
from robustdml_ext.assemble import assemble
from robustdml_ext.methods import EAT, Batch, Context, StepOutput
from robustdml_ext.models import SmallNet
from robustdml_ext.recipes import resolve
from robustdml_ext.tools.models import find_model
from robustdml_ext.training import Job
from robustdml_ext.training.checkpoint import load_checkpoint

SHORT: dict[str, Any] = {"epochs": 2, "embedding_dim": 16, "attack_steps": 2, "tensorboard": False, "save_every": 10}


def job(**fields: Any) -> Job:
    recipe = resolve("eat", {**SHORT, **fields})
    parts = assemble(recipe)
    return Job(recipe, parts.splits, parts.method, ALONE)


def test_a_resumed_run_equals_an_undisturbed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("whole", "broken"):
        (tmp_path / name).mkdir()
    job().train(tmp_path / "whole")
    calls = 0
    step = EAT.training_step

    def dying(self: EAT, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        nonlocal calls
        calls += 1
        if calls == 17:
            raise KeyboardInterrupt
        return step(self, batch, generator, context)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EAT, "training_step", dying)
        job().train(tmp_path / "broken")
    job().train(tmp_path / "broken", go_on=True)
    whole, broken = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "broken"))
    assert whole["step"] == broken["step"] == 30
    for part in ("method", "optimizer", "random"):
        assert same(whole[part], broken[part]), part


def test_another_split_of_the_data_is_another_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    job().train(tmp_path / "run")
    words = ["eat", "--out", str(tmp_path / "run"), "--resume", "--no-tensorboard", "--epochs", "2", "--embedding-dim"]
    assert run.main([*words, "16", "--attack-steps", "2", "--no-split"]) == 2


@pytest.mark.parametrize("method", ["eat", "ensemble"])
def test_the_command_line(method: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    words = ["--epochs", "1", "--attack-steps", "1", "--eval-steps", "2", "--attack-epsilons", "0.1", "--threads", "1"]
    words += ["--eval-sweep-steps", "1", "--judge-members", "--members", "2", "--no-tensorboard", "--out", str(out)]
    assert run.main([method, *words]) == 0
    shown = capsys.readouterr().out
    assert "member 1 of 2" in shown and "PGD-2 away from clean" in shown and "PGD-1 away from clean" in shown
    result = json.loads((out / "result.json").read_text())
    assert len(result["results"]) == 3 and [len(entries) for entries in result["members"]] == [3, 3]
    backbone = result["backbone"]
    assert backbone["files"] == ["backbone-1.pt", "backbone-2.pt"] and backbone["inference"] == "vote"

    # Each member's file is a plain network's, and the checkpoint is the ensemble that was judged.
    model = find_model(str(out)).build(1)
    images = torch.rand(3, 1, 8, 8)
    for number, file in enumerate(backbone["files"]):
        plain = SmallNet(1, num_classes=64).eval()
        plain.load_state_dict(torch.load(out / file, weights_only=True))
        with torch.no_grad():
            expected = torch.nn.functional.normalize(plain(images), dim=1)
            torch.testing.assert_close(model.members[number](images), expected, rtol=1e-4, atol=1e-5)
    assert run.main(["evaluate", str(out), "--attacks", "none", "--metrics", "recall", "--threads", "1"]) == 0
    judged = json.loads((out / "evaluation-digits-test" / "result.json").read_text())
    clean = judged["entries"][0]["metrics"]
    assert clean["recall@1"] == pytest.approx(result["results"][0]["metrics"]["recall@1"], abs=1e-9)
    average = ["--inference", "average", "--overwrite"]
    assert run.main(["evaluate", str(out), "--attacks", "none", "--metrics", "recall", *average]) == 0
    assert run.main([method, "--out", str(out), "--overwrite", "--epochs", "0", *words[2:-2]]) == 0
    assert {path.name for path in out.glob("backbone*")} == {"backbone-1.pt", "backbone-2.pt"}
    capsys.readouterr()


def test_more_processes_than_members_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustdml_ext.methods import eat

    with pytest.raises(ValueError, match="at most 2 processes, got 3"):
        eat.own_members(2, Context(3, 1))
    assert run.main(["eat", "--members", "1", "--out", str(tmp_path / "r")]) == 2
    assert "split needs at least 2 members" in said(capsys)
