"""N-pair loss against equation 9 of ECAML, written as loops, and against its form as a cross-entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from written_out import Batch, assert_is, assert_is_the_library_s, batches, mean_of

from robustdml_ext.losses.npair import NPairLoss


@given(batches(), st.booleans(), st.sampled_from(["mean", "sum"]))
def test_is_equation_9(batch: Batch, normalize: bool, reduction: str) -> None:
    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(normalize)
        terms = []
        for i, positives, negatives in batch.anchors():
            for p in positives:
                exponents = [torch.exp(x[i] @ y[n] - x[i] @ y[p]) for n in negatives]
                terms.append(torch.log(1 + sum(exponents, torch.zeros(()))))
        return mean_of(terms, reduction)

    assert_is(NPairLoss(reduction, normalize), equation, batch)


@given(batches(), st.sampled_from([0.5, 10.0]))
def test_all_embeddings_of_one_length(batch: Batch, scale: float) -> None:
    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(True)
        terms = []
        for i, positives, negatives in batch.anchors():
            for p in positives:
                exponents = [torch.exp(scale**2 * (x[i] @ y[n] - x[i] @ y[p])) for n in negatives]
                terms.append(torch.log(1 + sum(exponents, torch.zeros(()))))
        return mean_of(terms, "mean")

    assert_is(NPairLoss(scale=scale), equation, batch)


def test_one_positive_each_is_a_cross_entropy() -> None:
    """With one example of each class on either side, log(1 + Σ exp(s_n − s_p)) = −log softmax(s)_p."""
    torch.manual_seed(0)
    anchors, positives, labels = torch.randn(7, 16), torch.randn(7, 16), torch.randperm(7)
    expected = F.cross_entropy(anchors @ positives.T, torch.arange(7))
    torch.testing.assert_close(NPairLoss()(anchors, labels, positives, labels), expected)


@given(batches(), st.booleans())
def test_is_the_library_s_cross_entropy_over_pairs(batch: Batch, normalize: bool) -> None:
    """What pytorch-metric-learning calls NTXentLoss is, at temperature 1, this loss over all pairs."""
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import DotProductSimilarity
    from pytorch_metric_learning.losses import NTXentLoss

    assume(batch.embeddings.shape[1] > 1 and batch.self_offset is None)
    library = NTXentLoss(temperature=1, distance=DotProductSimilarity(normalize_embeddings=normalize))
    assert_is_the_library_s(NPairLoss(normalize=normalize), library, batch)


def test_gradient() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(NPairLoss(), (embeddings, torch.arange(8) // 2))


def test_long_embeddings_stay_finite() -> None:
    x = torch.full((6, 4), 1e3).requires_grad_()
    x_signed = x * torch.tensor([1.0, -1, 1, 1, -1, 1])[:, None]
    loss = NPairLoss()(x_signed, torch.arange(6) // 2)
    loss.backward()
    assert loss.isfinite() and loss > 1e6 and x.grad is not None and x.grad.isfinite().all()


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="mean or sum"):
        NPairLoss(reduction="nonzero")
    with pytest.raises(ValueError, match="scale"):
        NPairLoss(scale=0)
    assert "normalize=False" in repr(NPairLoss())
