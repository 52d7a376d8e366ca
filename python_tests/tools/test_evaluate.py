"""`run evaluate`: whatever somebody has trained, judged by one command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from python_tests.data.images import write_image
from robustdml_ext import run
from robustdml_ext.models import build_embedder
from robustdml_ext.recipes import resolve
from robustdml_ext.tools.evaluate import attack_radii, parse_epsilons
from robustdml_ext.tools.evaluate_options import JudgmentOptions
from robustdml_ext.tools.models import find_model
from robustdml_ext.training.checkpoint import load_checkpoint, save_checkpoint

QUICK = ("--steps", "2", "--threads", "1", "--limit", "120", "--no-checks")


def checkpoint(folder: Path, **fields: Any) -> Path:
    """A checkpoint as a run leaves it, of a network that has learned nothing."""
    recipe = resolve("standard", fields)
    torch.manual_seed(0)
    network = build_embedder("small", embedding_dim=recipe.embedding_dim, channels=1)
    state = {f"embedder.{name}": value for name, value in network.state_dict().items()}
    folder.mkdir(parents=True)
    save_checkpoint(
        folder / "best.pt",
        {"recipe": recipe.model_dump(mode="json"), "step": 7, "method": state, "optimizer": {}, "random": {},
         "metrics": {}, "best": None},
    )  # fmt: skip
    return folder


def judged(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_a_run_is_judged_on_what_it_was_trained_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = checkpoint(tmp_path / "run")
    words = ["evaluate", str(folder), "--attacks", "stax", "out", "--epsilons", "0.1", "1/5", *QUICK]
    assert run.main([*words, "--corruptions", "contrast"]) == 0
    shown = capsys.readouterr().out
    for text in ("clean", "STAX PGD-2, ε = 0.2", "out APGD-2", "worst of 2", "corrupted: contrast", "score"):
        assert text in shown
    result = judged(folder / "evaluation-digits-test")
    assert result["model"]["kind"] == "checkpoint" and result["model"]["step"] == 7
    assert result["data"] | {"image_size": 8} == {
        "dataset": "digits", "protocol": "zero-shot", "split": "test", "images": 120, "gallery": None, "image_size": 8,
        "zero_shot": True,
    }  # fmt: skip
    clean = result["entries"][0]["metrics"]
    assert set(clean) >= {"recall@1", "map@r", "r_precision", "nmi", "ami", "f1", "pi_ratio", "rho_spectrum", "eer"}
    by_name = {(e["attack"], (e["threat"] or {}).get("epsilon")): e["metrics"]["recall@1"] for e in result["entries"]}
    worst = [by_name["worst", epsilon] for epsilon in (0.1, 0.2)]
    expected = (clean["recall@1"] + worst[0]) / 4 + (worst[0] + worst[1]) / 4
    assert result["score"] == pytest.approx(expected)
    assert run.main(["compare", str(folder / "evaluation-digits-test")]) == 0
    assert "worst of 2" in capsys.readouterr().out


def test_a_result_is_not_lost_to_another(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", str(checkpoint(tmp_path / "run")), "--attacks", "none", *QUICK]
    assert run.main(words) == 0
    assert run.main([*words, "--metrics", "recall"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert "nmi" in judged(tmp_path / "run" / "evaluation-digits-test")["entries"][0]["metrics"]
    assert run.main([*words, "--metrics", "recall", "--overwrite"]) == 0
    assert "nmi" not in judged(tmp_path / "run" / "evaluation-digits-test")["entries"][0]["metrics"]


def test_the_checkpoints_own_attacks_are_the_default(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "run", attack_epsilons=(0.07,))
    assert run.main(["evaluate", str(folder / "best.pt"), "--attacks", "stax", *QUICK]) == 0
    result = judged(folder / "evaluation-best-digits-test")
    assert [entry["threat"]["epsilon"] for entry in result["entries"] if entry["threat"]] == [0.07, 0.07]


def test_an_architecture_with_a_weights_file(tmp_path: Path) -> None:
    network = build_embedder("small", embedding_dim=16, channels=1)
    torch.save(network.export().state_dict(), tmp_path / "backbone.pt")
    out = tmp_path / "out"
    words = ["evaluate", "small", "--weights", str(tmp_path / "backbone.pt"), "--dataset", "digits", "--out", str(out)]
    assert run.main([*words, "--attacks", "none", "--metrics", "recall", *QUICK]) == 0
    result = judged(out)
    assert [entry["attack"] for entry in result["entries"]] == ["clean"] and result["score"] is None
    assert set(result["entries"][0]["metrics"]) == {"recall@1", "recall@2", "recall@4", "recall@8"}


def test_a_factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "somebodys_model.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Flatten()\n\ndef number():\n    return 7\n\n"
        "def wide():\n    return nn.Linear(3, 3)\n\ndef broken():\n    raise RuntimeError('no weights')\n"
    )
    words = ["--dataset", "digits", "--attacks", "away", "--epsilons", "0.1", *QUICK]
    assert run.main(["evaluate", "somebodys_model:build", *words]) == 0
    result = judged(tmp_path / "evaluations" / "somebodys_model.build-digits-test")
    assert result["model"] == {"kind": "factory", "name": "somebodys_model:build"}
    assert result["entries"][0]["metrics"]["recall@1"] > 0.9  # of pixels themselves
    capsys.readouterr()
    for name, message in (
        ("somebodys_model:number", "expected an nn.Module"),
        ("somebodys_model:nothing", "has no function 'nothing'"),
        ("nobodys_model:build", "cannot be imported"),
        ("somebodys_model:wide", "failed on images torch.float32 [2, 1, 8, 8]"),
        ("somebodys_model:broken", "calling it failed: RuntimeError: no weights"),
    ):
        assert run.main(["evaluate", name, *words]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["resnet19", "--dataset", "digits"], "did you mean resnet18"),
        (["resnet18"], "--dataset"),
        (["nowhere/best.pt"], "no checkpoint or run"),
        (["resnet18", "--weights", "none", "--dataset", "digits"], "3 channels, got 1"),
        (["small", "--dataset", "digits", "--epsilons", "eight"], "8/255"),
        (["small", "--dataset", "digits", "--attacks", "stab"], "attacks must be of standard"),
        (["small", "--dataset", "digits", "--split", "validation"], "no validation split"),
        (["small", "--dataset", "digits", "--limit", "1"], "limit must be at least 2"),
        (["small", "--dataset", "digits", "--device", "abacus"], "abacus"),
        (["small", "--dataset", "digits", "--metrics", "beauty"], "metrics must be of all"),
        (["small", "--dataset", "digits", "--steps", "0"], "steps must be at least 1; got 0"),
        (["small", "--dataset", "digits", "--recall-at", "0"], "recall_at must be at least 1"),
        (["small", "--dataset", "digits", "--epsilons", "2"], "in (0, 1]"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2_and_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(["evaluate", *words]) == 2
    said = capsys.readouterr().err
    assert message in said and len(said.strip().splitlines()) == 1


def test_the_validation_classes_of_a_run(tmp_path: Path) -> None:
    root = tmp_path / "images"
    for number in range(48):
        write_image(root / "abcdefghijkl"[number // 4] / f"{number}.png", number, "L", (8, 8))
    fields = {"dataset": "folder", "root": str(root), "arch": "small", "embedding_dim": 8, "image_size": 8}
    folder = checkpoint(tmp_path / "run", channels=1, **fields)
    out = tmp_path / "out"
    words = ["evaluate", str(folder), "--split", "validation", "--attacks", "none", "--out", str(out)]
    assert run.main([*words, "--threads", "1"]) == 0
    assert judged(out)["data"]["images"] == 8  # two of the six training classes


def test_radii_belong_to_their_norm(tmp_path: Path) -> None:
    linf = resolve("standard", {"attack_epsilons": (0.07,)})
    l2 = resolve("standard", {"attack_epsilons": (0.5, 3.0), "eval_norm": "l2"})
    assert attack_radii(JudgmentOptions(), None) == ("linf", (8 / 255,))
    assert attack_radii(JudgmentOptions(), linf) == ("linf", (0.07,))
    assert attack_radii(JudgmentOptions(), l2) == ("l2", (0.5, 3.0))
    assert attack_radii(JudgmentOptions(norm="l2"), linf) == ("l2", (0.25, 0.5, 1.0))
    assert attack_radii(JudgmentOptions(norm="linf"), l2) == ("linf", (8 / 255,))
    assert attack_radii(JudgmentOptions(norm="l2", epsilons=("2",)), linf) == ("l2", (2.0,))


def test_a_run_that_takes_the_last_weights_is_judged_by_them(tmp_path: Path) -> None:
    """A finished run that was taken up again and stopped has an older best.pt."""
    folder = checkpoint(tmp_path / "run")
    state = load_checkpoint(folder / "best.pt")
    save_checkpoint(folder / "last.pt", {**state, "step": 9})
    assert find_model(str(folder)).facts["step"] == 9
    recipe = {**state["recipe"], "select_on": "test", "evaluate_every": 1}
    save_checkpoint(folder / "last.pt", {**state, "step": 9, "recipe": recipe})
    assert find_model(str(folder)).facts["step"] == 7


def test_fractions_are_read_exactly() -> None:
    assert parse_epsilons(["8/255", "0.1"]) == (8 / 255, 0.1)
    for word in ("0", "-1", "2", "1/0", "x"):
        with pytest.raises(ValueError, match="epsilons"):
            parse_epsilons([word])


def test_several_runs_answer_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = checkpoint(tmp_path / "a"), checkpoint(tmp_path / "b")
    monkeypatch.chdir(tmp_path)
    words = ["evaluate", str(first), "--others", str(second), str(first), "--attacks", "away", "--epsilons", "0.1"]
    assert run.main([*words, *QUICK]) == 0
    result = judged(tmp_path / "evaluations" / "a+b+a-digits-test")
    assert result["model"]["kind"] == "ensemble" and result["model"]["inference"] == "vote"
    assert [one["kind"] for one in result["model"]["members"]] == ["checkpoint"] * 3
    away = next(entry for entry in result["entries"] if entry["attack"] == "away")
    assert set(away["routes"]) == {"whole", "average", "member 0", "member 1", "member 2"}
    # All three are one network, which three of it only repeat.
    assert run.main(["evaluate", str(first), "--attacks", "none", *QUICK]) == 0
    alone = judged(first / "evaluation-digits-test")["entries"][0]["metrics"]
    together = result["entries"][0]["metrics"]
    for name in ("recall@1", "recall@8", "nmi", "f1"):
        assert together[name] == pytest.approx(alone[name], abs=1e-9)


def test_test_images_are_resized_as_the_checkpoint_was_trained_for(tmp_path: Path) -> None:
    figures = []
    for augment in ("none", "resize-crop-flip"):
        folder = checkpoint(tmp_path / augment, augment=augment)
        assert run.main(["evaluate", str(folder), "--attacks", "none", *QUICK]) == 0
        figures.append(judged(folder / "evaluation-digits-test"))
    assert figures[0]["protocol"]["pixels"] != figures[1]["protocol"]["pixels"]
