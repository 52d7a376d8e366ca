"""Contrastive loss against its equation, written as loops, and against pytorch-metric-learning."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from written_out import Batch, assert_is, assert_is_the_library_s, batches, distance, hinge, mean_of

from robustdml_ext.losses.contrastive import ContrastiveLoss


@given(
    batches(), st.sampled_from([(0.0, 1.0), (0.2, 0.7)]), st.sampled_from([1, 2]), st.booleans(), st.booleans(),
    st.sampled_from(["mean", "sum", "nonzero"]),
)  # fmt: skip
def test_is_its_equation(
    batch: Batch, margins: tuple[float, float], power: int, squared: bool, normalize: bool, reduction: str
) -> None:
    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(normalize)
        pull, push = [], []
        for i, positives, negatives in batch.anchors():
            pull += [hinge(distance(x[i], y[p], squared) - margins[0]) ** power for p in positives]
            push += [hinge(margins[1] - distance(x[i], y[n], squared)) ** power for n in negatives]
        return mean_of(pull, reduction) + mean_of(push, reduction)

    # Unit vectors of one dimension coincide: the equation's distances are 0, and have no gradient.
    assume(not (normalize and batch.embeddings.shape[1] == 1))
    assert_is(ContrastiveLoss(*margins, power, squared, normalize, reduction), equation, batch)


@given(batches(), st.booleans(), st.sampled_from(["mean", "nonzero"]))
def test_is_the_library_s(batch: Batch, squared: bool, reduction: str) -> None:
    pytest.importorskip("pytorch_metric_learning")
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.losses import ContrastiveLoss as Library
    from pytorch_metric_learning.reducers import AvgNonZeroReducer, MeanReducer

    assume(batch.embeddings.shape[1] > 1 and batch.self_offset is None)
    reducer = {"mean": MeanReducer, "nonzero": AvgNonZeroReducer}[reduction]()
    library = Library(distance=LpDistance(power=2 if squared else 1), reducer=reducer)
    assert_is_the_library_s(ContrastiveLoss(squared=squared, reduction=reduction), library, batch)
    if reduction == "nonzero" and not squared:
        assert_is_the_library_s(ContrastiveLoss(), Library(), batch)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("power", [1, 2])
def test_gradient(power: int, squared: bool) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    loss = ContrastiveLoss(power=power, squared=squared, reduction="mean")
    assert torch.autograd.gradcheck(loss, (embeddings, torch.arange(8) // 2))


def test_wrong_settings_are_refused() -> None:
    for settings, message in (({"power": 3}, "power: expected 1 or 2"), ({"reduction": "max"}, "mean, sum or nonzero"),
                              ({"pos_margin": float("inf")}, "pos_margin, neg_margin, power")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            ContrastiveLoss(**settings)  # type: ignore[arg-type]
    assert "neg_margin=1.0" in repr(ContrastiveLoss()) and ContrastiveLoss().parameter_groups(0.1) == []
