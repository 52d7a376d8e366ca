"""Rows of the prototypes paper by one command each, on generated images and recordings in the official layouts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from python_tests.data import layouts
from python_tests.data.sounds import write_speakers
from robustdml_ext import run

_QUICK = (
    "--weights", "none", "--device", "cpu", "--epochs", "1", "--batch-size", "8", "--samples-per-class", "4",
    "--embedding-dim", "8", "--select-on", "last", "--threads", "1", "--no-tensorboard",
)  # fmt: skip
_SMALL = ("--arch", "small", "--image-size", "16")


def _voxceleb(folder: Path, recordings: int) -> Path:
    write_speakers(folder / "dev" / "wav", [10001, 10002, 10003], recordings)
    write_speakers(folder / "test" / "wav", [10270, 10271], recordings)
    files = sorted(path.relative_to(folder / "test" / "wav").as_posix() for path in folder.glob("test/wav/*/*/*.wav"))
    pairs = [(one, other) for one in files[:3] for other in files[3:]]
    lines = [f"{int(one.split('/')[0] == other.split('/')[0])} {one} {other}" for one, other in pairs]
    (folder / "veri_test.txt").write_text("\n".join(lines) + "\n")
    return folder


ROWS: dict[str, tuple[Callable[[Path, int], Path], int, tuple[str, ...]]] = {
    "prototypes/table2-pacs-sketch": (layouts.write_pacs, 8, _SMALL),
    "prototypes/cub200": (layouts.write_cub200, 8, _SMALL),
    "prototypes/cars196-no-auxiliary": (layouts.write_cars_one_folder, 8, _SMALL),
    "prototypes/miniimagenet": (layouts.write_miniimagenet_folders, 20, (*_SMALL, "--few-shot-ways", "2")),
    "prototypes/table3-voxceleb": (_voxceleb, 6, ("--dataset", "voxceleb", "--protocol", "dev-test", "--frames", "40")),
}


@pytest.mark.parametrize("row", ROWS)
def test_a_row_runs_by_one_command(row: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write, images, more = ROWS[row]
    root, out = write(tmp_path / "data", images), tmp_path / "run"
    words = ["prototypes", "--recipe", row, "--root", str(root), "--out", str(out), *_QUICK, *more]
    assert run.main(words) == 0
    shown = capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    metrics = result["results"][0]["metrics"]
    if "pacs" in row:
        assert set(metrics) == {"accuracy_similarity", "accuracy_dense"} and "84.63" in shown
    else:
        assert {"recall@1", "cosine_recall@1", "sum_recall@1"} <= set(metrics)
    if "voxceleb" in row:
        assert {f"veri_test/eer_{scorer}" for scorer in ("similarity", "cosine", "sum")} <= set(metrics)
        assert "published" in shown and "2.55" in shown
    if "miniimagenet" in row:
        assert "few_shot_2way_1shot_similarity" in metrics and "few_shot_2way_5shot_similarity" in metrics
    assert (out / "classifier.pt").is_file()
