"""The command line as a person meets it: exit codes, messages, and a whole small run."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from robustdml_ext import run
from robustdml_ext.data import PKSampler
from robustdml_ext.recipes.commandline import parse_run

_QUICK = ("--epochs", "1", "--eval-steps", "1", "--attack-epsilons", "0.1", "--threads", "1")


def _environment(**changes: str) -> dict[str, str]:
    paths = [str(Path(run.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", **changes}


def _run(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "robustdml_ext.run", *words]
    changed = _environment(**environment)
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=changed, timeout=240)


def _said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of MDProp; its result is `finished / "result.json"`."""
    folder = tmp_path_factory.mktemp("runs") / "mdprop"
    done = _run("mdprop", "--out", str(folder), *_QUICK, cwd=folder.parent)
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
    assert set(result["timing"]["seconds"]) == {"data", "step", "evaluation", "checkpoint"}


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
    words = ["mdprop", "--out", str(finished), "--resume", *_QUICK, "--attack-epsilons", "0.1", "0.2"]
    assert run.main(words) == 0
    after = json.loads((finished / "result.json").read_text())
    assert len(after["results"]) == 5
    assert after["results"][0]["metrics"] == before["results"][0]["metrics"]
    assert after["timing"]["steps"] == before["timing"]["steps"]
    (finished / "result.json").write_text(json.dumps(before))
    assert not _said(capsys)


def test_compare_prints_and_draws(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["compare", str(finished), "--figure", str(tmp_path / "f.png"), "--markdown"]) == 0
    assert "| clean | MP″ (1, 5) | 1 |" in capsys.readouterr().out
    assert (tmp_path / "f.png").stat().st_size > 1000
    assert run.main(["compare", str(finished)]) == 0
    assert "MP″ (1, 5)" in capsys.readouterr().out
    assert run.main(["compare", str(tmp_path)]) == 2
    assert "no result at" in _said(capsys)


def test_a_standing_run_is_not_overwritten(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["mdprop", "--out", str(finished), *_QUICK]) == 2
    message = _said(capsys)
    assert "--resume" in message and "--overwrite" in message and len(message.splitlines()) == 1


def test_resume_with_another_recipe_names_what_differs(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["mdprop", "--out", str(finished), "--resume", "--epsilon", "0.3", *_QUICK]) == 2
    assert "epsilon: the run has" in _said(capsys)
    assert run.main(["mdprop", "--out", str(finished), "--resume", "--overwrite", *_QUICK]) == 2
    assert "one of them" in _said(capsys)


