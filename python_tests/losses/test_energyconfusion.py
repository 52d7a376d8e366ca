"""Energy confusion as a loss: the paper's sums, and the random choice of class pairs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from robustdml_ext.losses.energyconfusion import EnergyConfusion


def by_loops(features: Tensor, labels: Tensor, logarithmic: bool) -> tuple[float, int]:
    """Σ over ordered pairs I ≠ J (equations 3, 7 and 11), and how many there are."""
    total, count = 0.0, 0
    classes = labels.unique().tolist()
    for one in classes:
        for other in classes:
            if one == other:
                continue
            members, others = features[labels == one].double(), features[labels == other].double()
            distances = [(x - z).square().sum().item() for x in members for z in others]
            energy = sum(distances) / len(distances)
            total, count = total + (math.log1p(energy) if logarithmic else energy), count + 1
    return total, count


@pytest.mark.parametrize("logarithmic", [False, True])
def test_is_equations_7_and_11(logarithmic: bool) -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(13, 6), torch.tensor([4, 4, -1, 4, 7, 7, 0, 0, 0, 0, 7, 2, -1])
    total, count = by_loops(features, labels, logarithmic)
    assert EnergyConfusion(logarithmic)(features, labels).item() == pytest.approx(total, rel=1e-6)
    mean = EnergyConfusion(logarithmic, reduction="mean")(features, labels)
    assert count == 20 and mean.item() == pytest.approx(total / count, rel=1e-6)


def test_descent_draws_classes_together() -> None:
    torch.manual_seed(0)
    features, labels = torch.randn(16, 4, requires_grad=True), torch.arange(16) // 2
    loss = EnergyConfusion(reduction="mean")
    before = loss(features, labels)
    (gradient,) = torch.autograd.grad(before, features)
    assert loss((features - 0.5 * gradient).detach(), labels) < before


def test_drawn_pairs() -> None:
    labels = torch.tensor([5, 5, 9, -2, -2, 9, 30])
    loss = EnergyConfusion(reduction="mean", pairs=6000, generator=torch.Generator().manual_seed(0))
    drawn = loss._draw(labels, 6000)
    assert drawn.shape == (6000, 2) and (drawn[:, 0] != drawn[:, 1]).all()
    # Every ordered pair is as likely: 500 of each, with a deviation of about 21.
    counts = torch.bincount(drawn[:, 0] * 4 + drawn[:, 1], minlength=16)
    assert counts[[0, 5, 10, 15]].sum() == 0
    others = counts[counts > 0]
    assert len(others) == 12 and (others - 500).abs().max() < 100

    features = torch.randn(7, 5, generator=torch.Generator().manual_seed(1))
    every = EnergyConfusion(reduction="mean")(features, labels)
    assert loss(features, labels).item() == pytest.approx(every.item(), rel=0.02)
    one, two = (
        EnergyConfusion(pairs=3, generator=torch.Generator().manual_seed(7))(features, labels) for _ in range(2)
    )
    assert torch.equal(one, two)


@pytest.mark.parametrize("pairs", [None, 4])
def test_one_class_has_no_loss_and_no_gradient(pairs: int | None) -> None:
    features = torch.randn(5, 3, requires_grad=True)
    for reduction in ("sum", "mean"):
        loss = EnergyConfusion(reduction=reduction, pairs=pairs)(features, torch.full((5,), 2))
        assert loss.item() == 0 and not torch.autograd.grad(loss, features)[0].any()


def test_compiles_and_computes_in_single_precision_under_autocast() -> None:
    features, labels = torch.randn(12, 16), torch.arange(12) // 3
    for loss in (EnergyConfusion(), EnergyConfusion(pairs=5)):
        torch.manual_seed(0)
        expected = loss(features, labels)
        torch.manual_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            actual = loss(features, labels)
        assert actual.dtype == torch.float32 and torch.equal(actual, expected)
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        torch.manual_seed(0)
        torch.testing.assert_close(compiled(features, labels), expected)


def test_errors_name_the_argument() -> None:
    loss = EnergyConfusion()
    assert loss.parameter_groups(1e-3) == []
    assert repr(EnergyConfusion(pairs=8)) == "EnergyConfusion(logarithmic=True, reduction='sum', pairs=8)"
    for features, labels, error, message in [
        (torch.zeros(3, 2), torch.zeros(3), TypeError, "labels"),
        (torch.zeros(3), torch.zeros(3, dtype=torch.int64), ValueError, "embeddings"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), ValueError, "B >= 1"),
        (torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64), ValueError, "labels"),
    ]:
        with pytest.raises(error, match=message):
            loss(features, labels)
    with pytest.raises(ValueError, match="reduction"):
        EnergyConfusion(reduction="none")
    with pytest.raises(ValueError, match="pairs"):
        EnergyConfusion(pairs=0)
