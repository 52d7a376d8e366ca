"""`pair_loss`: value and gradients against its equations in float64, for every kind, dtype, layout and mode."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pair_cases import HINGES, KINDS, PUBLISHED, Case, cases, lattice_cases, make_labels
from strategies import DEVICES, devices, in_layout, values
from tolerance import assert_as_good_as
from torch import Tensor

from robustdml_ext.ops._pair_loss_reference import pair_loss_backward_reference, pair_loss_reference
from robustdml_ext.ops.pair_loss import pair_loss

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def has_kernel(device: str) -> bool:
    """Whether a kernel runs there; the reference promises neither an order of its sums nor guards."""
    return torch._C._dispatch_has_kernel_for_dispatch_key("robustdml::pair_loss", device.upper())


def in_plain_pytorch(case: Case, slope: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradients by the operator's reference."""
    loss, saved = pair_loss_reference(*case.raw())  # type: ignore[arg-type]
    grad = torch.full_like(loss, slope)
    asked = case.reference is not None
    return loss, *pair_loss_backward_reference(grad, *case.raw(), saved, asked)  # type: ignore[arg-type]


def assert_is_the_equation(
    case: Case, dtype: torch.dtype, device: str, layout: str = "contiguous", loss_terms: float = 0.0
) -> None:
    """Loss and gradients are as near to float64's as PyTorch's own; loss_terms: the size of what the loss sums up."""
    slope = 0.375
    exact = in_plain_pytorch(case, slope)
    # A short sum can be exact by chance; the worst of several ways to round is what the precision gives.
    plain = [in_plain_pytorch(case.to(dtype), slope)]
    for k in range(3):
        other, restore = case.to(torch.promote_types(dtype, torch.float32)).disturbed(k)
        loss, *gradients = in_plain_pytorch(other, slope)
        plain.append((loss, *(restore(gradient).to(dtype) for gradient in gradients)))
    plain_loss, of_x, of_y = (worst([each[k] for each in plain], exact[k]) for k in range(3))

    moved = case.to(dtype).to(device)
    x = in_layout(moved.embeddings, layout).detach().requires_grad_()
    y = None if moved.reference is None else in_layout(moved.reference, layout).detach().requires_grad_()
    loss = moved.loss(x, y)
    (slope * loss).backward()
    assert loss.shape == () and loss.dtype == torch.promote_types(dtype, torch.float32)
    loss_terms = max(loss_terms, case.steepness() * exact[0].item())
    assert_as_good_as(loss.detach(), plain_loss, exact[0], terms=loss_terms, what="loss")
    assert x.grad is not None and x.grad.dtype == dtype
    # The terms are summed in float32 or float64, and only their sum is rounded to half precision.
    share = slope * torch.finfo(loss.dtype).eps / torch.finfo(dtype).eps
    terms = [share * each for each in case.terms()]
    assert_as_good_as(x.grad, of_x, exact[1], terms=terms[0], what="gradient of the embeddings")
    if y is not None:
        assert y.grad is not None and y.grad.dtype == dtype
        assert_as_good_as(y.grad, of_y, exact[2], terms=terms[1], what="gradient of the reference")


def worst(results: list[Tensor], exact: Tensor) -> Tensor:
    """The result that is farthest from the exact one."""
    return max(results, key=lambda result: (result.double() - exact).abs().max().item() if exact.numel() else 0)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), device=devices(), layout=st.sampled_from(["contiguous", "sliced", "transposed"]))
def test_value_and_gradients_are_the_equations(kind: str, data: st.DataObject, device: str, layout: str) -> None:
    case, dtype = data.draw(cases((kind,)))
    assert_is_the_equation(case, dtype, device, layout)


@given(lattice_cases(), devices())
def test_exact_arithmetic_has_exact_decisions_and_ties(drawn: tuple[Case, torch.dtype], device: str) -> None:
    case, dtype = drawn
    assert_is_the_equation(case, dtype, device)


