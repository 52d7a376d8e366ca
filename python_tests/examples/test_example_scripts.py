"""Each example runs as a newcomer would run it, in less time, and says what is true."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = ("judge_your_model", "replace_pml_loss", "mdprop_on_timm")


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_help_shows_the_commands_of_the_docstring(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = load(name)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert f"python examples/{name}.py" in shown and "--root FOLDER" in shown and "--seed" in shown


def test_there_are_no_others() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NAMES)
    text = (EXAMPLES / "README.md").read_text()
    assert all(f"python examples/{name}.py" in text for name in NAMES)


def test_judge_your_model(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "8", "--epsilons", "0.1", "--attacks", "stax", "out", "--test-images", "250"]
    reports = load("judge_your_model").main(arguments)
    recall = {(title, row["attack"]): row["recall@1"] for title, report in reports.items() for row in report.rows()}
    assert all(recall[title, "clean"] > 0.75 for title in reports)
    for attack in ("stax", "out", "worst"):
        assert recall["trained under attack", attack] > recall["trained clean", attack] + 0.02, attack
        assert recall["trained under attack", attack] < recall["trained under attack", "clean"], attack
    shown = capsys.readouterr().out
    assert "1. trained under attack: robustness score" in shown
    assert "out, epsilon 0.1" in shown and "warnings for trained clean:" in shown


def test_replace_pml_loss(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--epochs", "2", "--batch-size", "96", "--dimensions", "16", "--repeats", "2"]
    compared, recalls = load("replace_pml_loss").main(arguments)
    assert set(compared) == {"multisimilarity", "contrastive", "triplet"}
    for name, row in compared.items():
        assert math.isclose(row["ours"], row["theirs"], rel_tol=1e-5) and row["theirs"] > 0, name
        assert row["difference"] < 1e-4, name
        assert row["ratio"] == row["their ms"] / row["our ms"]
    assert all(recall > 0.8 for recall in recalls.values())
    # The same loop on the same values: what is left is rounding, grown by training.
    assert abs(recalls["pytorch-metric-learning"] - recalls["robustdml_ext"]) < 0.03
    assert "PML value" in capsys.readouterr().out


@pytest.mark.parametrize("arch", ["resnet10t", "mobilenetv3_small_050"])
def test_mdprop_on_timm(arch: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "network.pt"
    steps, images = ("40", "120") if arch == "resnet10t" else ("1", "20")
    arguments = ["--arch", arch, "--steps", steps, "--test-images", images, "--save", str(file)]
    recalls = load("mdprop_on_timm").main(arguments)
    assert f"timm.create_model('{arch}', num_classes=64)" in capsys.readouterr().out
    timm.create_model(arch, num_classes=64).load_state_dict(torch.load(file, weights_only=True), strict=True)
    if arch == "resnet10t":
        for other in ("before training", "standard"):
            assert recalls["MDProp"]["stax"] > recalls[other]["stax"] + 0.05, other


def test_mdprop_refuses_a_network_without_batch_norm() -> None:
    with pytest.raises(ValueError, match="no batch norm layer"):
        module = load("mdprop_on_timm")
        module.embedder_of(timm.create_model("convnext_atto"), 3, 64)


def test_folders_of_images(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    for number in range(4):
        (tmp_path / f"class{number}").mkdir()
        for index in range(6):
            pixels = (torch.rand(16, 16, generator=generator) * 60 + 60 * number).to(torch.uint8)
            Image.fromarray(pixels.numpy(), "L").save(tmp_path / f"class{number}" / f"{index}.png")
    arguments = ["--root", str(tmp_path), "--epochs", "1", "--epsilons", "0.1", "--attacks", "stax"]
    reports = load("judge_your_model").main(arguments)
    assert reports["trained clean"].protocol["fingerprint"]


def test_runs_as_a_script_outside_of_the_checkout(tmp_path: Path) -> None:
    """Its `if __name__` line, and no import that needs the examples' folder."""
    command = [sys.executable, str(EXAMPLES / "replace_pml_loss.py"), "--help"]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert "replace_pml_loss.py" in shown
