"""`run table --jobs`: runs as processes of their own, their lanes, a run that fails, and one that is interrupted."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import environment_with

from robustdml_ext.recipes import make_recipe
from robustdml_ext.tools.lanes import Lane, lanes_for
from robustdml_ext.tools.side_by_side import LOG, command_of, duration
from robustdml_ext.tools.table_plan import plan_table

RECIPE = {
    "method": "standard", "dataset": "digits", "eval_attacks": [], "device": "cpu", "tensorboard": False,
    "save_every": 1, "log_every": 1,
}  # fmt: skip


def _recipes(folder: Path, **iterations: int) -> str:
    for name, count in iterations.items():
        content = {"title": name, "recipe": {**RECIPE, "iterations": count}}
        (folder / f"{name}.yaml").write_text(json.dumps(content))
    return f"{folder}/*.yaml"


def _command(*words: str) -> list[str]:
    return [sys.executable, "-m", "robustdml_ext.run", "table", *words, "--jobs", "2"]


def _results(out: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(out.glob("*/result.json"))}


def _wait(until: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while not until():
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.05)


def test_interrupted_it_loses_only_what_is_in_flight_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """One short run ends while a long one is in flight; SIGTERM; then the long one goes on from where it was saved."""
    pattern, out = _recipes(tmp_path, a_short=2, b_long=100_000), tmp_path / "out"
    command = _command(pattern, "--out", str(out))
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment_with()
    )
    _wait(lambda: "a_short-seed0" in _results(out) and (out / "b_long-seed0" / "last.pt").exists(), process)
    # The short one's process may still be on its way out; then it is stopped after its result, which counts.
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1 and "Traceback" not in errors
    assert "stopping: " in errors and "stopped: b_long, seed 0" in errors
    assert errors.splitlines()[-1] == "robustdml_ext: stopped. The same command goes on."
    log = (out / "b_long-seed0" / LOG).read_text()
    assert "stopped after step" in log and list(_results(out)) == ["a_short-seed0"]
    saved = int(log.rpartition("stopped after step ")[2].split(";")[0])
    written = (out / "a_short-seed0" / "result.json").stat().st_mtime_ns

    shorter = saved + 2
    _recipes(tmp_path, b_long=shorter)  # so that it ends within the test
    done = subprocess.run(command, capture_output=True, text=True, env=environment_with(), timeout=600)
    assert done.returncode == 0, done.stderr
    assert (out / "a_short-seed0" / "result.json").stat().st_mtime_ns == written
    assert "a_short" not in done.stderr and "finished, 2 of 2: b_long, seed 0" in done.stderr
    assert _results(out)["b_long-seed0"]["timing"]["steps"] == shorter
    lines = (out / "b_long-seed0" / "metrics.jsonl").read_text().splitlines()
    steps = [entry["step"] for line in lines if (entry := json.loads(line))["kind"] == "train"]
    assert steps == list(range(1, shorter + 1))  # not a step twice
    assert "1 of 1" in done.stdout and (out / "table.md").exists()


def test_a_run_that_fails_is_named_with_its_last_words(tmp_path: Path) -> None:
    pattern, out = _recipes(tmp_path, good=2), tmp_path / "out"
    bad = {**RECIPE, "iterations": 2, "arch": "resnet999", "weights": "none"}
    (tmp_path / "bad.yaml").write_text(json.dumps({"recipe": bad}))
    done = subprocess.run(
        _command(pattern, "--out", str(out)), capture_output=True, text=True, env=environment_with(), timeout=600
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert list(_results(out)) == ["good-seed0"]
    failed = next(line for line in done.stderr.splitlines() if line.startswith("table: failed (exit code 2)"))
    assert "bad, seed 0" in failed and "resnet999" in failed and str(out / "bad-seed0" / LOG) in failed
    assert done.stderr.splitlines()[-1] == "table: failed: bad, seed 0"
    assert "failed: seed 0" in (out / "table.md").read_text()


@pytest.mark.parametrize(
    ("device", "jobs", "gpus", "cores", "expected"),
    [
        ("auto", None, 0, 8, [Lane(None, 8)]),
        ("auto", None, 1, 8, [Lane("cuda:0", 8)]),
        ("auto", None, 4, 8, [Lane(f"cuda:{n}", 2) for n in range(4)]),
        ("cuda", None, 2, 3, [Lane("cuda:0", 1), Lane("cuda:1", 1)]),
        ("auto", 3, 2, 12, [Lane("cuda:0", 4), Lane("cuda:1", 4), Lane("cuda:0", 4)]),
        ("auto", 1, 4, 12, [Lane("cuda:0", 12)]),
        ("cpu", None, 4, 8, [Lane(None, 8)]),
        ("cpu", 4, 4, 2, [Lane(None, 1)] * 4),
        ("cuda:1", None, 4, 8, [Lane(None, 8)]),
        ("cuda:1", 2, 4, 8, [Lane(None, 4)] * 2),
    ],
)
def test_a_lane_for_each_run_at_a_time(
    device: str, jobs: int | None, gpus: int, cores: int, expected: list[Lane]
) -> None:
    assert lanes_for(make_recipe({"device": device}), jobs, gpus, cores) == expected


def test_a_run_s_command(tmp_path: Path) -> None:
    _recipes(tmp_path, mine=2)
    name = f"{tmp_path}/mine.yaml"
    rows, _ = plan_table([name], [7], "o", ["--epochs", "2"], "run")
    words = command_of(rows[0].runs[0], Lane("cuda:1", 3))
    assert words[:3] == [sys.executable, "-m", "robustdml_ext.run"]
    assert words[3:] == [
        "standard", "--recipe", name, "--epochs", "2", "--seed", "7", "--out", str(Path("o") / "mine-seed7"),
        "--device", "cuda:1", "--threads", "3", "--resume",
    ]  # fmt: skip
    rows, _ = plan_table([name], [7], "o", ["--threads=1", "--resume"], "run")
    words = command_of(rows[0].runs[0], Lane(None, 3))
    assert words.count("--resume") == 1 and "--threads" not in words and "--device" not in words


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59.6, 185, 7_620)] == ["0 s", "1:00 min", "3:05 min", "2:07 h"]
