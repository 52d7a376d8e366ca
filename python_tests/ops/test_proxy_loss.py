"""`proxy_loss`: values and gradients against each paper's equation in float64, all dtypes, shapes, modes, extremes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proxy_loss_cases import CONSTANTS, exact_loss
from strategies import DEVICES, devices, dtypes, in_layout, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from robustdml_ext.ops._proxy_loss_reference import proxy_loss_backward_reference, proxy_loss_reference
from robustdml_ext.ops.proxy_loss import KINDS, proxy_loss


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