def test_a_broken_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.pt").write_bytes(b"half")
    assert run.main(["mdprop", "--out", str(tmp_path), "--resume", *_QUICK]) == 2
    assert "last.pt is truncated or is not a checkpoint" in _said(capsys)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["fly"], "unknown command 'fly'"),
        (["mdprop", "--dataset", "nosuch"], "nosuch"),
        (["mdprop", "--dataset", "sop"], "--root"),
        (["mdprop", "--dataset", "sop", "--root", "nowhere"], "nowhere"),
        (["mdprop", "--dataset", "folder", "--root", "nowhere"], "nowhere"),
        (["mdprop", "--arch", "resnet999"], "resnet999"),
        (["mdprop", "--weights", "missing.pth"], "missing.pth"),
        (["mdprop", "--targets", "0"], "targets"),
        (["advprop", "--targets", "3"], "use mdprop"),
        (["mdprop", "--device", "abacus"], "abacus"),
        (["mdprop", "--batch-size", "500", "--samples-per-class", "5"], "classes"),
        (["mdprop", "--recipe", "mdprop/nosuch"], "mdprop/sop-mdprop-1-5"),
        (["standard", "--recipe", "mdprop/sop-mdprop-3"], "is for mdprop"),
        (["mdprop", "--attack-epsilons", "nan"], "attack_epsilons"),
        (["mdprop", "--learning-rate", "inf"], "learning_rate"),
        (["mdprop", "--samples-per-class", "1"], "positive pairs"),
        (["mdprop", "--samples-per-class", "60"], "2 classes"),
        (["mdprop", "--select-on", "validation"], "evaluate_every"),
        (["mdprop", "--select-on", "validation", "--evaluate-every", "1", "--validation-share", "0.8"], "too few"),
        (["show", "nosuch"], "nosuch"),
        (["compare"], "at least one run"),
    ],
)
def test_what_is_asked_wrongly_ends_with_2_and_one_message(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run.main(words) == 2
    assert expected in _said(capsys)
    assert not list(tmp_path.iterdir()), "nothing is written for a run that does not start"


def test_a_message_without_traceback_and_one_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = _run("mdprop", "--dataset", "sop", cwd=tmp_path)
    assert plain.returncode == 2 and not plain.stdout
    assert plain.stderr.count("robustdml_ext:") == 1 and "Traceback" not in plain.stderr
    monkeypatch.chdir(tmp_path)
    assert run.main(["mdprop", "--dataset", "sop", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_failure_ends_with_1_and_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustdml_ext.losses import MultiSimilarityLoss

    def broken(self: object, embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the loss fell over")

    monkeypatch.setattr(MultiSimilarityLoss, "forward", broken)
    assert run.main(["standard", "--out", str(tmp_path / "r"), *_QUICK]) == 1
    assert "the loss fell over" in _said(capsys)
    assert "Traceback" in (tmp_path / "r" / "failure.txt").read_text()
    monkeypatch.setattr(MultiSimilarityLoss, "forward", lambda self, x, y: x.sum() * float("nan"))
    assert run.main(["standard", "--out", str(tmp_path / "r"), "--overwrite", *_QUICK]) == 1
    assert "the loss is nan at step 1" in _said(capsys)
    assert (tmp_path / "r" / "nan_batch.pt").exists()


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    words = [
        "standard",
        "--out",
        str(tmp_path / "r"),
        "--epochs",
        "100000",
        "--save-every",
        "1",
        "--threads",
        "1",
    ]
    command = [sys.executable, "-m", "robustdml_ext.run", *words]
    victim = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "r" / "last.pt").exists():
        assert time.monotonic() < deadline and victim.poll() is None
        time.sleep(0.1)
    victim.send_signal(signal.SIGINT)
    _, said = victim.communicate(timeout=60)
    assert victim.returncode == 1
    assert "stopped after step" in said and "--resume" in said and "Traceback" not in said


def test_doctor_speaks_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["versions"]["torch"] == torch.__version__
    for status in facts["kernels"].values():
        assert status["live"] or status["reason"]
    assert {entry["name"]: entry["found"] for entry in facts["data"]}["digits"] is True


def test_doctor_list_and_show_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["doctor"]) == 0
    assert "Kernel libraries" in capsys.readouterr().out
    assert run.main(["list"]) == 0
    listed = capsys.readouterr().out
    for word in ("mdprop", "digits", "sop", "mdprop/sop-mdprop-1-5"):
        assert word in listed
    assert run.main(["show", "mdprop/sop-mdprop-1-5"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["recipe"]["targets"] == [1, 5] and shown["published"]["clean"]["recall@1"] == 78.7


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--help"]) == 0
    overview = capsys.readouterr().out
    for word in [*run.METHODS, *run.TOOLS, "torchrun", "exit codes"]:
        assert word in overview
    assert run.main([]) == 2
    for command in [*run.METHODS, *run.TOOLS]:
        assert run.main([command, "--help"]) == 0
        assert "xample" in capsys.readouterr().out or command == "list"


def _class_folders(root: Path, names: str) -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.mark.parametrize(("listed", "what"), [("a\nb\nc\n", "test on"), ("a\n", "train on")])
def test_one_class_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str], listed: str, what: str) -> None:
    root = _class_folders(tmp_path / "images", "abcd")
    (tmp_path / "train.txt").write_text(listed)
    words = ["mdprop", "--dataset", "folder", "--root", str(root), "--train-classes", str(tmp_path / "train.txt")]
    words += ["--arch", "small", "--batch-size", "4", "--select-on", "last", "--out", str(tmp_path / "r"), *_QUICK]
    assert run.main(words) == 2
    said = _said(capsys)
    assert what in said and "train_classes" in said and not (tmp_path / "r").exists()


def test_a_wrong_simd_level_ends_with_one_message(tmp_path: Path) -> None:
    done = _run("mdprop", *_QUICK, cwd=tmp_path, ROBUSTDML_SIMD="foo", ROBUSTDML_KERNELS="1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr == "robustdml_ext: ROBUSTDML_SIMD='foo': expected one of default, avx2, avx512\n"


def test_the_process_that_meets_a_broken_image_names_it(tmp_path: Path) -> None:
    root = _class_folders(tmp_path / "images", "abcd")
    sampler = PKSampler([0, 0, 0, 0, 1, 1, 1, 1], 4, 2, seed=0)
    # All images of the class that the second process reads first.
    unlucky = "ab"[sampler.epoch(0)[0][2] // 4]
    for path in (root / unlucky).iterdir():
        path.write_bytes(path.read_bytes()[:80])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = str(listener.getsockname()[1])
    words = ["standard", "--dataset", "folder", "--root", str(root), "--arch", "small", "--batch-size", "4"]
    words += ["--select-on", "last"]
    words += ["--augment", "crop-flip", "--out", str(tmp_path / "r"), "--device", "cpu", *_QUICK]
    started = []
    for rank in ("0", "1"):
        changed = _environment(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
        command = [sys.executable, "-m", "robustdml_ext.run", *words]
        started.append(
            subprocess.Popen(command, env=changed, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )
    try:
        _, said = started[1].communicate(timeout=120)
        assert started[1].returncode == 2
        assert f"robustdml_ext: [rank 1] image {root / unlucky}" in said and "Traceback" not in said
    finally:
        for process in started:
            process.kill()
            process.communicate()


@pytest.mark.parametrize("words", [("--help",), ("doctor",), ("mdprop", "--help"), ("list",)])
def test_a_reader_that_leaves_is_no_failure(words: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "robustdml_ext.run", *words]
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, text=True, env=_environment(), timeout=240
        )
    finally:
        os.close(writer)
    assert done.returncode in (0, 141) and not done.stderr


def test_the_options_of_the_evaluation_reach_the_threat_model() -> None:
    from robustdml_ext.training.result import threat_models

    words = ["--eval-step-size", "0.02", "--eval-random-start", "0.05", "--eval-restarts", "2", "--eval-keep-best"]
    request = parse_run("mdprop", "", [*words, "--eval-norm", "l2"], "run")
    for threat in threat_models(request.recipe):
        assert (threat.step_size, threat.random_start, threat.restarts) == (0.02, 0.05, 2)
        assert threat.keep_best and threat.norm == "l2" and threat.precision == "float32"
    usual = threat_models(parse_run("mdprop", "", [], "run").recipe)[0]
    assert usual.step_size == pytest.approx(usual.epsilon / 20) and usual.norm == "linf" and not usual.keep_best
