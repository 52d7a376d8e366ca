"""Triplet loss against equation 8 of ECAML, written as loops, and against pytorch-metric-learning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from written_out import Batch, assert_is, assert_is_the_library_s, batches, distance, hinge, mean_of

from robustdml_ext.losses.triplet import TripletLoss

MINING = ["all", "semihard", "hardest"]


@given(
    batches(), st.sampled_from([0.1, 1.0]), st.sampled_from(MINING), st.booleans(), st.booleans(),
    st.sampled_from(["mean", "sum", "nonzero"]),
)  # fmt: skip
def test_is_equation_8(
    batch: Batch, margin: float, mining: str, squared: bool, normalize: bool, reduction: str
) -> None:
    assume(not (normalize and batch.embeddings.shape[1] == 1))

    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(normalize)
        terms = []
        for i, positives, negatives in batch.anchors():
            near = [distance(x[i], y[p], squared) for p in positives]
            far = [distance(x[i], y[n], squared) for n in negatives]
            if mining == "hardest" and near and far:
                near, far = [max(near, key=Tensor.item)], [min(far, key=Tensor.item)]
            triplets = [(p, n) for p in near for n in far]
            if mining == "semihard":
                triplets = [(p, n) for p, n in triplets if p.item() < n.item() < p.item() + margin]
            terms += [hinge(p - n + margin) for p, n in triplets]
        return mean_of(terms, reduction)

    assert_is(TripletLoss(margin, mining, squared, normalize, reduction), equation, batch)


@given(batches(), st.sampled_from(MINING), st.booleans(), st.sampled_from(["mean", "nonzero"]))
def test_is_the_library_s(batch: Batch, mining: str, squared: bool, reduction: str) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import TripletMarginLoss
    from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
    from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

    assume(batch.embeddings.shape[1] > 1 and batch.self_offset is None)
    lp = LpDistance(power=2 if squared else 1)
    reducer = {"mean": MeanReducer, "nonzero": AvgNonZeroReducer}[reduction]()
    loss = TripletMarginLoss(0.3, distance=lp, reducer=reducer)

    def library(embeddings: Tensor, labels: Tensor, **reference: Tensor) -> Tensor:
        mined = None
        if mining == "semihard":
            mined = TripletMarginMiner(0.3, "semihard", distance=lp)(embeddings, labels, **reference)
        elif mining == "hardest":
            mined = BatchHardMiner(distance=lp)(embeddings, labels, **reference)
        value: Tensor = loss(embeddings, labels, mined, **reference)
        return value

    assert_is_the_library_s(TripletLoss(0.3, mining, squared, reduction=reduction), library, batch)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("mining", MINING)
def test_gradient(mining: str, squared: bool) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    loss = TripletLoss(0.3, mining, squared)
    assert torch.autograd.gradcheck(loss, (embeddings, torch.arange(8) // 2))


def test_ties_of_the_hardest_go_to_the_smallest_index() -> None:
    x = torch.tensor([[0.0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64, requires_grad=True)
    loss = TripletLoss(1.0, "hardest", normalize=False, reduction="sum")
    value = loss(x[:1], torch.tensor([0]), x[1:], torch.tensor([0, 0, 1, 1]))
    (gradient,) = torch.autograd.grad(value, x)
    assert value == 1 and torch.equal(gradient.any(1), torch.tensor([True, True, False, True, False]))


def test_wrong_settings_are_refused() -> None:
    for settings, message in (({"mining": "easy"}, "mining: expected one of all, semihard, hardest"),
                              ({"reduction": "none"}, "mean, sum or nonzero"),
                              ({"margin": float("nan")}, "margin")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            TripletLoss(**settings)  # type: ignore[arg-type]
    assert "mining='all'" in repr(TripletLoss())
