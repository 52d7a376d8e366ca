"""Energy confusion, energy distance and linear MMD against equations 3, 4, 5, 7 and 11 written out over all rows."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from python_tests.memory import PEAK_KIB
from robustdml_ext.ops import _energy_confusion_reference as reference
from robustdml_ext.ops.energy_confusion import (
    energy_confusion,
    energy_distance,
    maximum_mean_discrepancy,
    pairwise_energy_confusion,
)

FORMS = [(False, "sum"), (True, "sum"), (False, "mean"), (True, "mean")]


def expectations(features: Tensor, labels: Tensor) -> Tensor:
    """E|X_I − X_J|² for every pair of classes, I = J too: equation 3 over all pairs of rows."""
    distances = (features[:, None] - features[None]).square().sum(2)
    member = (labels == labels.unique()[:, None]).to(features.dtype)
    member = member / member.sum(1, keepdim=True)
    return member @ distances @ member.T


def written_out(features: Tensor, labels: Tensor, pairs: Tensor | None, logarithmic: bool, reduction: str) -> Tensor:
    energies = expectations(features, labels)
    if pairs is None:
        pairs = torch.cartesian_prod(*[torch.arange(len(energies), device=labels.device)] * 2)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    chosen = energies[pairs[:, 0], pairs[:, 1]]
    chosen = chosen.log1p() if logarithmic else chosen
    return chosen.mean() if reduction == "mean" and len(pairs) else chosen.sum()


@st.composite
def labelings(draw: st.DrawFn, rows: int) -> Tensor:
    """One class, all distinct, or some; contiguous or scattered; values small, negative or far apart."""
    classes = draw(st.sampled_from([1, 2, 5, 17, 40, max(rows, 1)]))
    generator = torch.Generator().manual_seed(draw(seeds()))
    labels = torch.arange(rows) % classes if draw(st.booleans()) else torch.arange(rows) * classes // max(rows, 1)
    if draw(st.booleans()):
        labels = labels[torch.randperm(rows, generator=generator)]
    stretch, offset = draw(st.sampled_from([(1, 0), (-3, 7), (2**40 + 1, -(2**45)), (2**57, -(2**62))]))
    return labels * stretch + offset


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


@given(st.data(), st.sampled_from([2, 5, 9, 33]), st.sampled_from([1, 4, 40]), st.sampled_from(["float32", "float64"]),
       devices(), seeds(), st.sampled_from([0.0, 1e-3, 1.0, 1e3]), st.sampled_from([0.0, 100.0]))  # fmt: skip
def test_lemmas_2_and_3(
    data: st.DataObject, rows: int, width: int, precision: str, device: str, seed: int, spread: float, offset: float
) -> None:
    """L_ec ≥ D_E / 2 and L_ec ≥ γ², of our values and of the definitions, which agree."""
    dtype = getattr(torch, precision)
    labels = data.draw(labelings(rows)).to(device)
    centers = values((rows, width), torch.float64, device, seed)
    x = (centers[(labels % rows)] + values((rows, width), torch.float64, device, seed + 1, spread) + offset).to(dtype)
    confusion, distance = pairwise_energy_confusion(x, labels), energy_distance(x, labels)
    discrepancy = maximum_mean_discrepancy(x, labels)

    exact = expectations(x.double(), labels)
    own = exact.diagonal()
    exact_distance = 2 * exact - own[:, None] - own[None, :]
    member = (labels == labels.unique()[:, None]).double()
    kernel = member / member.sum(1, keepdim=True)
    kernel = kernel @ (x.double() @ x.double().T) @ kernel.T
    exact_discrepancy = kernel.diagonal()[:, None] + kernel.diagonal()[None, :] - 2 * kernel

    # One rounding of the result; and what float64 leaves where the definitions cancel.
    eps, size = torch.finfo(dtype).eps, x.double().square().sum(1).max().item()
    cancelled = 100 * torch.finfo(torch.float64).eps * size
    torch.testing.assert_close(confusion.double(), exact, rtol=2 * eps, atol=cancelled)
    torch.testing.assert_close(distance.double(), exact_distance, rtol=2 * eps, atol=cancelled)
    torch.testing.assert_close(discrepancy.double(), exact_discrepancy, rtol=2 * eps, atol=cancelled)
    assert (exact >= exact_distance / 2 - cancelled).all() and (exact >= exact_discrepancy - cancelled).all()
    # Each side is rounded once from sums that satisfy the lemma up to float64's own rounding.
    slack = eps * confusion.double() + 1e-13 * exact.abs().max()
    assert (confusion.double() + slack >= distance.double() / 2).all()
    assert (confusion.double() + slack >= discrepancy.double()).all()
    assert torch.equal(distance, 2 * discrepancy) and torch.equal(discrepancy, discrepancy.T)


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


@pytest.mark.parametrize("device", DEVICES)
def test_the_sum_of_the_matrix_is_the_loss(device: str) -> None:
    x, labels = values((30, 8), torch.float64, device, 0), (torch.arange(30) % 7).to(device)
    energies = pairwise_energy_confusion(x, labels)
    off = ~torch.eye(7, dtype=torch.bool, device=device)
    torch.testing.assert_close(energy_confusion(x, labels), energies[off].sum())
    torch.testing.assert_close(energy_confusion(x, labels, logarithmic=True), energies[off].log1p().sum())
    pairs = torch.tensor([[2, 5], [5, 2], [0, 6]], device=device)
    expected = energies[pairs[:, 0], pairs[:, 1]].mean()
    torch.testing.assert_close(energy_confusion(x, labels, pairs=pairs, reduction="mean"), expected)
    assert pairwise_energy_confusion(x[:0], labels[:0]).shape == (0, 0)


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


@pytest.mark.parametrize("device", DEVICES)
def test_one_class_has_a_gradient_though_no_pair(device: str) -> None:
    x = values((5, 3), torch.float64, device, 0).requires_grad_()
    labels = torch.zeros(5, dtype=torch.int64, device=device)
    assert torch.autograd.gradcheck(lambda x: pairwise_energy_confusion(x, labels), x)
    assert torch.autograd.grad(pairwise_energy_confusion(x, labels).sum(), x)[0].any()
