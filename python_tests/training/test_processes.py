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
from typing import Any

import pytest
import torch
from training.tiny import ALONE

from robustdml_ext.training import Processes, RunRefusedError, start_processes
from robustdml_ext.training.checkpoint import load_checkpoint

_TRAIN = """
import json, sys
from pathlib import Path
import torch
from robustdml_ext.assemble import assemble
from robustdml_ext.recipes import resolve
from robustdml_ext.training import Trainer, start_processes, stop_processes

torch.set_num_threads(1)
folder, fields = Path(sys.argv[1]), json.loads(sys.argv[2])
processes = start_processes("cpu")
job = assemble(resolve(fields.pop("method"), fields), processes)
if processes.writes:
    folder.mkdir(parents=True, exist_ok=True)
processes.barrier()
trainer = Trainer(job.method, job.batches, job.recipe, folder, processes, job.context, job.precision)
try:
    trainer.run(go_on=(folder / "last.pt").exists())
finally:
    stop_processes()
"""


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _start(folder: Path, world_size: int, fields: dict[str, Any]) -> list[subprocess.Popen[bytes]]:
    port = str(_free_port())
    started = []
    for rank in range(world_size):
        environment = {
            **os.environ,
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world_size),
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-c", _TRAIN, str(folder), json.dumps(fields)]
        started.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE))
    return started


def _finish(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors.decode()


@pytest.mark.parametrize(
    "fields",
    [
        # Centers of the loss, two auxiliary norms, and noise drawn for the whole batch.
        {"method": "mdprop", "targets": [1, 5], "loss": "arcface", "random_start": 0.01},
    ],
)
def test_two_processes_equal_one(tmp_path: Path, fields: dict[str, Any]) -> None:
    # Plain gradient descent shows a wrong scale of the gradient, which Adam would hide.
    descent = {
        "optimizer": "sgd",
        "learning_rate": 0.01,
        "batch_size": 40,
        "samples_per_class": 8,
        "epochs": 1,
    }
    common = {**descent, "embedding_dim": 16, "tensorboard": False, "log_every": 1}
    for world_size in (1, 2):
        _finish(_start(tmp_path / str(world_size), world_size, {**common, **fields}))
    one, two = (load_checkpoint(tmp_path / name / "last.pt") for name in ("1", "2"))
    assert one["step"] == two["step"] == 22
    for name, weight in one["method"].items():
        torch.testing.assert_close(
            two["method"][name], weight, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    curves = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("1", "2")]
    for first, second in zip(*curves, strict=True):
        assert json.loads(second)["loss"] == pytest.approx(json.loads(first)["loss"], abs=1e-5)
    names = {path.name for path in (tmp_path / "2").iterdir()}
    assert names == {"last.pt", "best.pt", "metrics.jsonl"}


def test_a_stop_sent_to_one_process_stops_both_at_the_same_step(tmp_path: Path) -> None:
    fields = {"method": "standard", "epochs": 10_000, "tensorboard": False, "save_every": 5}
    started = _start(tmp_path, 2, fields)
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
