"""Rows of ECAML's and DAML's tables by one command each, on generated images in the official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from python_tests.data import layouts
from robustdml_ext import run
from robustdml_ext.recipes import read_recipe_file

_SMALL = ("--arch", "small", "--image-size", "16", "--epochs", "1")
_QUICK = (
    "--weights", "none", "--device", "cpu", "--batch-size", "8", "--samples-per-class", "4", "--eval-attacks",
    "--threads", "1", "--no-tensorboard",
)  # fmt: skip


def _sop(folder: Path, images: int) -> Path:
    return layouts.write_sop(folder, {"train": (1, 2, 3, 4), "test": (5, 6)}, images)


ROWS: dict[str, Callable[[Path, int], Path]] = {
    "ecaml/table3-cars196-ecaml-triplet": layouts.write_cars_one_folder,
    "ecaml/table4-cub200-ecaml-npair": layouts.write_cub200,
    "ecaml/table2-cars196-binomial-dropout-0.25": layouts.write_cars_one_folder,
    "ecaml/table5-sop-ecaml-binomial": _sop,
    "ecaml/table6-inshop-npair": layouts.write_inshop,
    "daml/table1-cub200-daml-contrastive": layouts.write_cub200,
    "daml/table2-cars196-daml-triplet": layouts.write_cars_one_folder,
    "daml/table3-sop-daml-lifted": _sop,
    "daml/table1-cub200-daml-npair": layouts.write_cub200,
    "daml/table2-cars196-angular": layouts.write_cars_one_folder,
}


@pytest.mark.parametrize("row", ROWS)
def test_a_published_row_runs_by_one_command_and_shows_both_figures(
    row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    method = str(read_recipe_file(row).fields["method"])
    words = [method, "--recipe", row, "--root", str(ROWS[row](tmp_path / "data", 8)), "--out", str(tmp_path / "run")]
    more = ("--hard-negatives-pretrain", "0") if method == "daml" else ()
    assert run.main([*words, *_SMALL, *_QUICK, *more]) == 0
    shown = capsys.readouterr().out
    assert "published" in shown
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["timing"]["steps"] == (4 if "sop" in row else 2) and result["recipe"]["method"] == method


def test_the_papers_network_and_images(tmp_path: Path) -> None:
    """GoogLeNet on crops of 227 of images of 256, in iterations, with the seen classes' curve of figure 2."""
    root, out = layouts.write_cars_one_folder(tmp_path / "data", 8), tmp_path / "run"
    words = [
        "ecaml",
        "--recipe",
        "ecaml/table3-cars196-ecaml-binomial",
        "--root",
        str(root),
        "--out",
        str(out),
        *_QUICK,
    ]
    assert run.main([*words, "--iterations", "3", "--evaluate-every", "1"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert (result["timing"]["steps"], result["recipe"]["arch"], result["recipe"]["image_size"]) == (
        3,
        "googlenet",
        227,
    )
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {(line["kind"], line["step"]) for line in lines} >= {("seen", 2), ("test", 2), ("seen", 3), ("test", 3)}
    assert {"recall@1", "nmi", "f1"} <= set(result["seen"]["metrics"])


def test_energy_confusion_and_hard_negatives_join_other_methods_by_configuration_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--epochs", "2", "--threads", "1", "--eval-attacks", "--no-tensorboard", "--loss", "triplet"]
    words += ["--hard-negatives", "--hard-negatives-pretrain", "1", "--energy-confusion", "0.02", "--iterations", "17"]
    for method, more in (("mdprop", ["--targets", "1", "5"]), ("adversarial", []), ("at", []), ("eat", [])):
        out = tmp_path / method
        assert run.main([method, "--out", str(out), *words, *more, "--log-every", "1"]) == 0
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        last = [line for line in lines if line["kind"] == "train"][-1]
        assert last["epoch"] == 2 and {"loss/metric", "loss/generator", "loss/confusion"} <= set(last)
        epochs = [line for line in lines if line["kind"] == "epoch"]
        assert ["loss/generator" in line for line in epochs] == [False, True]
        said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
        assert ["generator" in line for line in said] == [False, True]
        assert (out / "backbone.pt").is_file() or (out / "backbone-1.pt").is_file()
