"""Binomial deviance against equation 10 of ECAML, written as loops."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from written_out import Batch, assert_is, batches, mean_of

from robustdml_ext.losses.binomial import BinomialDevianceLoss


@given(batches(), st.sampled_from([(2, 0.5, 25), (1.5, 0.2, 3), (40, 0, 2)]), st.sampled_from(["mean", "sum"]))
def test_is_equation_10(batch: Batch, constants: tuple[float, float, float], reduction: str) -> None:
    alpha, beta, eta = constants

    def equation(batch: Batch) -> Tensor:
        x, y = batch.points(normalize=False)
        sides: tuple[list[Tensor], list[Tensor]] = ([], [])
        for i, positives, negatives in batch.anchors():
            for side, others in enumerate((negatives, positives)):
                for j in others:
                    cosine = x[i] @ y[j] / (x[i].norm() * y[j].norm())
                    penalty = 1 if side == 1 else eta
                    sides[side].append(torch.log(1 + torch.exp(-(2 * side - 1) * alpha * (cosine - beta) * penalty)))
        return mean_of(sides[0], reduction) + mean_of(sides[1], reduction)

    assert_is(BinomialDevianceLoss(alpha, beta, eta, reduction), equation, batch)


def test_defaults_are_the_papers_and_the_sum_is_as_printed() -> None:
    torch.manual_seed(0)
    x, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 2])
    cosines = torch.nn.functional.cosine_similarity(x[:, None], x, dim=2)
    total = 0.0
    for i in range(6):
        for j in range(6):
            if i != j:
                s = 1 if labels[i] == labels[j] else 0
                exponent = -(2 * s - 1) * 2 * (cosines[i, j] - 0.5) * (1 if s else 25)
                total += torch.log1p(torch.exp(exponent)).item()
    assert BinomialDevianceLoss(reduction="sum")(x, labels).item() == pytest.approx(total)


def test_gradient() -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(BinomialDevianceLoss(), (embeddings, torch.arange(8) // 2))


def test_extremes_stay_finite() -> None:
    x = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]], requires_grad=True)
    loss = BinomialDevianceLoss(alpha=1e4, eta=1e4)(x, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


def test_wrong_settings_are_refused() -> None:
    for settings, message in (({"alpha": 0}, "alpha"), ({"eta": -1}, "eta"), ({"reduction": "nonzero"}, "mean or sum"),
                              ({"beta": float("nan")}, "alpha, beta, eta")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            BinomialDevianceLoss(**settings)  # type: ignore[arg-type]
    assert "eta=25.0" in repr(BinomialDevianceLoss())
