"""Two processes equal one: gathered loss, summed gradients, averaged centers, synchronized norms."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from training.tiny import ALONE

from robustdml_ext.assemble import assemble
from robustdml_ext.recipes import resolve
from robustdml_ext.training import Job, Processes, RunRefusedError, start_processes
from robustdml_ext.training.checkpoint import load_checkpoint

_TRAIN = """
import json, sys
from pathlib import Path
import torch
from training.test_processes import train
from robustdml_ext.training import start_processes, stop_processes

torch.set_num_threads(1)
processes = start_processes("cpu")
try:
    for folder, fields in json.loads(sys.argv[1]).items():
        train(Path(folder), fields, processes)
finally:
    stop_processes()
"""


def train(folder: Path, fields: dict[str, Any], processes: Processes) -> None:
    """Train what a recipe describes, without the judgment at the end."""
    recipe = resolve(fields["method"], fields)
    parts = assemble(recipe)
    folder.mkdir(parents=True, exist_ok=True)
    Job(recipe, parts.splits, parts.method, processes).train(folder)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _start(world_size: int, jobs: dict[str, dict[str, Any]]) -> list[subprocess.Popen[bytes]]:
    port = str(_free_port())
    paths = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    common = {
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    started = []
    for rank in range(world_size):
        environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        command = [sys.executable, "-c", _TRAIN, json.dumps(jobs)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    return started


def _finish(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()


class _Trained(NamedTuple):
    """What a run left: its last checkpoint and the lines of its curve."""

    checkpoint: dict[str, Any]
    curve: list[dict[str, Any]]


def _trained_alone_and_by_two(folder: Path, jobs: dict[str, dict[str, Any]]) -> dict[str, tuple[_Trained, _Trained]]:
    """Each job's run by this process alone, in folder/one, and by two at once, in folder/two."""

    def trained(run: Path) -> _Trained:
        lines = (run / "metrics.jsonl").read_text().splitlines()
        return _Trained(load_checkpoint(run / "last.pt"), [json.loads(line) for line in lines])

    two_processes = _start(2, {str(folder / "two" / name): fields for name, fields in jobs.items()})
    for name, fields in jobs.items():
        train(folder / "one" / name, fields, ALONE)
    _finish(two_processes)
    return {name: (trained(folder / "one" / name), trained(folder / "two" / name)) for name in jobs}


def test_two_processes_equal_one(tmp_path: Path) -> None:
    # Plain gradient descent shows a wrong scale of the gradient, which Adam would hide.
    descent = {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "batch_size": 40,
        "samples_per_class": 8,
        "epochs": 1,
    }
    common = {**descent, "embedding_dim": 16, "tensorboard": False, "log_every": 1}
    jobs: dict[str, dict[str, Any]] = {
        # Auxiliary norms, synchronized, and noise drawn for the whole batch.
        "norms": {**common, "method": "mdprop", "targets": [1, 5], "random_start": 0.01},
        # A loss with parameters of its own.
        "centers": {**common, "method": "standard", "loss": "arcface"},
        # Heads beside the embedding's, whose gradient every process has whole; features that teach from a step on. As
        # γ = 50 multiplies the gradient, and its rounding, which the sign of an attack would make visible: no attack.
        "distilled": {
            **common, "method": "standard", "s2sd": True, "s2sd_dims": [24, 32], "s2sd_feature_delay": 9,
            "learning_rate": 0.002,
        },
        # Prototypes that follow the whole batch, and S's dropout.
        "prototypes": {**common, "method": "prototypes"},
    }  # fmt: skip
    for name, (one, two) in _trained_alone_and_by_two(tmp_path, jobs).items():
        assert one.checkpoint["step"] == two.checkpoint["step"] == 22
        torch.testing.assert_close(two.checkpoint["method"], one.checkpoint["method"], rtol=1e-5, atol=1e-5)
        for first, second in zip(one.curve, two.curve, strict=True):
            assert second["loss"] == pytest.approx(first["loss"], abs=1e-5)
        written = {path.name for path in (tmp_path / "two" / name).iterdir()}
        assert written == {"last.pt", "best.pt", "metrics.jsonl"}


def test_members_spread_over_processes_train_as_in_one(tmp_path: Path) -> None:
    common: dict[str, Any] = {
        "optimizer": "sgd", "learning_rate": 1e-4, "batch_size": 60, "samples_per_class": 12, "epochs": 1,
        "embedding_dim": 16, "tensorboard": False, "log_every": 1, "attack_steps": 2, "members": 3,
        "proxy_lr_scale": 1.0, "inference": "concatenate",
    }  # fmt: skip
    jobs: dict[str, dict[str, Any]] = {
        # Three members over two processes: one has two of them, and attacks' gradients are summed.
        "eat": {**common, "method": "eat"},
        # Batches and attacks of each member's own.
        "ensemble": {**common, "method": "ensemble", "batch_size": 20, "samples_per_class": 4},
        # Attacks whose noise is drawn for the whole batch.
        "prototypes": {
            "adversarial": "both", "epsilon": 0.1, "random_start": 0.1,
            **{name: common[name] for name in common if name not in ("members", "proxy_lr_scale", "inference")},
            "method": "prototypes",
        },
        # Losses that draw, and a generator that rests at first while its weight decay would not.
        "hard negatives": {
            **common, "method": "eat", "loss": "triplet", "epochs": 2, "hard_negatives": True, "weight_decay": 10.0,
            "hard_negatives_pretrain": 1, "energy_confusion": 0.1, "energy_confusion_pairs": 5,
        },
    }  # fmt: skip
    for one, two in _trained_alone_and_by_two(tmp_path, jobs).values():
        assert one.checkpoint["step"] == two.checkpoint["step"] > 10
        torch.testing.assert_close(two.checkpoint["method"], one.checkpoint["method"], rtol=1e-4, atol=1e-4)
        for first, second in zip(one.curve, two.curve, strict=True):
            # The parts of a member's loss are logged in one process alone.
            figures = [{k: row[k] for k in first if k in second and k != "kind"} for row in (first, second)]
            assert len(figures[0]) >= 3
            assert figures[1] == pytest.approx(figures[0], rel=1e-3, abs=1e-4)


def test_a_stop_sent_to_one_process_stops_both_at_the_same_step(tmp_path: Path) -> None:
    fields = {"method": "standard", "epochs": 10_000, "tensorboard": False, "save_every": 5}
    started = _start(2, {str(tmp_path): fields})
    deadline = time.monotonic() + 120
    while not (tmp_path / "last.pt").exists():
        assert time.monotonic() < deadline and all(process.poll() is None for process in started)
        time.sleep(0.1)
    started[1].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=60)[1].decode() for process in started]
    assert all("InterruptedRunError: stopped after step" in text for text in errors), errors
    steps = {text.split("stopped after step ")[1].split(";")[0] for text in errors}
    assert steps == {str(load_checkpoint(tmp_path / "last.pt")["step"])}


def test_alone_nothing_is_communicated() -> None:
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.ones(3)
    ALONE.sum_gradients([weight])
    ALONE.barrier()
    assert torch.equal(weight.grad, torch.ones(3))
    assert ALONE.writes and not Processes(1, 2, torch.device("cpu")).writes


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x"])
def test_a_wrong_device_is_refused(name: str) -> None:
    with pytest.raises(RunRefusedError, match="device must be auto, cpu, cuda"):
        start_processes(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is missing where there is no GPU")
def test_cuda_without_a_gpu_is_refused() -> None:
    with pytest.raises(RunRefusedError, match="no GPU"):
        start_processes("cuda")
    assert start_processes("auto").device.type == "cpu"
