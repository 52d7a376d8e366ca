"""Training on the retrieval benchmarks, each in its official layout, through the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from python_tests.data import layouts
from robustdml_ext import run

_QUICK = (
    "--epochs", "1", "--arch", "small", "--weights", "none", "--image-size", "16", "--device", "cpu",
    "--batch-size", "8", "--samples-per-class", "4",
    "--eval-steps", "1", "--attack-epsilons", "0.1", "--threads", "1", "--select-on", "last", "--no-tensorboard",
)  # fmt: skip


def _sop(folder: Path, images: int) -> Path:
    return layouts.write_sop(folder, {"train": (1, 2, 3, 4), "test": (5, 6)}, images)


LAYOUTS: dict[str, tuple[str, str, Callable[[Path, int], Path]]] = {
    "sop": ("mdprop", "sop", _sop),
    "cub200": ("standard", "cub200", layouts.write_cub200),
    "cub200-2010": ("standard", "cub200-2010", layouts.write_cub200_2010),
    "cars196, one folder": ("mdprop", "cars196", layouts.write_cars_one_folder),
    "cars196, two folders": ("standard", "cars196", layouts.write_cars_two_folders),
    "inshop": ("mdprop", "inshop", layouts.write_inshop),
}


def _train(method: str, dataset: str, root: Path, out: Path, *more: str) -> dict:
    words = [method, "--dataset", dataset, "--root", str(root), "--out", str(out), *_QUICK, *more]
    assert run.main(words) == 0
    result: dict = json.loads((out / "result.json").read_text())
    return result


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_epoch_on_every_official_layout(tmp_path: Path, layout: str) -> None:
    method, dataset, write = LAYOUTS[layout]
    result = _train(method, dataset, write(tmp_path / "data", 8), tmp_path / "run")
    recipe = result["recipe"]
    assert (recipe["method"], recipe["dataset"], recipe["epochs"]) == (method, dataset, 1)
    assert result["timing"]["steps"] == (4 if dataset == "sop" else 2), "training images over the batch size"
    assert {entry["threat"] and entry["threat"]["name"] for entry in result["results"]} >= {None, "stax"}
    for entry in result["results"]:
        assert 0 <= entry["metrics"]["recall@1"] <= 1 and 0 <= entry["metrics"]["nmi"] <= 1


def test_a_protocol_other_than_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.write_inshop(tmp_path / "data", images=8)
    result = _train("standard", "inshop", root, tmp_path / "run", "--protocol", "query-only")
    assert result["recipe"]["protocol"] == "query-only"
    words = ["standard", "--dataset", "inshop", "--root", str(root), "--protocol", "open", *_QUICK]
    assert run.main([*words, "--out", str(tmp_path / "other")]) == 2
    assert "protocol must be one of query-gallery, query-only" in capsys.readouterr().err


def test_a_cache_on_disk_changes_no_figure(tmp_path: Path) -> None:
    root = layouts.write_cub200(tmp_path / "data", images=8)
    cached = ("--cache", str(tmp_path / "cache"), "--augment", "none")
    results = [
        _train("standard", "cub200", root, tmp_path / "plain", "--augment", "none"),
        _train("standard", "cub200", root, tmp_path / "cached", *cached),
        _train("standard", "cub200", root, tmp_path / "again", *cached),
    ]
    figures = [[entry["metrics"] for entry in result["results"]] for result in results]
    assert figures[0] == figures[1] == figures[2]
    assert len(list((tmp_path / "cache").glob("*.cache"))) == 2, "one for training, one for testing"


@pytest.mark.parametrize("dataset", ["sop", "cub200", "cars196", "inshop"])
def test_what_is_missing_is_said_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dataset: str
) -> None:
    _, _, write = next(entry for entry in LAYOUTS.values() if entry[1] == dataset)
    root = write(tmp_path / "data", 4)
    victim = sorted(root.rglob("*.[jJ][pP][gG]"))[-1]
    victim.unlink()
    words = ["standard", "--dataset", dataset, "--root", str(root), "--out", str(tmp_path / "run"), *_QUICK]
    assert run.main(words) == 2
    said = capsys.readouterr().err
    assert "1 of the " in said and str(victim) in said and "--root" in said and "Traceback" not in said
    shutil.rmtree(root)
    assert run.main(words) == 2
    assert "does not exist" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_list_names_every_data_set(capsys: pytest.CaptureFixture[str]) -> None:
    from robustdml_ext.data import NAMES

    assert run.main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in NAMES) and {"cub200-2010", "inshop", "omniglot"} <= set(NAMES)


def test_doctor_finds_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = layouts.write_cars_one_folder(tmp_path)
    assert run.main(["doctor", "--json", "--root", str(root)]) == 0
    found = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)["data"]}
    assert found["cars196"]["found"] and "train 8 images of 2 classes" in found["cars196"]["detail"]
    assert not found["cub200"]["found"] and "CUB_200_2011.tgz" in found["cub200"]["detail"]


def test_in_shop_is_judged_against_its_gallery(tmp_path: Path) -> None:
    root = layouts.write_inshop(tmp_path / "data", images=8)
    for item in (3, 4):
        (folder,) = root.glob(f"img/*/*/id_{item:08d}")
        for i in range(1, 5):  # a query's copy is the nearest item of the gallery, whatever the network
            shutil.copy(folder / f"{i:02d}_1_front.jpg", folder / f"{i + 4:02d}_1_front.jpg")
    trained = _train("standard", "inshop", root, tmp_path / "run")
    assert trained["results"][0]["metrics"]["recall@1"] == 1 and trained["data"]["protocol"] == "query-gallery"
    judged = {}
    for protocol in ("query-gallery", "query-only"):
        out = tmp_path / protocol
        words = ["evaluate", str(tmp_path / "run"), "--protocol", protocol, "--attacks", "none", "--no-checks"]
        assert run.main([*words, "--device", "cpu", "--threads", "1", "--out", str(out)]) == 0
        judged[protocol] = json.loads((out / "result.json").read_text())
    assert judged["query-gallery"]["data"]["gallery"] == 8 and judged["query-only"]["data"]["gallery"] is None
    assert all(result["data"]["images"] == 8 for result in judged.values())
    assert judged["query-gallery"]["entries"][0]["metrics"]["recall@1"] == 1
    assert judged["query-only"]["entries"][0]["metrics"]["recall@1"] < 1


ROWS = {
    **{f"table1-cub200-2010-mobilenetv2-{row}": layouts.write_cub200_2010 for row in
       ("pal", "at", "mixup", "iat", "trades", "eat")},
    "table3-cub200-2010-mobilenetv2-ensemble": layouts.write_cub200_2010,
    "table3-cub200-2010-mobilenetv2-eat-nosplit": layouts.write_cub200_2010,
    "table2-cub200-2010-bninception-eat": layouts.write_cub200_2010,
    "table1-cars196-mobilenetv2-eat": layouts.write_cars_one_folder,
    "table4-inshop-mobilenetv2-eat": layouts.write_inshop,
}  # fmt: skip
_ROW = (
    "--epochs", "1", "--arch", "small", "--weights", "none", "--image-size", "16", "--device", "cpu",
    "--batch-size", "8", "--samples-per-class", "4", "--eval-steps", "1", "--threads", "1", "--no-tensorboard",
)  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_a_published_row_runs_by_one_command_and_shows_both_figures(
    row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, method = ROWS[row](tmp_path / "data", 8), _method(row)
    words = [method, "--recipe", f"eat/{row}", "--root", str(root), "--out", str(tmp_path / "run"), *_ROW]
    assert run.main(words) == 0
    shown = capsys.readouterr().out
    assert "PGD-1 away from clean, ε = 8/255" in shown
    assert ("published, adversarial" in shown) == ("bninception" not in row)  # table 2 cannot be read


def test_a_finished_row_is_judged_again_as_in_the_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root, out = layouts.write_cub200_2010(tmp_path / "data", 8), tmp_path / "run"
    for place in ("table1", "figures2-4"):
        words = ["eat", "--recipe", f"eat/{place}-cub200-2010-mobilenetv2-eat", "--root", str(root), "--out", str(out)]
        assert run.main([*words, *_ROW, "--resume"]) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["timing"]["steps"] == 2, "of the first command; the second only judges"
    found = {(entry["threat"]["epsilon"], entry["threat"]["steps"]) for entry in result["results"] if entry["threat"]}
    assert len({epsilon for epsilon, _ in found}) == 7 and {steps for _, steps in found} >= {1, 2, 5, 20, 50, 100}
    assert len(result["members"]) == 3
    capsys.readouterr()


def _method(row: str) -> str:
    last = row.removesuffix("-nosplit").rpartition("-")[2]
    return last
