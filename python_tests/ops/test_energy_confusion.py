"""Energy confusion against equations 3, 4 and 11 written out over all rows."""

from __future__ import annotations

import pytest
import torch
from energy_confusion_cases import FORMS, labelings, written_out
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as

from robustdml_ext.ops import _energy_confusion_reference as reference
from robustdml_ext.ops.energy_confusion import (
    energy_confusion,
    energy_distance,
    maximum_mean_discrepancy,
    pairwise_energy_confusion,
)

rows_ = st.sampled_from([0, 1, 2, 3, 7, 16, 33, 64, 65, 100])

widths = st.sampled_from([0, 1, 3, 8, 15, 16, 17, 33, 64, 130])


@given(
    st.data(), rows_, widths, st.sampled_from(FORMS), st.booleans(), dtypes(), devices(),
    st.sampled_from(["contiguous", "sliced", "transposed", "expanded"]), seeds(), st.sampled_from([1e-3, 1.0, 1e3]),
)  # fmt: skip
def test_value_and_gradient_are_the_equations(
    data: st.DataObject, rows: int, width: int, form: tuple[bool, str], listed: bool, dtype: torch.dtype, device: str,
    layout: str, seed: int, spread: float,
) -> None:  # fmt: skip
    logarithmic, reduction = form
    if dtype in (torch.float16, torch.bfloat16):
        spread = 1.0
    x = in_layout(values((rows, width), dtype, device, seed, spread), layout).detach().requires_grad_()
    labels = data.draw(labelings(rows)).to(device)
    pairs = None
    if listed:
        generator = torch.Generator().manual_seed(seed)
        count, classes = data.draw(st.sampled_from([0, 1, 2, 30])), len(labels.unique())
        pairs = torch.randint(max(classes, 1), (count if rows else 0, 2), generator=generator).to(device)
    options = {"pairs": pairs, "logarithmic": logarithmic, "reduction": reduction}
    actual = energy_confusion(x, labels, **options)
    (gradient,) = torch.autograd.grad(actual, x)
    assert actual.dtype == torch.promote_types(dtype, torch.float32) and gradient.dtype == dtype
    with torch.no_grad():
        assert torch.equal(energy_confusion(x, labels, **options), actual)

    results = []
    for precision in (actual.dtype, torch.float64):
        leaf = x.detach().to(precision).requires_grad_()
        value = written_out(leaf, labels, **options)
        results.append((value.detach(), torch.autograd.grad(value, leaf)[0]))
    (plain, plain_gradient), (exact, exact_gradient) = results
    assert_as_good_as(actual.detach(), plain, exact, what="value")
    assert_as_good_as(gradient, plain_gradient.to(dtype), exact_gradient, what="gradient")

    loss, *saved = reference.confusion_reference(x.detach(), labels, pairs, logarithmic, reduction == "mean", True)
    assert_as_good_as(loss, plain, exact, what="reference's value")
    again = reference.backward_reference(torch.ones_like(loss), x.detach(), *saved)
    assert_as_good_as(again, plain_gradient.to(dtype), exact_gradient, what="reference's gradient")


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("device", DEVICES)
def test_past_every_block_and_strip(device: str, logarithmic: bool) -> None:
    """More classes than a strip of the pair matrix holds, classes longer than a segment, unequal sizes."""
    for labels in (torch.arange(1600) // 2, torch.arange(1600).clamp(max=2) * 10**12, torch.arange(1600).sqrt().long()):
        x = values((1600, 3), torch.float32, device, 0).requires_grad_()
        actual = energy_confusion(x, labels.to(device), logarithmic=logarithmic, reduction="mean")
        exact_x = x.detach().double().requires_grad_()
        exact = written_out(exact_x, labels.to(device), None, logarithmic, "mean")
        torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=0)
        gradient, correct = torch.autograd.grad(actual, x)[0], torch.autograd.grad(exact, exact_x)[0]
        torch.testing.assert_close(gradient.double(), correct, rtol=1e-5, atol=1e-6 * correct.abs().max().item())


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_common_offset_and_tight_classes_cost_no_digits(dtype: torch.dtype, logarithmic: bool, device: str) -> None:
    """|x|² is 10⁸ times L_ec, and the classes lie 10³ times further apart than their rows."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(6, 20, dtype=torch.float64, generator=generator)
    x = centers[torch.arange(60) % 6] + 1e-3 * torch.randn(60, 20, dtype=torch.float64, generator=generator) + 1e4
    x = x.to(device, dtype).requires_grad_()
    labels = (torch.arange(60) % 6).to(device)
    pairs = torch.tensor([[0, 1], [3, 2]], device=device)
    for chosen in (None, pairs):
        actual = energy_confusion(x, labels, pairs=chosen, logarithmic=logarithmic)
        shifted = (x.detach().double() - 1e4).requires_grad_()
        exact = written_out(shifted, labels, chosen, logarithmic, "sum")
        tolerance = 8 * torch.finfo(dtype).eps
        torch.testing.assert_close(actual.double(), exact, rtol=tolerance, atol=0)
        gradient, correct = torch.autograd.grad(actual, x)[0], torch.autograd.grad(exact, shifted)[0]
        atol = 8 * torch.finfo(dtype).eps * correct.abs().max().item()
        torch.testing.assert_close(gradient.double(), correct, rtol=tolerance, atol=atol)


@pytest.mark.parametrize("scale", [1e-20, 1e-10, 1e10, 1e20])
@pytest.mark.parametrize("device", DEVICES)
def test_extreme_norms(scale: float, device: str) -> None:
    labels = (torch.arange(40) % 4).to(device)
    x = values((40, 5), torch.float32, device, 0, scale).requires_grad_()
    for logarithmic in (False, True):
        loss = energy_confusion(x, labels, logarithmic=logarithmic)
        gradient = torch.autograd.grad(loss, x)[0]
        exact_x = x.detach().double().requires_grad_()
        exact = written_out(exact_x, labels, None, logarithmic, "sum")
        correct = torch.autograd.grad(exact, exact_x)[0]
        torch.testing.assert_close(loss, exact.float(), rtol=1e-5, atol=0)
        torch.testing.assert_close(gradient, correct.float(), rtol=1e-4, atol=1e-6 * correct.abs().max().item())
        assert gradient.isfinite().all()


@pytest.mark.parametrize("device", DEVICES)
def test_degenerate_batches_and_nan(device: str) -> None:
    x = values((6, 4), torch.float32, device, 0).requires_grad_()
    one = torch.full((6,), 3, device=device)
    for labels, pairs in ((one, None), (one, [[0, 0]]), (torch.arange(6, device=device), [])):
        listed = None if pairs is None else torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)
        for reduction in ("sum", "mean"):
            loss = energy_confusion(x, labels, pairs=listed, reduction=reduction, logarithmic=True)
            assert loss.item() == 0 and not torch.autograd.grad(loss, x)[0].any()
    same = torch.ones(6, 4, device=device).requires_grad_()
    for logarithmic in (False, True):
        loss = energy_confusion(same, torch.arange(6, device=device) // 2, logarithmic=logarithmic)
        assert loss.item() == 0 and not torch.autograd.grad(loss, same)[0].any()
        for row in range(6):
            bad = x.detach().clone()
            bad[row, 1] = torch.nan
            assert energy_confusion(bad, torch.arange(6, device=device) // 2, logarithmic=logarithmic).isnan()


@pytest.mark.parametrize("device", DEVICES)
def test_derivatives(device: str) -> None:
    x = values((9, 4), torch.float64, device, 0).requires_grad_()
    labels = torch.tensor([3, 1, 3, -7, 1, 3, 9, 9, 3], device=device)
    pairs = torch.tensor([[0, 1], [1, 0], [2, 3], [1, 1], [0, 1]], device=device)
    for logarithmic, reduction in FORMS:
        for chosen in (None, pairs):
            function = lambda x, c=chosen, f=logarithmic, r=reduction: energy_confusion(  # noqa: E731
                x, labels, pairs=c, logarithmic=f, reduction=r
            )
            assert torch.autograd.gradcheck(function, x)
    for matrix in (pairwise_energy_confusion, energy_distance, maximum_mean_discrepancy):
        assert torch.autograd.gradcheck(lambda x, m=matrix: m(x, labels), x)
    for loss in (energy_confusion(x, labels), energy_distance(x, labels).sum()):
        (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
        with pytest.raises(NotImplementedError, match="differentiable once"):
            gradient.sum().backward()
