"""`proxy_loss`: values and gradients against each paper's equation in float64, all dtypes, shapes, modes, extremes."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext import _load
from robustdml_ext.ops._proxy_loss_reference import proxy_loss_backward_reference, proxy_loss_reference
from robustdml_ext.ops.proxy_loss import KINDS, proxy_loss

CONSTANTS = {"arcface": (16.0, 0.5), "normalized_softmax": (20.0, 0.0), "proxy_anchor": (32.0, 0.1)}


def unit(rows: Tensor) -> Tensor:
    norm = rows.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, rows / torch.where(norm > 0, norm, 1.0), 0.0)


def exact_loss(e: Tensor, p: Tensor, labels: Tensor, kind: str, scale: float, margin: float) -> Tensor:
    """The papers' equations in float64, one class or one embedding after the other."""
    cosines = unit(e.double()) @ unit(p.double()).T
    batch, classes = cosines.shape
    if kind == "proxy_anchor":
        pull, push, present = e.new_zeros((), dtype=torch.float64), e.new_zeros((), dtype=torch.float64), 0
        for c in range(classes):
            positive, negative = cosines[labels == c, c], cosines[labels != c, c]
            present += int(len(positive) > 0)
            pull = pull + torch.cat([-scale * (positive - margin), positive.new_zeros(1)]).logsumexp(0)
            push = push + torch.cat([scale * (negative + margin), negative.new_zeros(1)]).logsumexp(0)
        return pull / present + push / classes
    losses = []
    for i in range(batch):
        own = cosines[i, labels[i]]
        if kind == "arcface":
            angle = torch.arccos(own.clamp(-1 + 1e-15, 1 - 1e-15))
            own = torch.cos(angle + margin) if angle < math.pi - margin else own - margin * math.sin(margin)
        others = torch.arange(classes, device=e.device) != labels[i]
        logits = scale * torch.cat([own[None], cosines[i, others]])
        losses.append(logits.logsumexp(0) - logits[0])
    return torch.stack(losses).mean()


def check(e: Tensor, p: Tensor, labels: Tensor, kind: str, scale: float, margin: float) -> None:
    """Value and both gradients against float64, as good as plain PyTorch's."""
    factor = 0.75
    leaves = [e.detach().requires_grad_(), p.detach().requires_grad_()]
    actual = proxy_loss(*leaves, labels, kind=kind, scale=scale, margin=margin)
    (factor * actual).backward()
    exact_leaves = [t.detach().double().requires_grad_() for t in leaves]
    exact = exact_loss(*exact_leaves, labels, kind, scale, margin)
    (factor * exact).backward()
    plain, statistics = proxy_loss_reference(e.detach(), p.detach(), labels, kind, scale, margin)
    plain_gradients = proxy_loss_backward_reference(
        plain.new_tensor(factor), e.detach(), p.detach(), labels, statistics, kind, scale, margin, True, True
    )
    assert actual.dtype == torch.promote_types(e.dtype, torch.float32)
    # Logits are rounded before they nearly cancel.
    size = scale * (1 + margin)
    assert_as_good_as(actual.detach(), plain, exact.detach(), what="loss", terms=size)
    for name, leaf, plain_gradient, exact_leaf in zip(
        ("embeddings", "proxies"), leaves, plain_gradients, exact_leaves, strict=True
    ):
        assert leaf.grad is not None and exact_leaf.grad is not None and leaf.grad.dtype == leaf.dtype
        # The part along the row cancels: what is left is rounded as the whole was.
        whole = factor * size / exact_leaf.detach().norm(dim=1).clamp(min=1e-30).min().item()
        whole = whole / (len(e) if name == "proxies" and kind != "proxy_anchor" else 1)
        # And exp(x) knows no more digits of itself than x has behind the point.
        terms = max(0.1 * whole, 0.25 * size * exact_leaf.grad.abs().max().item()) if leaf.numel() else 0.0
        assert_as_good_as(leaf.grad, plain_gradient, exact_leaf.grad, what=f"gradient of {name}", terms=terms)


