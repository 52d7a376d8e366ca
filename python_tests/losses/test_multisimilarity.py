"""Multi-similarity loss against equations 14 and 15, written as loops."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from written_out import Batch, assert_is_the_library_s, batches

from robustdml_ext.losses import MultiSimilarityLoss


def oracle(
    embeddings: Tensor,
    labels: Tensor,
    alpha: float = 2,
    beta: float = 40,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> Tensor:
    size, rows = len(labels), []
    unit = embeddings.double() / embeddings.double().norm(dim=1, keepdim=True)
    for i in range(size):
        positives = [j for j in range(size) if j != i and labels[j] == labels[i]]
        negatives = [k for k in range(size) if labels[k] != labels[i]]
        s = [unit[i] @ unit[j] for j in range(size)]
        hardest_negative = max((s[k].item() for k in negatives), default=-math.inf)
        hardest_positive = min((s[j].item() for j in positives), default=math.inf)
        mined_positives = [j for j in positives if s[j].item() < hardest_negative + epsilon]
        mined_negatives = [k for k in negatives if s[k].item() > hardest_positive - epsilon]
        one = embeddings.new_ones((), dtype=torch.float64)
        pull = sum((torch.exp(-alpha * (s[j] - base)) for j in mined_positives), one)
        push = sum((torch.exp(beta * (s[k] - base)) for k in mined_negatives), one)
        rows.append(pull.log() / alpha + push.log() / beta)
    return torch.stack(rows).sum() / size


@given(
    size=st.integers(1, 14), dim=st.integers(2, 5), classes=st.integers(1, 6),
    spread=st.sampled_from([0.01, 0.3, 3.0]),
    seed=st.integers(0, 10_000),
    constants=st.sampled_from([(2, 40, 0.5, 0.1), (1, 10, 0.2, 0.0), (5, 50, 0.9, 0.5)]),
)  # fmt: skip
def test_is_equations_14_and_15(
    size: int, dim: int, classes: int, spread: float, seed: int, constants: tuple[float, float, float, float]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.ones(size, dim, dtype=torch.float64)
    embeddings = (
        embeddings + spread * torch.randn(size, dim, dtype=torch.float64, generator=generator)
    ).requires_grad_()
    labels = torch.randint(classes, (size,), generator=generator)
    actual, expected = (
        MultiSimilarityLoss(*constants)(embeddings, labels),
        oracle(embeddings, labels, *constants),
    )
    torch.testing.assert_close(actual, expected)
    (gradient,) = torch.autograd.grad(actual, embeddings)
    correct = torch.autograd.grad(expected, embeddings)[0] if expected.requires_grad else torch.zeros_like(gradient)
    torch.testing.assert_close(gradient, correct, atol=1e-9, rtol=1e-6)


@given(batches(), st.sampled_from([(2, 40, 0.5, 0.1), (1, 10, 0.2, 0.0)]))
def test_is_the_library_s_with_a_reference_too(batch: Batch, constants: tuple[float, float, float, float]) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.losses import MultiSimilarityLoss as Library
    from pytorch_metric_learning.miners import MultiSimilarityMiner

    assume(batch.embeddings.shape[1] > 1 and batch.self_offset is None)
    alpha, beta, base, epsilon = constants

    def library(embeddings: Tensor, labels: Tensor, **reference: Tensor) -> Tensor:
        mined = MultiSimilarityMiner(epsilon)(embeddings, labels, **reference)
        assume(any(len(index) > 1 for index in mined))  # one pair of each sort it takes for none
        value: Tensor = Library(alpha, beta, base)(embeddings, labels, mined, **reference)
        return value

    assert_is_the_library_s(MultiSimilarityLoss(*constants), library, batch)


def test_a_gathered_batch_leaves_anchors_out_of_their_own_pairs() -> None:
    """Each process's loss over the gathered batch: their mean is the loss of the whole batch, as are the gradients."""
    torch.manual_seed(0)
    x, labels = torch.randn(12, 5, dtype=torch.float64, requires_grad=True), torch.arange(12) % 4
    loss = MultiSimilarityLoss()
    whole = loss(x, labels)
    parts = [loss(x[i : i + 4], labels[i : i + 4], x, labels, self_offset=i) for i in (0, 4, 8)]
    mean = torch.stack(parts).mean()
    torch.testing.assert_close(mean, whole)
    torch.testing.assert_close(*(torch.autograd.grad(each, x)[0] for each in (mean, whole)))


def test_a_memory_in_another_precision() -> None:
    torch.manual_seed(0)
    x, memory, labels = torch.randn(6, 5), torch.randn(9, 5, requires_grad=True), torch.arange(9) % 3
    half = x.bfloat16().requires_grad_()
    actual = MultiSimilarityLoss()(half, labels[:6], memory, labels)
    assert torch.equal(actual, MultiSimilarityLoss()(half.detach().float(), labels[:6], memory, labels))
    gradients = torch.autograd.grad(actual, (half, memory))
    assert gradients[0].dtype == torch.bfloat16 and gradients[1].dtype == torch.float32


def test_gradient() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(MultiSimilarityLoss(), (embeddings, torch.arange(8) // 2))


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [5]])
def test_no_pairs_no_loss_and_no_gradient(labels: list[int]) -> None:
    embeddings = torch.randn(len(labels), 3, requires_grad=True)
    loss = MultiSimilarityLoss()(embeddings, torch.tensor(labels))
    loss.backward()
    assert loss.item() == 0 and torch.equal(embeddings.grad, torch.zeros_like(embeddings))


def test_extremes_stay_finite_and_nan_is_seen() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    loss = MultiSimilarityLoss(alpha=1000, beta=1000)
    for embeddings in (
        torch.ones(4, 2),
        torch.zeros(4, 2),
        torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]]),
    ):
        embeddings.requires_grad_()
        value = loss(embeddings, labels)
        value.backward()
        assert value.isfinite() and embeddings.grad.isfinite().all()
    for bad in range(4):
        embeddings = torch.randn(4, 2)
        embeddings[bad, 0] = torch.nan
        assert MultiSimilarityLoss()(embeddings, labels).isnan()


def test_single_precision_under_autocast() -> None:
    torch.manual_seed(0)
    embeddings, labels = torch.randn(12, 16), torch.arange(12) // 3
    expected = oracle(embeddings, labels).float()
    with torch.autocast("cpu", torch.bfloat16):
        actual = MultiSimilarityLoss()(embeddings, labels)
        half = MultiSimilarityLoss()(embeddings.bfloat16(), labels)
    assert actual.dtype == half.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(half, oracle(embeddings.bfloat16(), labels).float(), rtol=1e-5, atol=1e-6)


def test_errors_name_the_argument() -> None:
    loss = MultiSimilarityLoss()
    assert loss.parameter_groups(1e-3) == []
    for embeddings, labels, error, message in [
        (torch.zeros(3, 2), torch.zeros(3), TypeError, "labels"),
        (torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), TypeError, "embeddings"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), ValueError, "embeddings"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ValueError, "B >= 1"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), ValueError, "labels"),
    ]:
        with pytest.raises(error, match=message):
            loss(embeddings, labels)
    with pytest.raises(ValueError, match="reference_labels"):
        loss(torch.zeros(3, 2), torch.arange(3), torch.zeros(4, 2))
    with pytest.raises(ValueError, match="alpha"):
        MultiSimilarityLoss(alpha=0)
