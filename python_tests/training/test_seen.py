"""Training images judged beside unseen ones: curves, the result, tables and comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import QUICK
from training.tiny import same, tiny_recipe, tiny_trainer

from robustdml_ext import run
from robustdml_ext.data import load
from robustdml_ext.evaluation import evaluate
from robustdml_ext.training import choose_precision
from robustdml_ext.training.checkpoint import load_checkpoint
from robustdml_ext.training.result import evaluate_seen


def _lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def test_seen_curves_stand_beside_and_do_not_touch_the_training(tmp_path: Path) -> None:
    def drawing(value: float) -> Any:
        return lambda method: {"recall@1": value + 0 * float(torch.rand(()) + method.eval().training)}

    recipe = tiny_recipe(evaluate_every=1, select_on="test")
    trainer = tiny_trainer(tmp_path / "seen", recipe, evaluate=drawing(0.4), evaluate_seen=drawing(0.9))
    best = trainer.run().best
    assert best is not None and best["recall@1"] == 0.4  # what is seen never selects
    assert [(line["step"], line["recall@1"]) for line in _lines(tmp_path / "seen", "seen")] == [(15, 0.9), (30, 0.9)]
    assert [line["recall@1"] for line in _lines(tmp_path / "seen", "test")] == [0.4, 0.4]
    tiny_trainer(tmp_path / "plain", recipe, evaluate=drawing(0.4)).run()
    states = [load_checkpoint(tmp_path / name / "last.pt") for name in ("seen", "plain")]
    assert same(states[0]["method"], states[1]["method"]) and not _lines(tmp_path / "plain", "seen")


def test_what_is_judged_is_each_training_image_among_the_others() -> None:
    train = load("digits", augment="crop-flip").train
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8))
    precision = choose_precision("float32", torch.device("cpu"))
    found = evaluate_seen(network, train, tiny_recipe(), precision)
    with torch.no_grad():
        embeddings = network(train.without_augmentation().batch(range(len(train)))[0])
    assert found == pytest.approx(evaluate(embeddings, train.labels, recall_at=(1, 2, 4, 8)))
    fewer = evaluate_seen(network, train, tiny_recipe(evaluate_seen_images=50), precision)
    assert fewer["recall@1"] != found["recall@1"]


def test_a_run_tells_of_seen_classes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["standard", "--out", str(tmp_path / "r"), *QUICK, "--evaluate-seen", "--evaluate-seen-images", "100"]
    assert run.main([*words, "--evaluate-every", "1"]) == 0
    text = capsys.readouterr().out
    assert "clean, training images" in text
    result = json.loads((tmp_path / "r" / "result.json").read_text())
    (line,), seen = _lines(tmp_path / "r", "seen"), result["seen"]
    assert {name: line[name] for name in seen["metrics"]} == pytest.approx(seen["metrics"])
    assert (seen["images"], seen["of_images"], seen["classes"]) == (100, 901, 5)
    assert seen["metrics"]["recall@1"] != result["results"][0]["metrics"]["recall@1"]
    assert run.main(["compare", str(tmp_path / "r"), "--markdown"]) == 0
    assert "| clean, training images | ST | 1 |" in capsys.readouterr().out
    # Judged again without: only what is asked for is in the result.
    assert run.main([*words[:-3], "--resume"]) == 0
    assert "seen" not in json.loads((tmp_path / "r" / "result.json").read_text())
