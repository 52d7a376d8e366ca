"""`pgd_step`: the kernel against its reference and a float64 form; ball, pixel range, layouts, modes of PyTorch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, image_shapes, in_layout, layouts, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from robustdml_ext import ops
from robustdml_ext.ops.pgd_step import pgd_step_reference

NORMS = ["linf", "l2"]


def exact_step(x: Tensor, g: Tensor, clean: Tensor, epsilon: Tensor, step: Tensor, norm: str, maximize: bool) -> Tensor:
    """The definition, sample by sample, in float64."""
    result = []
    direction = 1.0 if maximize else -1.0
    for i in range(len(x)):
        xi, gi, ci = x[i].double(), g[i].double(), clean[i].double()
        eps, alpha = float(epsilon[i]), direction * float(step[i])
        if norm == "linf":
            moved = (xi + alpha * gi.sign()).clamp(ci - eps, ci + eps)
        else:
            length = gi.norm().item() if gi.numel() else 0.0
            offset = xi - ci + (alpha / length * gi if length > 1e-37 else 0.0)
            distance = offset.norm().item() if gi.numel() else 0.0
            moved = ci + offset * min(1.0, eps / distance if distance > 0 else math.inf)
        result.append(moved.clamp(0, 1))
    return torch.stack(result) if result else x.double()


@given(
    image_shapes(), dtypes(), devices(), layouts(), st.sampled_from(NORMS), st.booleans(), st.booleans(), seeds(),
    st.sampled_from([0.0, 1e-30, 1.0, 1e30]),
)  # fmt: skip
def test_step_is_its_definition(
    shape: tuple[int, ...], dtype: torch.dtype, device: str, layout: str, norm: str, maximize: bool,
    per_sample: bool, seed: int, gradient_size: float,
) -> None:  # fmt: skip
    if dtype in (torch.float16, torch.bfloat16) and gradient_size not in (0.0, 1.0):
        gradient_size = 1.0
    clean = values(shape, dtype, device, seed, 0.3).add(0.5).clamp(0, 1)
    x = in_layout((clean + values(shape, dtype, device, seed + 1, 0.02)).clamp(0, 1), layout)
    gradient = values(shape, dtype, device, seed + 2, gradient_size)
    wide = torch.promote_types(dtype, torch.float32)
    # Every second one of twice as many: at a stride of its own.
    epsilon = torch.linspace(0, 0.1, 2 * shape[0], dtype=wide, device=device)[::2] if per_sample else 0.05
    step = torch.linspace(0.08, 0, shape[0], dtype=wide, device=device) if per_sample else 0.03

    actual = ops.pgd_step(x, gradient, clean, epsilon=epsilon, step_size=step, norm=norm, maximize=maximize)

    full = [torch.as_tensor(v, dtype=torch.float64).expand(shape[0]).cpu() for v in (epsilon, step)]
    exact = exact_step(x.cpu(), gradient.cpu(), clean.cpu(), *full, norm, maximize)
    sign = 1.0 if maximize else -1.0
    plain = pgd_step_reference(
        x, gradient, clean, epsilon if per_sample else None, sign * step if per_sample else None,
        0.05, sign * 0.03, norm, 0.0, 1.0,
    )  # fmt: skip
    assert_as_good_as(actual, plain, exact, what=norm)
    assert actual.dtype == dtype and actual.stride() == torch.empty_like(x).stride()
    assert not actual.numel() or (actual.min() >= 0 and actual.max() <= 1)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
def test_past_the_size_that_is_written_around_the_cache(norm: str, device: str) -> None:
    clean = values((3, 3, 611, 613), torch.float32, device, 0, 0.2).add(0.5).clamp(0, 1)
    x, gradient = (clean + 0.01).clamp(0, 1), values(clean.shape, torch.float32, device, 1)
    actual = ops.pgd_step(x, gradient, clean, epsilon=0.03, step_size=0.02, norm=norm)
    plain = pgd_step_reference(x, gradient, clean, None, None, 0.03, -0.02, norm, 0.0, 1.0)
    radius = torch.full((3,), 0.03)
    exact = exact_step(x.cpu(), gradient.cpu(), clean.cpu(), radius, torch.full((3,), 0.02), norm, False)
    assert_as_good_as(actual, plain, exact)


@given(image_shapes(4000), devices(), layouts(), st.sampled_from(NORMS), seeds())
def test_in_place_is_the_same(shape: tuple[int, ...], device: str, layout: str, norm: str, seed: int) -> None:
    clean = values(shape, torch.float32, device, seed, 0.3).add(0.5).clamp(0, 1)
    gradient = values(shape, torch.float32, device, seed + 1)
    x = in_layout(clean.clone(), "contiguous" if layout == "expanded" else layout)
    expected = ops.pgd_step(x, gradient, clean, epsilon=0.1, step_size=0.04, norm=norm)
    returned = ops.pgd_step_(x, gradient, clean, epsilon=0.1, step_size=0.04, norm=norm)
    assert returned is x and torch.equal(x, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_stay_in_the_ball_and_minimize(device: str) -> None:
    clean = values((4, 3, 9, 9), torch.float32, device, 0, 0.3).add(0.5).clamp(0, 1)
    goal = values((4, 3, 9, 9), torch.float32, device, 1, 0.3).add(0.5).clamp(0, 1)
    for norm, distance in (("linf", lambda d: d.abs().amax()), ("l2", lambda d: d.norm(dim=1).amax())):
        x = clean.clone()
        for _ in range(20):
            ops.pgd_step_(x, 2 * (x - goal), clean, epsilon=0.2, step_size=0.03, norm=norm)
        assert distance((x - clean).flatten(1)) <= 0.2 + 1e-6
        assert (x - goal).square().sum() < (clean - goal).square().sum()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
def test_nan_in_an_image_stays_and_nan_in_a_gradient_does_not_spread(norm: str, device: str) -> None:
    clean = torch.full((2, 40), 0.5, device=device)
    broken = clean.clone()
    broken[0, 3] = torch.nan
    gradient = torch.ones_like(clean)
    result = ops.pgd_step(broken, gradient, clean, epsilon=0.1, step_size=0.1, norm=norm)
    assert result[0, 3].isnan() and not result[1].isnan().any()
    for value in (torch.nan, torch.inf):
        gradient[0, 5] = value
        result = ops.pgd_step(clean, gradient, clean, epsilon=0.1, step_size=0.1, norm=norm)
        assert not result.isnan().any() and (result[1] < 0.5).all()
        if norm == "l2":
            assert torch.equal(result[0], clean[0]), "no direction, no step"
        else:
            assert result[0, 5] == (0.5 if value != value else 0.4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
def test_opcheck_and_compile(norm: str, device: str) -> None:
    x, gradient, clean = (values((3, 2, 5, 5), torch.float32, device, s, 0.2).add(0.5) for s in range(3))
    arguments = (x, gradient, clean, None, None, 0.1, 0.05, norm, 0.0, 1.0)
    torch.library.opcheck(torch.ops.robustdml.pgd_step.default, arguments)
    torch.library.opcheck(torch.ops.robustdml.pgd_step_.default, arguments)

    def step(x: Tensor, gradient: Tensor, clean: Tensor) -> Tensor:
        return ops.pgd_step(x * 1.0, gradient, clean, epsilon=0.1, step_size=0.05, norm=norm) + 1

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, gradient, clean), step(x, gradient, clean))


def test_result_does_not_depend_on_threads() -> None:
    clean = values((5, 3, 64, 64), torch.float32, "cpu", 0, 0.2).add(0.5).clamp(0, 1)
    gradient = values(clean.shape, torch.float32, "cpu", 1)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(ops.pgd_step(clean, gradient, clean, epsilon=0.5, step_size=0.3, norm="l2"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_autocast_and_gradients_leave_it_alone() -> None:
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = ops.pgd_step(x, torch.ones_like(x), x, epsilon=0.1, step_size=0.1)
    assert result.dtype == torch.float32 and not result.requires_grad


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"adversarial": [1.0]}, TypeError, "adversarial: expected a tensor"),
        ({"gradient": torch.rand(2, 4)}, ValueError, "gradient: expected it like adversarial"),
        ({"gradient": torch.rand(2, 3).double()}, TypeError, "gradient: expected dtype float32"),
        ({"clean": torch.zeros(2, 3, dtype=torch.int64)}, TypeError, "clean: expected dtype"),
        ({"norm": "l1"}, ValueError, "norm: expected 'linf' or 'l2', got 'l1'"),
        ({"epsilon": -0.1}, ValueError, "epsilon: expected a number >= 0"),
        ({"epsilon": math.nan}, ValueError, "epsilon: expected a number >= 0"),
        ({"epsilon": torch.tensor([0.1, -0.1])}, ValueError, "epsilon: expected numbers >= 0"),
        ({"step_size": torch.rand(3)}, ValueError, r"step_size: expected shape \[B\] = \[2\]"),
        ({"minimum": 2.0}, ValueError, "expected minimum <= maximum"),
        ({"adversarial": torch.tensor(0.5)}, ValueError, "expected a batch"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, object], error: type[Exception], message: str) -> None:
    x = torch.rand(2, 3)
    arguments: dict[str, object] = {"adversarial": x, "gradient": x, "clean": x, "epsilon": 0.1, "step_size": 0.1}
    with pytest.raises(error, match=message):
        ops.pgd_step(**{**arguments, **changes})  # type: ignore[arg-type]


def test_in_place_refuses_a_tensor_that_requires_a_gradient() -> None:
    x = torch.rand(2, 3, requires_grad=True)
    with pytest.raises(ValueError, match="detach it first"):
        ops.pgd_step_(x, torch.rand(2, 3), torch.rand(2, 3), epsilon=0.1, step_size=0.1)


@pytest.mark.parametrize("norm", NORMS)
def test_matches_its_reference_on_the_kernel_free_path(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registered reference is what runs where no kernel is: the meta device takes it to the right shape."""
    x = torch.empty(2, 3, 4, device="meta")
    assert ops.pgd_step(x, x, x, epsilon=0.1, step_size=0.1, norm=norm).shape == x.shape
