"""`proxy_loss` as an operator: compiled, autocast, threads, memory, wrong arguments."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from proxy_loss_cases import CONSTANTS
from strategies import DEVICES, values
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext import _load
from robustdml_ext.ops.proxy_loss import KINDS, proxy_loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_compile_autocast(kind: str, device: str) -> None:
    e, p = values((6, 33), torch.float32, device, 0).requires_grad_(), values((8, 33), torch.float32, device, 1)
    p.requires_grad_()
    labels = torch.randint(8, (6,)).to(device)
    scale, margin = CONSTANTS[kind]
    arguments = (e, p, labels, kind, scale, margin)
    torch.library.opcheck(torch.ops.robustdml.proxy_loss.default, arguments)
    statistics = torch.ops.robustdml.proxy_loss(*(a.detach() if isinstance(a, Tensor) else a for a in arguments))[1]
    torch.library.opcheck(
        torch.ops.robustdml.proxy_loss_backward.default,
        (torch.ones((), device=device), e.detach(), p.detach(), labels, statistics, kind, scale, margin, True, False),
    )

    def loss(e: Tensor, p: Tensor) -> Tensor:
        return proxy_loss(e * 2, p, labels, kind=kind, scale=scale, margin=margin)

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        torch.autograd.grad(compiled(e, p), (e, p)), torch.autograd.grad(loss(e, p), (e, p)), strict=True
    ):
        assert torch.equal(actual, expected)
    expected = loss(e, p)
    with torch.autocast(device, dtype=torch.bfloat16):
        actual = loss(e, p)
        actual.backward()
    assert actual.dtype == torch.float32 and torch.equal(actual, expected)
    layer = torch.nn.Linear(33, 16).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        half = proxy_loss(layer(e), layer(p), labels, kind=kind, scale=scale, margin=margin)
    assert half.dtype == torch.float32


@pytest.mark.skipif(not _load.status()["cpu"]["live"], reason="the reference's matrix products depend on threads")
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_for_every_number_of_threads(kind: str) -> None:
    e, p = values((300, 40), torch.float32, "cpu", 0), values((3000, 40), torch.float32, "cpu", 1)
    labels = torch.arange(300) * 9
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            leaves = [e.clone().requires_grad_(), p.clone().requires_grad_()]
            loss = proxy_loss(*leaves, labels, kind=kind, scale=16.0, margin=0.3)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


MEMORY = (
    PEAK_KIB
    + """
import torch
torch.set_num_threads(1)
from robustdml_ext import _load
from robustdml_ext.ops.proxy_loss import proxy_loss
def step(batch, classes):
    e = torch.randn(batch, 8, requires_grad=True)
    p = torch.randn(classes, 8, requires_grad=True)
    for kind in ("arcface", "proxy_anchor"):
        proxy_loss(e, p, torch.arange(batch), kind=kind, scale=16.0, margin=0.1).backward()
step(8, 64)
before = peak_kib()
step(1000, 100_000)
print(_load.status()["cpu"]["live"], (peak_kib() - before) // 1024)
"""
)


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux counts it")
def test_no_tensor_of_all_similarities() -> None:
    finished = subprocess.run(
        [sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    live, megabytes = finished.stdout.split()
    if live == "True":  # the reference holds it: 400 MB
        assert int(megabytes) < 60, f"{megabytes} MB more at the peak"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": torch.rand(3)}, ValueError, "embeddings: expected 2 dimension"),
        ({"embeddings": torch.rand(0, 4)}, ValueError, r"embeddings: expected \[B, D\] with B >= 1"),
        ({"proxies": torch.rand(5, 5)}, ValueError, r"proxies: expected \[C, D\] with C >= 1 and D = 4"),
        ({"proxies": torch.rand(0, 4)}, ValueError, "proxies: expected"),
        ({"proxies": torch.rand(5, 4).double()}, TypeError, "proxies: expected dtype float32"),
        ({"labels": torch.zeros(3)}, TypeError, "labels: expected dtype int64"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, ValueError, r"labels: expected shape \[B\] = \[3\]"),
        ({"labels": torch.tensor([0, 5, 1])}, ValueError, "labels: expected 0 to 4, got 0 to 5"),
        ({"labels": torch.tensor([0, -1, 1])}, ValueError, "labels: expected 0 to 4, got -1 to 1"),
        ({"labels": torch.tensor([0, 2**62, 1])}, ValueError, "labels: expected 0 to 4"),
        ({"kind": "softmax"}, ValueError, "kind: expected one of arcface, normalized_softmax, proxy_anchor"),
        ({"scale": 0.0}, ValueError, "scale: expected a finite number above 0, got 0.0"),
        ({"margin": 3.2}, ValueError, "margin: expected an angle"),
        ({"kind": "proxy_anchor", "margin": math.inf}, ValueError, "margin: expected a finite number"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "embeddings": torch.rand(3, 4), "proxies": torch.rand(5, 4), "labels": torch.tensor([0, 4, 1]),
        "kind": "arcface", "scale": 16.0, "margin": 0.5,
    }  # fmt: skip
    with pytest.raises(error, match=message):
        proxy_loss(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(not _load.status()["cpu"]["live"], reason="the kernel is not there")
@pytest.mark.parametrize("label", [-1, 3, 2**62, -(2**63)])
def test_the_kernel_itself_guards_memory(label: int) -> None:
    e, p = torch.rand(2, 4), torch.rand(3, 4)
    with pytest.raises(RuntimeError):
        torch.ops.robustdml.proxy_loss(e, p, torch.tensor([0, label]), "arcface", 16.0, 0.5)
    with pytest.raises(RuntimeError):
        torch.ops.robustdml.proxy_loss_backward(
            torch.ones(()), e, p, torch.tensor([0, 1]), torch.zeros(2, 1), "arcface", 16.0, 0.5, True, True
        )