@given(
    st.sampled_from([1, 2, 5, 12, 33, 97, 119, 120, 121, 250]),
    st.sampled_from([1, 2, 7, 47, 48, 49, 96, 97, 200, 900]),
    st.sampled_from([1, 3, 16, 31, 32, 33, 64, 129]), st.sampled_from(KINDS), dtypes(), devices(),
    st.sampled_from(["contiguous", "sliced", "transposed"]), seeds(), st.sampled_from([1e-20, 1.0, 1e20]),
    st.sampled_from(["random", "one", "distinct"]),
)  # fmt: skip
def test_value_and_gradients_are_the_equations(
    batch: int, classes: int, width: int, kind: str, dtype: torch.dtype, device: str, layout: str, seed: int,
    spread: float, which: str,
) -> None:  # fmt: skip
    spread = 1.0 if dtype == torch.float16 else spread
    e = in_layout(values((batch, width), dtype, device, seed, spread), layout)
    p = in_layout(values((classes, width), dtype, device, seed + 1, 1 / spread), layout)
    generator = torch.Generator().manual_seed(seed)
    labels = {
        "random": torch.randint(classes, (batch,), generator=generator),
        "one": torch.full((batch,), classes - 1),
        "distinct": torch.arange(batch) % classes,
    }[which].to(device)
    check(e, p, labels, kind, *CONSTANTS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_many_classes(kind: str, device: str) -> None:
    """So many that the CPU kernel's tasks have several blocks of classes each, with largest logits of their own."""
    e, p = values((150, 6), torch.float32, device, 0), values((2500, 6), torch.float32, device, 1)
    check(e, p, (torch.arange(150) * 16).to(device), kind, *CONSTANTS[kind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES)
def test_gradients_of_parts_of_the_batch_add_up(kind: str, dtype: torch.dtype, device: str) -> None:
    """So wide and so many rows that the CPU kernel takes the batch in parts."""
    e = values((550, 4100), dtype, device, 0)
    p = values((800, 4100), dtype, device, 1)
    labels = (torch.arange(550) * 7 % 800).to(device)
    check(e, p, labels, kind, *CONSTANTS[kind])


@pytest.mark.parametrize("scale", [1.0, 64.0, 1000.0])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_large_scales_do_not_overflow(kind: str, scale: float, device: str) -> None:
    e = values((40, 8), torch.float32, device, 0)
    p = torch.cat([e[:20], -e[20:], values((60, 8), torch.float32, device, 1)]).requires_grad_()
    e.requires_grad_()
    loss = proxy_loss(e, p, torch.arange(40, device=device), kind=kind, scale=scale, margin=CONSTANTS[kind][1])
    loss.backward()
    exact = exact_loss(e, p, torch.arange(40, device=device), kind, scale, CONSTANTS[kind][1])
    assert loss.item() == pytest.approx(exact.item(), rel=1e-4)
    assert e.grad is not None and p.grad is not None and e.grad.isfinite().all() and p.grad.isfinite().all()


@pytest.mark.parametrize("margin", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_gradcheck(kind: str, margin: float, device: str) -> None:
    e, p = values((9, 5), torch.float64, device, 0), values((6, 5), torch.float64, device, 1)
    p[2] = -e[3] + 0.01 * p[2]  # beyond ArcFace's π − m
    labels = torch.tensor([0, 1, 1, 2, 3, 3, 3, 5, 0], device=device)
    assert torch.autograd.gradcheck(
        lambda e, p: proxy_loss(e, p, labels, kind=kind, scale=4.0, margin=margin),
        (e.requires_grad_(), p.requires_grad_()),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_zero_rows_stay_zero(kind: str, dtype: torch.dtype, device: str) -> None:
    e, p = values((6, 7), dtype, device, 0), values((5, 7), dtype, device, 1)
    e[1], p[0], p[3] = 0, 0, 0
    check(e, p, torch.tensor([0, 0, 1, 2, 3, 4], device=device), kind, *CONSTANTS[kind])
    leaves = [e.clone().requires_grad_(), p.clone().requires_grad_()]
    labels = torch.tensor([0, 0, 1, 2, 3, 4], device=device)
    proxy_loss(*leaves, labels, kind=kind, scale=8.0, margin=0.2).backward()
    assert not leaves[0].grad[1].any() and not leaves[1].grad[0].any() and not leaves[1].grad[3].any()  # type: ignore


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_identical_points_and_no_width(kind: str, device: str) -> None:
    labels = torch.arange(5, device=device)
    for e, p in [(torch.ones(5, 4), torch.ones(6, 4)), (torch.ones(5, 4), -torch.ones(6, 4)), (torch.ones(5, 0),) * 2]:
        e, p = e.to(device).clone().requires_grad_(), p.to(device).clone().requires_grad_()
        loss = proxy_loss(e, p, labels, kind=kind, scale=30.0, margin=0.3)
        loss.backward()
        assert loss.isfinite() and e.grad.isfinite().all() and p.grad.isfinite().all()  # type: ignore[union-attr]


@pytest.mark.parametrize("where", ["embeddings", "proxies"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_nan_reaches_the_loss(kind: str, where: str, device: str) -> None:
    for row in range(5):
        e, p = values((5, 9), torch.float32, device, 0), values((150, 9), torch.float32, device, 1)
        (e if where == "embeddings" else p)[row, 3] = torch.nan
        assert proxy_loss(e, p, torch.arange(5, device=device), kind=kind, scale=10.0, margin=0.1).isnan()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_only_the_gradient_that_is_wanted(kind: str, device: str) -> None:
    e, p = values((30, 20), torch.float32, device, 0), values((70, 20), torch.float32, device, 1)
    labels = torch.arange(30, device=device)
    both: list[Tensor] = []
    for wanted in [(True, True), (True, False), (False, True)]:
        leaves = [t.detach().clone().requires_grad_(w) for t, w in zip((e, p), wanted, strict=True)]
        proxy_loss(*leaves, labels, kind=kind, scale=10.0, margin=0.1).backward()
        if all(wanted):
            both = [leaf.grad for leaf in leaves if leaf.grad is not None]
        for leaf, gradient, want in zip(leaves, both, wanted, strict=True):
            assert torch.equal(leaf.grad, gradient) if want and leaf.grad is not None else leaf.grad is None
    # A second derivative is refused, not wrong.
    leaf = e.detach().clone().requires_grad_()
    (first,) = torch.autograd.grad(
        proxy_loss(leaf, p, labels, kind=kind, scale=10.0, margin=0.1), leaf, create_graph=True
    )
    with pytest.raises(NotImplementedError, match="proxy_loss has no second derivative"):
        first.sum().backward()


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
