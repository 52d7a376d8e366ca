"""ArcFace against its definition, written as a loop over angles."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.losses import ArcFaceLoss


def oracle(loss: ArcFaceLoss, embeddings: Tensor, labels: Tensor) -> Tensor:
    rows = []
    centers = loss.centers.double()
    for i in range(len(labels)):
        logits = []
        for c in range(len(centers)):
            cosine = embeddings[i].double() @ centers[c] / (embeddings[i].double().norm() * centers[c].norm())
            if c == labels[i]:
                angle = torch.arccos(cosine)
                inside = angle + loss.margin < math.pi
                cosine = torch.cos(angle + loss.margin) if inside else cosine - loss.margin * math.sin(loss.margin)
            logits.append(loss.scale * cosine)
        rows.append(torch.stack(logits).logsumexp(0) - logits[int(labels[i])])
    return torch.stack(rows).mean()


@given(
    size=st.integers(1, 8), dim=st.integers(2, 5), classes=st.integers(1, 6),
    margin=st.sampled_from([0.0, 0.5, 1.5]),
    scale=st.sampled_from([1.0, 16.0, 64.0]), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_is_its_definition(size: int, dim: int, classes: int, margin: float, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    loss = ArcFaceLoss(classes, dim, margin, scale).double()
    embeddings = torch.randn(size, dim, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (size,))
    actual, expected = loss(embeddings, labels), oracle(loss, embeddings, labels)
    torch.testing.assert_close(actual, expected)
    leaves = [embeddings, loss.centers]
    for gradient, correct in zip(
        torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, correct, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("shape", [(20, 30, 8), (112, 500, 64)])
def test_agrees_with_pytorch_metric_learning(shape: tuple[int, int, int]) -> None:
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    batch, classes, dim = shape
    torch.manual_seed(0)
    loss = ArcFaceLoss(classes, dim, margin=0.5, scale=64.0).double()
    peer = peers.ArcFaceLoss(classes, dim, margin=math.degrees(0.5), scale=64).double()
    with torch.no_grad():
        peer.W.copy_(loss.centers.T)
    embeddings = torch.randn(batch, dim, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (batch,))
    ours, theirs = loss(embeddings, labels), peer(embeddings, labels)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, [embeddings, loss.centers]), torch.autograd.grad(theirs, [embeddings, peer.W]),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b if a.shape == embeddings.shape else b.T)


def test_gradient() -> None:
    torch.manual_seed(0)
    loss = ArcFaceLoss(4, 3).double()
    embeddings = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    centers = loss.centers.detach().clone().requires_grad_()

    def value(e: Tensor, c: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"centers": c}, (e, torch.arange(6) % 4))

    assert torch.autograd.gradcheck(value, (embeddings, centers))


def test_margin_on_the_true_class_alone_makes_it_harder() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(6, 3), torch.arange(6) % 4
    with_margin, without = ArcFaceLoss(4, 3), ArcFaceLoss(4, 3, margin=0.0)
    without.load_state_dict(with_margin.state_dict())
    # Added to all logits alike, the margin would hardly change the loss.
    assert with_margin(embeddings, labels) > without(embeddings, labels) + 1


def test_falls_with_the_angle_everywhere() -> None:
    # The other class stands upright on the plane of the angles: its logit is 0.
    loss = ArcFaceLoss(2, 3, scale=1.0).double()
    with torch.no_grad():
        loss.centers.copy_(torch.tensor([[1.0, 0, 0], [0, 0, 1]]))
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    embeddings = torch.stack([angles.cos(), angles.sin(), torch.zeros_like(angles)], 1)
    losses = torch.stack([loss(row[None], torch.tensor([0])) for row in embeddings])
    assert (losses.diff() > 0).all()


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_safe_on_the_center_and_opposite_to_it(sign: float) -> None:
    for dtype in (torch.float32, torch.float64):
        loss = ArcFaceLoss(3, 2).to(dtype)
        with torch.no_grad():
            loss.centers.copy_(torch.tensor([[1.0, 0], [0, 1], [3, 4]]))
        for row in range(3):
            embeddings = (sign * loss.centers[row : row + 1]).detach().requires_grad_()
            value = loss(embeddings, torch.tensor([row]))
            value.backward()
            assert value.isfinite() and embeddings.grad.isfinite().all() and loss.centers.grad.isfinite().all()
            assert embeddings.grad.abs().max() < 1e3


def test_nan_is_seen_and_zero_is_safe() -> None:
    loss, labels = ArcFaceLoss(3, 2), torch.tensor([0, 1])
    assert loss(torch.tensor([[1.0, 2], [torch.nan, 1]]), labels).isnan()
    embeddings = torch.zeros(2, 2, requires_grad=True)
    loss(embeddings, labels).backward()
    assert embeddings.grad.isfinite().all()


def test_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    loss = ArcFaceLoss(5, 16)
    embeddings, labels = torch.randn(12, 16), torch.arange(12) % 5
    with torch.autocast("cpu", torch.bfloat16):
        actual, half = loss(embeddings, labels), loss(embeddings.bfloat16(), labels)
    assert actual.dtype == half.dtype == torch.float32
    torch.testing.assert_close(actual, oracle(loss, embeddings, labels).float(), rtol=1e-5, atol=1e-5)


def test_centers_have_their_own_learning_rate() -> None:
    loss = ArcFaceLoss(5, 3, center_lr=0.125)
    assert loss.parameter_groups(1e-5) == [{"params": [loss.centers], "lr": 0.125}]
    assert loss.centers.shape == (5, 3) and list(loss.state_dict()) == ["centers"]


def test_errors_name_the_argument() -> None:
    loss = ArcFaceLoss(3, 2)
    with pytest.raises(ValueError, match="labels: expected 0 to 2, got 0 to 3"):
        loss(torch.ones(2, 2), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"\[B, 2\]"):
        loss(torch.ones(2, 3), torch.tensor([0, 1]))
    for arguments in [{"num_classes": 0}, {"embedding_dim": 0}, {"margin": 4.0}, {"scale": 0.0}]:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            ArcFaceLoss(**{"num_classes": 3, "embedding_dim": 2, **arguments})
