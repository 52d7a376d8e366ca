"""Proxy-Anchor against equation 4, written as loops, and against pytorch-metric-learning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.losses.proxyanchor import ProxyAnchorLoss


def oracle(loss: ProxyAnchorLoss, embeddings: Tensor, labels: Tensor) -> Tensor:
    pull, push = [], []
    for c, proxy in enumerate(loss.proxies.double()):
        one = torch.ones((), dtype=torch.float64)
        near, far, positives = one, one, 0
        for x, label in zip(embeddings.double(), labels, strict=True):
            cosine = x @ proxy / (x.norm() * proxy.norm())
            if label == c:
                near, positives = near + torch.exp(-loss.alpha * (cosine - loss.delta)), positives + 1
            else:
                far = far + torch.exp(loss.alpha * (cosine + loss.delta))
        push.append(far.log())
        if positives:
            pull.append(near.log())
    return torch.stack(pull).mean() + torch.stack(push).mean()


@given(
    size=st.integers(1, 8), dim=st.integers(2, 5), classes=st.integers(1, 6),
    constants=st.sampled_from([(32.0, 0.1), (1.0, 0.0), (64.0, -0.2)]), seed=st.integers(0, 10_000),
)  # fmt: skip
def test_is_equation_4(size: int, dim: int, classes: int, constants: tuple[float, float], seed: int) -> None:
    torch.manual_seed(seed)
    loss = ProxyAnchorLoss(classes, dim, *constants).double()
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
    loss, peer = ProxyAnchorLoss(classes, dim).double(), peers.ProxyAnchorLoss(classes, dim).double()
    with torch.no_grad():
        peer.proxies.copy_(loss.proxies)
    embeddings = torch.randn(batch, dim, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(classes, (batch,))
    ours, theirs = loss(embeddings, labels), peer(embeddings, labels)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, [embeddings, loss.proxies]),
        torch.autograd.grad(theirs, [embeddings, peer.proxies]),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_gradient() -> None:
    torch.manual_seed(0)
    loss = ProxyAnchorLoss(4, 3, alpha=8.0).double()
    embeddings = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    proxies = loss.proxies.detach().clone().requires_grad_()

    def value(e: Tensor, p: Tensor) -> Tensor:
        return torch.func.functional_call(loss, {"proxies": p}, (e, torch.arange(6) % 4))

    assert torch.autograd.gradcheck(value, (embeddings, proxies))


def test_classes_without_embeddings_are_only_pushed() -> None:
    torch.manual_seed(0)
    loss = ProxyAnchorLoss(3, 4)
    loss(torch.randn(5, 4), torch.zeros(5, dtype=torch.int64)).backward()
    assert loss.proxies.grad is not None and loss.proxies.grad.abs().sum(1).min() > 0
    # One class in all: nothing to push, and at the proxy itself next to nothing to pull.
    alone = ProxyAnchorLoss(1, 4)
    assert alone(alone.proxies.detach(), torch.tensor([0])) < 1e-6


def test_nan_is_seen_and_zero_is_safe() -> None:
    loss, labels = ProxyAnchorLoss(3, 2), torch.tensor([0, 1])
    assert loss(torch.tensor([[1.0, 2], [torch.nan, 1]]), labels).isnan()
    embeddings = torch.zeros(2, 2, requires_grad=True)
    loss(embeddings, labels).backward()
    assert embeddings.grad is not None and not embeddings.grad.any()


def test_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    loss = ProxyAnchorLoss(5, 16)
    embeddings, labels = torch.randn(12, 16), torch.arange(12) % 5
    with torch.autocast("cpu", torch.bfloat16):
        actual, half = loss(embeddings, labels), loss(embeddings.bfloat16(), labels)
    assert actual.dtype == half.dtype == torch.float32
    torch.testing.assert_close(actual, oracle(loss, embeddings, labels).float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(half, oracle(loss, embeddings.bfloat16(), labels).float(), rtol=1e-5, atol=1e-5)


def test_proxies_learn_at_a_multiple_of_the_rate() -> None:
    loss = ProxyAnchorLoss(5, 3)
    assert loss.parameter_groups(1e-4) == [{"params": [loss.proxies], "lr": 1e-2}]
    assert loss.proxies.shape == (5, 3) and list(loss.state_dict()) == ["proxies"]
    assert "alpha=32" in repr(loss) and "delta=0.1" in repr(loss)


def test_errors_name_the_argument() -> None:
    loss = ProxyAnchorLoss(3, 2)
    with pytest.raises(ValueError, match="labels: expected 0 to 2, got 0 to 3"):
        loss(torch.ones(2, 2), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match=r"\[B, 2\]"):
        loss(torch.ones(2, 3), torch.tensor([0, 1]))
    for arguments in [{"num_classes": 0}, {"embedding_dim": 0}, {"alpha": 0.0}, {"delta": float("nan")}]:
        with pytest.raises(ValueError, match=next(iter(arguments))):
            ProxyAnchorLoss(**{"num_classes": 3, "embedding_dim": 2, **arguments})  # type: ignore[arg-type]
