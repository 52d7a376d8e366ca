"""Normalized softmax against its definition, written as loops, and against pytorch-metric-learning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.losses.normalizedsoftmax import NormalizedSoftmaxLoss


def oracle(loss: NormalizedSoftmaxLoss, embeddings: Tensor, labels: Tensor) -> Tensor:
    rows = []
    for x, label in zip(embeddings.double(), labels, strict=True):
        cosines = torch.stack([x @ p / (x.norm() * p.norm()) for p in loss.proxies.double()])
        rows.append(-(cosines / loss.temperature).softmax(0)[label].log())
    return torch.stack(rows).mean()


@given(
    size=st.integers(1, 8), dim=st.integers(2, 5), classes=st.integers(1, 6),
    temperature=st.sampled_from([0.05, 0.5, 1.0]), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_is_its_definition(size: int, dim: int, classes: int, temperature: float, seed: int) -> None:
    torch.manual_seed(seed)
    loss = NormalizedSoftmaxLoss(classes, dim, temperature).double()
    embeddings = torch.randn(size, dim, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (size,))
    actual, expected = loss(embeddings, labels), oracle(loss, embeddings, labels)
    torch.testing.assert_close(actual, expected)
    leaves = [embeddings, loss.proxies]
    for gradient, correct in zip(
        torch.autograd.grad(actual, leaves), torch.autograd.grad(expected, leaves), strict=True
    ):
        torch.testing.assert_close(gradient, correct, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("shape", [(20, 30, 8), (112, 500, 64)])
def test_agrees_with_pytorch_metric_learning(shape: tuple[int, int, int]) -> None:
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    batch, classes, dim = shape
    torch.manual_seed(0)
    loss = NormalizedSoftmaxLoss(classes, dim).double()
    peer = peers.NormalizedSoftmaxLoss(classes, dim).double()
    with torch.no_grad():
        peer.W.copy_(loss.proxies.T)
    embeddings = torch.randn(batch, dim, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (batch,))
    ours, theirs = loss(embeddings, labels), peer(embeddings, labels)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, [embeddings, loss.proxies]), torch.autograd.grad(theirs, [embeddings, peer.W]),
        strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(a, b if a.shape == embeddings.shape else b.T)


def test_gradient() -> None:
    torch.manual_seed(0)
    loss = NormalizedSoftmaxLoss(4, 3, temperature=0.2).double()
    embeddings = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    proxies = loss.proxies.detach().clone().requires_grad_()

    def value(e: Tensor, p: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"proxies": p}, (e, torch.arange(6) % 4))

    assert torch.autograd.gradcheck(value, (embeddings, proxies))


def test_nan_is_seen_and_zero_is_safe() -> None:
    loss, labels = NormalizedSoftmaxLoss(3, 2), torch.tensor([0, 1])
    assert loss(torch.tensor([[1.0, 2], [torch.nan, 1]]), labels).isnan()
    embeddings = torch.zeros(2, 2, requires_grad=True)
    loss(embeddings, labels).backward()
    assert embeddings.grad is not None and not embeddings.grad.any()


def test_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    loss = NormalizedSoftmaxLoss(5, 16)
    embeddings, labels = torch.randn(12, 16), torch.arange(12) % 5
    with torch.autocast("cpu", torch.bfloat16):
        actual, half = loss(embeddings, labels), loss(embeddings.bfloat16(), labels)
    assert actual.dtype == half.dtype == torch.float32
    torch.testing.assert_close(actual, oracle(loss, embeddings, labels).float(), rtol=1e-5, atol=1e-5)


def test_proxies_learn_at_a_multiple_of_the_rate() -> None:
    loss = NormalizedSoftmaxLoss(5, 3, proxy_lr_scale=4.0)
    assert loss.parameter_groups(0.25) == [{"params": [loss.proxies], "lr": 1.0}]
    assert loss.proxies.shape == (5, 3) and list(loss.state_dict()) == ["proxies"]
    assert "temperature=0.05" in repr(loss)


def test_errors_name_the_argument() -> None:
    loss = NormalizedSoftmaxLoss(3, 2)
    with pytest.raises(ValueError, match="labels: expected 0 to 2, got 0 to 3"):
        loss(torch.ones(2, 2), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"\[B, 2\]"):
        loss(torch.ones(2, 3), torch.tensor([0, 1]))
    for arguments in [{"num_classes": 0}, {"embedding_dim": 0}, {"temperature": 0.0}]:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            NormalizedSoftmaxLoss(**{"num_classes": 3, "embedding_dim": 2, **arguments})  # type: ignore[arg-type]
