"""Objectives against the equations, written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from robustdml_ext.attacks import AwayFromClean, FromStart, Joined, TowardsTargets


def equation_3(f: Tensor, bank: Tensor, targets: Tensor, p: float, squared: bool) -> Tensor:
    """Mean over the targets, one at a time."""
    rows = []
    for i in range(len(f)):
        norms = [torch.linalg.vector_norm(f[i] - bank[t], ord=p) for t in targets[i].tolist()]
        rows.append(torch.stack([norm**2 if squared else norm for norm in norms]).mean())
    return torch.stack(rows)


@given(
    count=st.integers(1, 6),
    p=st.sampled_from([1, 2, math.inf]),
    squared=st.booleans(),
    seed=st.integers(0, 10_000),
)
def test_towards_targets_is_equation_3(count: int, p: float, squared: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    f = torch.randn(5, 4, dtype=torch.float64, generator=generator, requires_grad=True)
    bank = torch.randn(9, 4, dtype=torch.float64, generator=generator)
    targets = torch.randint(9, (5, count), generator=generator)
    objective = TowardsTargets(bank, targets, p, squared)
    assert not objective.maximize
    value, expected = objective(f), equation_3(f, bank, targets, p, squared)
    torch.testing.assert_close(value, expected)
    (gradient,) = torch.autograd.grad(value.sum(), f)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), f)[0])


def test_many_targets_cost_one_row_of_a_bank() -> None:
    bank, targets = torch.randn(9, 4), torch.randint(9, (5, 3))
    objective = TowardsTargets(bank, targets)
    assert objective._targets.shape == (5, 1) and objective._bank.shape == (5, 4)


def test_no_gradient_to_the_bank_and_half_precision_embeddings() -> None:
    bank = torch.randn(9, 4, requires_grad=True)
    f = torch.randn(5, 4).bfloat16().requires_grad_()
    for count in (1, 3):
        value = TowardsTargets(bank, torch.randint(9, (5, count)))(f)
        assert value.dtype == torch.float32
        value.sum().backward()
    assert bank.grad is None and f.grad is not None


def test_away_from_clean() -> None:
    clean, f = torch.randn(2, 6, 4, dtype=torch.float64).unbind()
    l2, cosine = AwayFromClean(clean, "l2"), AwayFromClean(clean)
    assert l2.maximize and cosine.maximize
    torch.testing.assert_close(l2(f), (f - clean).square().sum(1))
    torch.testing.assert_close(cosine(f), 1 - (f * clean).sum(1) / (f.norm(dim=1) * clean.norm(dim=1)))
    with pytest.raises(ValueError, match="metric"):
        AwayFromClean(clean, "l1")


def test_joined_and_from_start() -> None:
    bank, f = torch.randn(9, 4), torch.randn(5, 4)
    first, second = (
        TowardsTargets(bank, torch.randint(9, (2, 1))),
        TowardsTargets(bank, torch.randint(9, (3, 4))),
    )
    joined = Joined(
        [first, FromStart(lambda start: TowardsTargets(start, torch.zeros(3, 1, dtype=torch.int64)))], [2, 3]
    )
    with pytest.raises(RuntimeError, match="started"):
        joined(f)
    value = joined.at_start(f)(f)
    torch.testing.assert_close(value, torch.cat([first(f[:2]), (f[2:] - f[2]).square().sum(1)]))
    torch.testing.assert_close(Joined([first, second], [2, 3])(f), torch.cat([first(f[:2]), second(f[2:])]))
    with pytest.raises(ValueError, match="minimized"):
        Joined([first, AwayFromClean(f[2:])], [2, 3])
    with pytest.raises(ValueError, match="sizes"):
        Joined([first], [2, 3])
    with pytest.raises(ValueError, match="maximize"):
        FromStart(lambda start: AwayFromClean(start)).at_start(f)
