"""`pair_loss`: wrong arguments are named, by the function and by the kernel itself; what it needs of memory."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from strategies import DEVICES

from python_tests.memory import PEAK_KIB
from robustdml_ext.ops.pair_loss import pair_loss

INTEGERS = torch.arange(3)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": torch.rand(3)}, ValueError, "embeddings: expected 2 dimension"),
        ({"embeddings": [[1.0]]}, TypeError, "embeddings: expected a tensor"),
        ({"embeddings": torch.ones(3, 4, dtype=torch.int64)}, TypeError, "embeddings: expected dtype float32"),
        ({"labels": torch.zeros(3)}, TypeError, "labels: expected dtype int64"),
        ({"labels": torch.arange(4)}, ValueError, r"labels: expected \[B\] with B = 3 on cpu"),
        ({"labels": INTEGERS[:, None]}, ValueError, r"labels: expected \[B\]"),
        ({"kind": "proxy"}, ValueError, "kind: expected one of contrastive, binomial, .*; got 'proxy'"),
        ({"parameters": (1.0,)}, ValueError, "parameters: expected finite numbers for npair: none"),
        ({"kind": "lifted", "parameters": (1.0, float("nan"))}, ValueError, "for lifted: neg_margin, pos_margin"),
        ({"kind": "contrastive", "parameters": (0, 1, 3)}, ValueError, "power: expected 1 or 2, got 3"),
        ({"kind": "multi_similarity", "parameters": (0, 1, 0, 0)}, ValueError, "alpha and beta above 0"),
        ({"squared": True}, ValueError, "squared: npair has no squared distances"),
        ({"reduction": "nonzero"}, ValueError, "reduction: expected mean or sum for npair, got 'nonzero'"),
        ({"reduction": "none"}, ValueError, "reduction: expected mean or sum"),
        ({"reference": torch.rand(5, 4)}, ValueError, "reference_labels: expected with reference"),
        ({"reference_labels": INTEGERS}, ValueError, "reference: expected with reference"),
        ({"self_offset": 0}, ValueError, "reference: expected with reference"),
        ({"reference": torch.rand(3, 5), "reference_labels": INTEGERS}, ValueError, r"\[M, D\] with D = 4"),
        ({"reference": torch.rand(3, 4).half(), "reference_labels": INTEGERS}, TypeError, "reference: expected dtype"),
        ({"reference": torch.rand(5, 4), "reference_labels": INTEGERS}, ValueError, r"\[M\] with M = 5"),
        (
            {"reference": torch.rand(3, 4), "reference_labels": INTEGERS, "self_offset": 1},
            ValueError,
            "self_offset: expected 0 to M − B = 0, or None; got 1",
        ),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {"embeddings": torch.rand(3, 4), "labels": INTEGERS, "kind": "npair"}
    with pytest.raises(error, match=message):
        pair_loss(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::pair_loss", "CPU"), reason="no kernel to guard"
)
@pytest.mark.parametrize(
    "changes",
    [
        {0: torch.rand(3)},
        {1: torch.arange(4)},
        {1: torch.zeros(3)},
        {2: torch.rand(5, 4)},
        {2: torch.rand(5, 3), 3: torch.arange(5)},
        {2: torch.rand(5, 4).double(), 3: torch.arange(5)},
        {2: torch.rand(5, 4), 3: torch.arange(4)},
        {2: torch.rand(5, 4), 3: torch.arange(5), 4: 3},
        {5: "proxy"},
        {6: [0.0]},
        {9: "average"},
    ],
)
def test_the_kernel_itself_guards_memory(changes: dict[int, object]) -> None:
    arguments: list[object] = [torch.rand(3, 4), INTEGERS, None, None, -1, "lifted", [1.0, 0.0], False, False, "mean"]
    saved = torch.zeros(4, 4, dtype=torch.float64)
    for place, value in changes.items():
        arguments[place] = value
    with pytest.raises(RuntimeError):
        torch.ops.robustdml.pair_loss(*arguments)
    with pytest.raises(RuntimeError):
        torch.ops.robustdml.pair_loss_backward(torch.ones(()), *arguments, saved, False)


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::pair_loss", "CPU"), reason="no kernel to guard"
)
def test_the_kernel_guards_what_its_forward_pass_saved() -> None:
    arguments = [torch.rand(3, 4), INTEGERS, None, None, -1, "lifted", [1.0, 0.0], False, False, "mean"]
    for saved in (torch.zeros(4, 3, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64), torch.zeros(4, 4)):
        with pytest.raises(RuntimeError):
            torch.ops.robustdml.pair_loss_backward(torch.ones(()), *arguments, saved, False)


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::pair_loss", "CPU"),
    reason="the reference makes every triplet",
)
@pytest.mark.parametrize("device", DEVICES)
def test_more_triplets_than_32_bits_count(device: str) -> None:
    """Two classes, at 0 and at 1: with margin 2 every triplet adds 0 − 1 + 2 = 1, and so the sum is their number."""
    size = 4096
    labels = torch.arange(size, device=device) % 2
    x = labels[:, None].double().requires_grad_()
    arguments = {"kind": "triplet_all", "parameters": (2.0,), "squared": True}
    total = pair_loss(x, labels, reduction="sum", **arguments)  # type: ignore[arg-type]
    assert total.item() == size * (size // 2 - 1) * (size // 2) > 2**31
    for reduction in ("mean", "nonzero"):
        assert pair_loss(x.float(), labels, reduction=reduction, **arguments).item() == 1  # type: ignore[arg-type]
    # Σ over triplets of x_i(1 − x_i)…: each of the two classes is pushed from the other by twice its triplets.
    (gradient,) = torch.autograd.grad(total, x)
    push = 2 * 2 * (size // 2 - 1) * (size // 2)
    assert torch.equal(gradient[:, 0], torch.where(labels == 0, 1.0, -1.0).double() * push)


PEAK = (
    PEAK_KIB
    + """
import sys, torch
from robustdml_ext.ops.pair_loss import pair_loss
torch.set_num_threads(1)
kind, parameters = sys.argv[1], [float(each) for each in sys.argv[2:]]
def step(size):
    x = torch.randn(size, 32, requires_grad=True)
    labels = torch.arange(size) // 4
    pair_loss(x, labels, kind, parameters=parameters, normalize=True).backward()
    return peak_kib()
before = step(256)
print((step(16384) - before) // 1024)
"""
)


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::pair_loss", "CPU"),
    reason="the reference makes tensors of all pairs",
)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak as Linux counts it")
@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("multi_similarity", (2, 40, 0.5, 0.1)), ("lifted", (1, 0)), ("triplet_all", (0.1,)), ("contrastive", (0, 1, 1))],
)
def test_memory_grows_with_the_batch_not_with_its_pairs(kind: str, parameters: tuple[float, ...]) -> None:
    """16,384 embeddings: a tensor of their pairs takes 1,024 MiB; embeddings, gradients and statistics 8 MiB."""
    command = [sys.executable, "-c", PEAK, kind, *map(str, parameters)]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(finished.stdout) < 64, f"{finished.stdout.strip()} MiB"


@pytest.mark.skipif(
    not torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::pair_loss", "CPU"),
    reason="the reference does not look",
)
def test_an_anchors_own_row_has_its_label() -> None:
    x, labels = torch.rand(3, 4), torch.tensor([0, 1, 2])
    with pytest.raises(RuntimeError, match="anchor 1 has label 1, but its own row of the reference, 1, has 5"):
        pair_loss(x, labels, "npair", reference=x, reference_labels=torch.tensor([0, 5, 2]), self_offset=0)
