"""`energy_confusion` as an operator: compiled, autocast, threads, memory, wrong arguments."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from strategies import DEVICES, values
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext.ops.energy_confusion import (
    energy_confusion,
)


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_compile_autocast_threads(device: str) -> None:
    operators = torch.ops.robustdml
    x = values((12, 33), torch.float32, device, 0).requires_grad_()
    # All distinct: then no part of the results that describe classes is left unset.
    distinct, labels = torch.randperm(12).to(device), (torch.arange(12) % 5).to(device)
    pairs = torch.tensor([[0, 1], [4, 2]], device=device)
    for chosen in (None, pairs):
        torch.library.opcheck(operators.energy_confusion.default, (x, distinct, chosen, True, False, True))
        torch.library.opcheck(operators.energy_confusion.default, (x.detach(), labels, chosen, False, True, False))
    torch.library.opcheck(operators.class_moments.default, (x, distinct))
    loss, *saved = operators.energy_confusion(x.detach(), labels, None, True, False, True)
    torch.library.opcheck(operators.energy_confusion_backward.default, (loss, x.detach(), *saved))

    def objective(x: Tensor) -> Tensor:
        return energy_confusion(x * 2, labels, logarithmic=True) + energy_confusion(x, labels, pairs=pairs)

    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    expected, actual = torch.autograd.grad(objective(x), x)[0], torch.autograd.grad(compiled(x), x)[0]
    assert torch.equal(actual, expected) and torch.equal(compiled(x), objective(x))
    layer = torch.nn.Linear(33, 16).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        features = layer(x)
        value = energy_confusion(features, labels)
    assert features.dtype == torch.bfloat16 and value.dtype == torch.float32
    torch.testing.assert_close(value, energy_confusion(features.float(), labels))
    value.backward()

    before, results = torch.get_num_threads(), []
    wide, many = values((3000, 129), torch.float32, device, 2).requires_grad_(), (torch.arange(3000) % 90).to(device)
    listed = torch.randint(90, (500, 2), generator=torch.Generator().manual_seed(0)).to(device)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            losses = [
                energy_confusion(wide, y, pairs=p, logarithmic=f)
                for y, p, f in ((many, None, False), (many, None, True), (many, listed, True), (many // 60, None, True))
            ]
            results.append([*losses, *(torch.autograd.grad(loss, wide)[0] for loss in losses)])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux counts it")
def test_memory_is_that_of_the_features() -> None:
    """8,192 rows in 4,096 classes: an N×N or C×C matrix of float64 would take 512 or 128 MB."""
    code = (
        PEAK_KIB
        + """
import torch
from robustdml_ext.ops.energy_confusion import energy_confusion
torch.set_num_threads(1)
x = torch.randn(8192, 16, requires_grad=True)
energy_confusion(x[:64], torch.arange(64) // 2, logarithmic=True).backward()
before = peak_kib()
energy_confusion(x, torch.arange(8192) // 2, logarithmic=True).backward()
print(peak_kib() - before)
"""
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(output) < 30_000, f"{output.strip()} KB more than before"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": torch.rand(3)}, ValueError, "features: expected 2 dimension"),
        ({"features": torch.zeros(3, 2, dtype=torch.int64)}, TypeError, "features: expected dtype float32"),
        ({"labels": torch.zeros(3)}, TypeError, "labels: expected dtype int64"),
        ({"labels": torch.zeros(2, dtype=torch.int64)}, ValueError, r"labels: expected \[N\] with N = 3"),
        ({"pairs": torch.zeros(3, 2)}, TypeError, "pairs: expected dtype int64"),
        ({"pairs": torch.zeros(3, 3, dtype=torch.int64)}, ValueError, r"pairs: expected \[P, 2\]"),
        ({"pairs": torch.tensor([[0, 2]])}, IndexError, "pairs: expected classes 0 to 1 of the batch, got 0 to 2"),
        ({"pairs": torch.tensor([[-1, 1]])}, IndexError, "got -1 to 1"),
        ({"reduction": "none"}, ValueError, "reduction: expected one of sum, mean, got 'none'"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {"features": torch.rand(3, 4), "labels": torch.tensor([0, 0, 1]), "pairs": None}
    with pytest.raises(error, match=message):
        energy_confusion(**{**arguments, **changes})  # type: ignore[arg-type]


def test_the_kernel_itself_guards_memory() -> None:
    operators, x, labels = torch.ops.robustdml, torch.rand(4, 3), torch.tensor([0, 0, 1, 1])
    for pairs in (torch.tensor([[0, 2]]), torch.tensor([[-1, 0]]), torch.tensor([0, 1]), torch.zeros(2, 2)):
        with pytest.raises((RuntimeError, IndexError)):
            operators.energy_confusion(x, labels, pairs, False, False, True)
    with pytest.raises(RuntimeError):
        operators.energy_confusion(x, labels[:3], None, False, False, True)
    loss, groups, scales, shifts = operators.energy_confusion(x, labels, None, False, False, True)
    for row, value in ((0, 9), (0, -1), (4, 1), (5, 7), (9, 5), (9, -1), (9, 0)):
        wrong = groups.clone()
        wrong[row] = value
        with pytest.raises(RuntimeError, match="expected what energy_confusion"):
            operators.energy_confusion_backward(loss, x, wrong, scales, shifts)
    for arguments in ((groups[:5], scales, shifts), (groups, scales[:2], shifts), (groups, scales, shifts[:, :2])):
        with pytest.raises(RuntimeError):
            operators.energy_confusion_backward(loss, x, *arguments)
