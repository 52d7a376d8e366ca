"""`target_distance`: values and gradients against equation 3 written out, all norms, dtypes, layouts, modes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from robustdml_ext import ops
from robustdml_ext.ops.target_distance import target_distance_reference

NORMS = [1, 2, math.inf]


def exact_distance(f: Tensor, bank: Tensor, targets: Tensor, p: float, squared: bool) -> Tensor:
    """(1/T)·Σ_t ‖f_i − bank[targets[i, t]]‖ₚ (squared), by the [B, T, D] tensor that the operator never makes."""
    distance = torch.linalg.vector_norm(f.double()[:, None] - bank.double()[targets], ord=p, dim=2)
    return (distance.square() if squared else distance).mean(1)


dimensions = st.sampled_from([1, 2, 3, 15, 16, 17, 64, 127, 128, 129, 511, 1025, 2048])


@given(
    st.integers(0, 9), dimensions, st.integers(1, 12), st.integers(1, 11), st.sampled_from(NORMS), st.booleans(),
    dtypes(), devices(), st.sampled_from(["contiguous", "sliced", "transposed"]), seeds(),
    st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip
def test_value_and_gradient_are_equation_3(
    batch: int, width: int, rows: int, count: int, p: float, squared: bool, dtype: torch.dtype, device: str,
    layout: str, seed: int, spread: float,
) -> None:  # fmt: skip
    if dtype in (torch.float16, torch.bfloat16):
        spread = 1.0
    f = in_layout(values((batch, width), dtype, device, seed, spread), layout).detach().requires_grad_()
    bank = values((rows, width), dtype, device, seed + 1, spread)
    targets = torch.randint(rows, (batch, count), generator=torch.Generator().manual_seed(seed)).to(device)
    weight = torch.linspace(0.5, 2, batch, device=device)

    actual = ops.target_distance(f, bank, targets, p=p, squared=squared)
    (actual * weight).sum().backward()

    f64 = f.detach().double().requires_grad_()
    exact = exact_distance(f64, bank, targets, p, squared)
    (exact * weight).sum().backward()
    plain, plain_slope = target_distance_reference(f.detach(), bank, targets, p, squared)
    assert_as_good_as(actual.detach(), plain, exact.detach(), what="value")
    assert actual.dtype == torch.promote_types(dtype, torch.float32)
    assert f.grad is not None and f64.grad is not None and f.grad.dtype == dtype
    if p == math.inf and dtype in (torch.float16, torch.bfloat16):
        # Rounded components tie more often; the kernel and float64 see the same ones.
        assert_as_good_as(f.grad, (weight[:, None] * plain_slope).to(dtype), f64.grad, what="gradient")
        return
    assert_as_good_as(f.grad, (weight[:, None] * plain_slope).to(dtype), f64.grad, what="gradient")


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("device", DEVICES)
def test_derivatives(p: float, squared: bool, device: str) -> None:
    f = values((5, 7), torch.float64, device, 0).requires_grad_()
    bank = values((6, 7), torch.float64, device, 1).requires_grad_()
    targets = torch.tensor([[0, 1, 1], [2, 3, 4], [5, 0, 2], [1, 1, 1], [3, 5, 0]], device=device)

    def objective(f: Tensor, bank: Tensor) -> Tensor:
        return ops.target_distance(f, bank, targets, p=p, squared=squared)

    assert torch.autograd.gradcheck(objective, (f, bank))
    assert torch.autograd.gradgradcheck(objective, (f, bank))


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("device", DEVICES)
def test_gradient_at_the_target_is_zero_and_ties_share(p: float, squared: bool, device: str) -> None:
    bank = values((2, 9), torch.float32, device, 0)
    f = bank[:1].clone().requires_grad_()
    value = ops.target_distance(f, bank, torch.zeros(1, 1, dtype=torch.int64, device=device), p=p, squared=squared)
    value.sum().backward()
    assert value.item() == 0 and f.grad is not None and not f.grad.any()
    if p == math.inf:
        f = torch.tensor([[3.0, -3.0, 1.0, 3.0]], device=device, requires_grad=True)
        zero = torch.zeros(1, 4, device=device)
        ops.target_distance(f, zero, torch.zeros(1, 1, dtype=torch.int64, device=device), p=p, squared=False).backward()
        expected = torch.tensor([[1 / 3, -1 / 3, 0, 1 / 3]], device=device)
        assert f.grad is not None and torch.allclose(f.grad, expected)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("device", DEVICES)
def test_nan_reaches_the_value(p: float, device: str) -> None:
    f = values((2, 20), torch.float32, device, 0)
    f[0, 7] = torch.nan
    value = ops.target_distance(f, f[1:], torch.zeros(2, 1, dtype=torch.int64, device=device), p=p)
    assert value[0].isnan() and value[1] == 0


@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_compile_autocast_threads(device: str) -> None:
    f = values((6, 33), torch.float32, device, 0).requires_grad_()
    bank = values((8, 33), torch.float32, device, 1)
    targets = torch.randint(8, (6, 3)).to(device)
    torch.library.opcheck(torch.ops.robustdml.target_distance.default, (f, bank, targets, 2.0, True))

    def loss(f: Tensor) -> Tensor:
        return ops.target_distance(f * 2, bank, targets).sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    expected, actual = torch.autograd.grad(loss(f), f)[0], torch.autograd.grad(compiled(f), f)[0]
    assert torch.equal(actual, expected)
    layer = torch.nn.Linear(33, 16).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        embeddings = layer(f)
        value = ops.target_distance(embeddings, layer(bank), targets)
    assert embeddings.dtype == torch.bfloat16 and value.dtype == torch.float32
    value.sum().backward()
    before, results = torch.get_num_threads(), []
    wide, wide_bank = values((3000, 129), torch.float32, device, 2), values((50, 129), torch.float32, device, 3)
    index = torch.randint(50, (3000, 4)).to(device)
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(ops.target_distance(wide, wide_bank, index))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_one_target_that_is_the_mean_has_the_gradient_of_all() -> None:
    """For the squared l2 norm T targets pull like their mean: what the multi-target attack rests on."""
    f = values((4, 10), torch.float64, "cpu", 0).requires_grad_()
    bank, targets = values((9, 10), torch.float64, "cpu", 1), torch.randint(9, (4, 5))
    all_targets = torch.autograd.grad(ops.target_distance(f, bank, targets).sum(), f)[0]
    center = bank[targets].mean(1)
    mean_only = torch.autograd.grad(ops.target_distance(f, center, torch.arange(4)[:, None]).sum(), f)[0]
    assert torch.allclose(all_targets, mean_only, rtol=1e-12)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"embeddings": torch.rand(3)}, ValueError, "embeddings: expected 2 dimension"),
        ({"bank": torch.rand(5, 5)}, ValueError, r"bank: expected \[N, D\] with D = 4"),
        ({"bank": torch.rand(5, 4).double()}, TypeError, "bank: expected dtype float32"),
        ({"targets": torch.zeros(3, 2)}, TypeError, "targets: expected dtype int64"),
        ({"targets": torch.zeros(2, 2, dtype=torch.int64)}, ValueError, r"targets: expected \[B, T\] with B = 3"),
        ({"targets": torch.zeros(3, 0, dtype=torch.int64)}, ValueError, "T >= 1"),
        ({"targets": torch.full((3, 1), 5)}, IndexError, "rows of the bank, 0 to 4; got 5 to 5"),
        ({"targets": torch.full((3, 1), -1)}, IndexError, "rows of the bank"),
        ({"p": 3}, ValueError, "p: expected 1, 2 or inf, got 3"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "embeddings": torch.rand(3, 4), "bank": torch.rand(5, 4), "targets": torch.zeros(3, 2, dtype=torch.int64),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        ops.target_distance(**{**arguments, **changes})  # type: ignore[arg-type]


def test_the_kernel_itself_guards_memory() -> None:
    f, bank = torch.rand(2, 4), torch.rand(3, 4)
    with pytest.raises((RuntimeError, IndexError)):
        torch.ops.robustdml.target_distance(f, bank, torch.full((2, 1), 3), 2.0, True)
