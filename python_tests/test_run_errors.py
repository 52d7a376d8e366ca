"""Command lines that cannot run and runs that end early: exit codes, and one message that helps."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import QUICK, class_folders, environment_with, run_apart, said

from robustdml_ext import run
from robustdml_ext.data import PKSampler


def test_a_broken_checkpoint_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "last.pt").write_bytes(b"half")
    assert run.main(["mdprop", "--out", str(tmp_path), "--resume", *QUICK]) == 2
    assert "last.pt is truncated or is not a checkpoint" in said(capsys)


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
        (["mdprop", "--recipe", "mdprop/nosuch"], "did you mean mdprop/table"),
        (["standard", "--recipe", "mdprop/table3-sop-mdprop-3"], "is for mdprop"),
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
    assert expected in said(capsys)
    assert not list(tmp_path.iterdir()), "nothing is written for a run that does not start"


def test_a_message_without_traceback_and_one_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = run_apart("mdprop", "--dataset", "sop", cwd=tmp_path)
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
    assert run.main(["standard", "--out", str(tmp_path / "r"), *QUICK]) == 1
    assert "the loss fell over" in said(capsys)
    assert "Traceback" in (tmp_path / "r" / "failure.txt").read_text()
    monkeypatch.setattr(MultiSimilarityLoss, "forward", lambda self, x, y: x.sum() * float("nan"))
    assert run.main(["standard", "--out", str(tmp_path / "r"), "--overwrite", *QUICK]) == 1
    assert "the loss is nan at step 1" in said(capsys)
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


@pytest.mark.parametrize(("listed", "what"), [("a\nb\nc\n", "test on"), ("a\n", "train on")])
def test_one_class_is_too_few(tmp_path: Path, capsys: pytest.CaptureFixture[str], listed: str, what: str) -> None:
    root = class_folders(tmp_path / "images", "abcd")
    (tmp_path / "train.txt").write_text(listed)
    words = ["mdprop", "--dataset", "folder", "--root", str(root), "--train-classes", str(tmp_path / "train.txt")]
    words += ["--arch", "small", "--batch-size", "4", "--select-on", "last", "--out", str(tmp_path / "r"), *QUICK]
    assert run.main(words) == 2
    message = said(capsys)
    assert what in message and "train_classes" in message and not (tmp_path / "r").exists()


def test_a_wrong_simd_level_ends_with_one_message(tmp_path: Path) -> None:
    done = run_apart("mdprop", *QUICK, cwd=tmp_path, ROBUSTDML_SIMD="foo", ROBUSTDML_KERNELS="1")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr == "robustdml_ext: ROBUSTDML_SIMD='foo': expected one of default, avx2, avx512\n"


def test_the_process_that_meets_a_broken_image_names_it(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "images", "abcd")
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
    words += ["--augment", "crop-flip", "--out", str(tmp_path / "r"), "--device", "cpu", *QUICK]
    started = []
    for rank in ("0", "1"):
        changed = environment_with(
            RANK=rank, LOCAL_RANK=rank, WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=port
        )
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