@pytest.mark.parametrize(
    ("size", "dtype", "reduction"),
    [(97, torch.float64, "mean"), (97, torch.bfloat16, "sum"), (193, torch.float32, "nonzero")],
)
@pytest.mark.parametrize("device", DEVICES)
def test_all_triplets_of_unit_vectors(size: int, dtype: torch.dtype, reduction: str, device: str) -> None:
    """Normalized points of ±1: every v is a multiple of 4/D, and the margin half-way between two."""
    x = values((size, 33), torch.float64, "cpu", size).sign()
    labels = make_labels("few", size, 0)
    for squared, margin in ((True, 14 / 33), (False, 0.1)):
        case = Case("triplet_all", (margin,), x, labels, normalize=True, squared=squared, reduction=reduction)
        # Every coordinate is rounded alike, so the distances (up to 4) err alike, and no mean evens that out.
        assert_is_the_equation(case, dtype, device, loss_terms=4 * size**3 if reduction == "sum" else 4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_batch_as_its_own_reference(kind: str, device: str) -> None:
    """With each anchor left out of its own pairs, nothing changes; and gradients come only where they are asked for."""
    case = batch(kind, 104, 33, device, torch.float64)
    x, y = case.embeddings.requires_grad_(), case.embeddings.detach().clone().requires_grad_()
    alone = case.loss()
    doubled = replace(case, reference=y, reference_labels=case.labels, self_offset=0)
    loss = doubled.loss()
    torch.testing.assert_close(loss, alone)
    of_x, of_y = torch.autograd.grad(loss, (x, y))
    torch.testing.assert_close(of_x + of_y, torch.autograd.grad(alone, x)[0])
    assert torch.equal(torch.autograd.grad(doubled.loss(reference=y.detach()), x)[0], of_x)
    assert torch.equal(torch.autograd.grad(doubled.loss(x.detach()), y)[0], of_y)
    with_itself = replace(doubled, reference=x)
    torch.testing.assert_close(torch.autograd.grad(with_itself.loss(), x)[0], of_x + of_y)


@pytest.mark.parametrize("compared", ["batch", "memory", "gathered"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_derivatives(kind: str, compared: str, device: str) -> None:
    x = values((11, 4), torch.float64, device, 0).requires_grad_()
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 4], device=device)
    inputs = (x,) if compared == "batch" else (x, values((13, 4), torch.float64, device, 1).requires_grad_())
    reference_labels = torch.cat([labels.new_tensor([3, 0]), labels]) if len(inputs) > 1 else None
    for normalize, squared, reduction in ((True, False, "mean"), (False, kind in HINGES, "sum")):
        case = Case(
            kind, PUBLISHED[kind], x, labels, None, reference_labels, 2 if compared == "gathered" else None,
            normalize, squared, reduction,
        )  # fmt: skip
        assert torch.autograd.gradcheck(case.loss, inputs)


def batch(kind: str, size: int = 24, dim: int = 9, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Case:
    """A batch in which every kind has something to do: classes of 4, unit vectors."""
    x = values((size, dim), dtype, device, 3)
    return Case(kind, PUBLISHED[kind], x, torch.arange(size, device=device) // 4, normalize=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_norms_from_1e_minus_20_to_1e20(kind: str, device: str) -> None:
    """Unit vectors do not depend on the norms, and the gradients fall with them: g(c·x) = g(x) / c."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        case = batch(kind, 70, 31, device, dtype)
        powers = torch.linspace(-66, 66, 70, device=device, dtype=torch.float64).round()
        scales = torch.exp2(powers)[:, None]  # powers of 2: the points stay the same to the last bit
        x = case.embeddings.requires_grad_()
        scaled = (x.detach().double() * scales).to(dtype).requires_grad_()
        losses = case.loss(x), case.loss(scaled)
        gradient, scaled_gradient = (torch.autograd.grad(*each)[0] for each in zip(losses, (x, scaled), strict=True))
        torch.testing.assert_close(losses[1], losses[0])
        assert scaled_gradient.isfinite().all() and gradient.any()
        torch.testing.assert_close(scaled_gradient.double() * scales, gradient.double(), rtol=0.02, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_identical_points_and_zero_rows(kind: str, device: str) -> None:
    """A distance of 0 is the root of a rounding error: to its size the loss is that of distance 0, gradients finite."""
    for dtype in (torch.float32, torch.float64):
        points = torch.cat([values((5, 33), dtype, device, 0), torch.zeros(1, 33, dtype=dtype, device=device)])
        labels = torch.arange(60, device=device) % 7
        for normalize in (True, False):
            x = (points if normalize else points / 8)[torch.arange(60, device=device) % 6].requires_grad_()
            case = Case(kind, PUBLISHED[kind], x, labels, normalize=normalize)
            loss = case.loss()
            loss.backward()
            exact, *_ = in_plain_pytorch(replace(case, embeddings=x.detach().double()))
            close = 30 * torch.finfo(dtype).eps ** 0.5
            assert x.grad is not None and x.grad.isfinite().all()
            assert kind == "triplet_semihard" or abs(loss.item() - exact.item()) <= close * max(1, exact.item())
            if normalize:
                assert not x.grad[5::6].any()
        same = points[:1].repeat(40, 1).requires_grad_()
        loss = replace(batch(kind, 40, 33, device, dtype), embeddings=same).loss()
        loss.backward()
        assert loss.isfinite() and same.grad is not None and same.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_nothing_to_compare_is_zero(kind: str, device: str) -> None:
    for labels in ([], [3], [1, 2, 3, 4, 5], [7] * 5):
        for rows in (None, 0):
            x = values((len(labels), 3), torch.float32, device, 0).requires_grad_()
            y = None if rows is None else x.new_zeros(rows, 3).requires_grad_()
            of_rows = None if rows is None else torch.zeros(rows, dtype=torch.int64, device=device)
            case = Case(kind, PUBLISHED[kind], x, torch.tensor(labels, dtype=torch.int64, device=device), y, of_rows)
            if y is None and len(labels) == 5 and kind in ("contrastive", "binomial"):
                continue  # one side is enough for these
            loss = case.loss()
            loss.backward()
            assert loss.item() == 0 and x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_nan_is_seen(kind: str, device: str) -> None:
    for size in (8, 130):
        for row in (0, size // 2, size - 1):
            for normalize in (True, False):
                case = replace(batch(kind, size, 33, device), normalize=normalize)
                case.embeddings[row, 7] = torch.nan
                assert case.loss().isnan()
                clean = values((size, 33), torch.float32, device, 4)
                both = replace(case, reference=clean, reference_labels=case.labels)
                assert both.loss().isnan()
                assert replace(both, embeddings=clean, reference=case.embeddings).loss().isnan()
                assert not replace(both, embeddings=clean).loss().isnan()


@pytest.mark.parametrize("kind", ["multi_similarity", "triplet_all"])  # all kinds share a schema
@pytest.mark.parametrize("device", DEVICES)
def test_opcheck_and_compile(kind: str, device: str) -> None:
    case = batch(kind, device=device)
    other = replace(case, reference=values((30, 9), torch.float32, device, 5), self_offset=None)
    other = replace(other, reference_labels=torch.arange(30, device=device) % 6)
    for each in (case, other):
        needing = replace(each, embeddings=each.embeddings.clone().requires_grad_())
        torch.library.opcheck(torch.ops.robustdml.pair_loss.default, needing.raw())
        loss, saved = torch.ops.robustdml.pair_loss(*each.raw())
        for reference_gradient in (False, True):
            arguments = (torch.ones_like(loss), *each.raw(), saved, reference_gradient)
            torch.library.opcheck(torch.ops.robustdml.pair_loss_backward.default, arguments)

    def loss_of(x: Tensor, y: Tensor) -> Tensor:
        return case.loss(2 * x) + other.loss(2 * x, y)

    x, y = case.embeddings.requires_grad_(), other.reference.requires_grad_()  # type: ignore[union-attr]
    torch.compiler.reset()
    compiled = torch.compile(loss_of, fullgraph=True, backend="aot_eager")
    for actual, expected in zip(
        torch.autograd.grad(compiled(x, y), (x, y)), torch.autograd.grad(loss_of(x, y), (x, y)), strict=True
    ):
        assert torch.equal(actual, expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("device", DEVICES)
def test_autocast_computes_in_single_precision(kind: str, device: str) -> None:
    case = batch(kind, 40, 33, device)
    half = case.to(torch.bfloat16)
    half.embeddings.requires_grad_()
    expected, expected_half = case.loss(), half.loss()
    with torch.autocast(device, dtype=torch.bfloat16):
        assert torch.equal(case.loss(), expected)
        loss = half.loss()
    assert torch.equal(loss, expected_half) and loss.dtype == torch.float32
    loss.backward()
    assert half.embeddings.grad is not None and half.embeddings.grad.dtype == torch.bfloat16


@pytest.mark.skipif(not has_kernel("cpu"), reason="the reference promises no order of its sums")
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits_for_every_number_of_threads(kind: str) -> None:
    before, results = torch.get_num_threads(), []
    x = values((700, 65), torch.float32, "cpu", 0).requires_grad_()
    y = values((430, 65), torch.float32, "cpu", 1).requires_grad_()
    case = Case(kind, PUBLISHED[kind], x, make_labels("mixed", 700, 0), normalize=True)
    with_reference = replace(case, reference=y, reference_labels=make_labels("few", 430, 1))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            losses = case.loss(), with_reference.loss()
            gradients = *torch.autograd.grad(losses[0], x), *torch.autograd.grad(losses[1], (x, y))
            results.append([*losses, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@CUDA
@pytest.mark.parametrize("kind", KINDS)
def test_captured_in_a_graph(kind: str) -> None:
    case = batch(kind, 130, 33, "cuda")
    x = case.embeddings.requires_grad_()
    expected = torch.autograd.grad(case.loss(), x)[0]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = torch.autograd.grad(case.loss(), x)[0]
    graph.replay()
    assert torch.equal(captured, expected)


def test_differentiable_once() -> None:
    x = values((4, 3), torch.float32, "cpu", 0).requires_grad_()
    loss = pair_loss(x, torch.tensor([0, 0, 1, 1]), "npair")
    (gradient,) = torch.autograd.grad(loss, x, create_graph=True)
    with pytest.raises(RuntimeError, match="pair_loss: differentiable once"):
        gradient.sum().backward()
    with torch.no_grad():
        assert not pair_loss(x, torch.tensor([0, 0, 1, 1]), "npair").requires_grad
