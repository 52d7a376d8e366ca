"""`squared_norms` against its definition in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES
from tolerance import assert_as_good_as

from robustdml_ext import ops
from robustdml_ext.ops.squared_norms import squared_norms_reference


@given(st.integers(0, 9), st.integers(0, 70), st.sampled_from(DEVICES), st.integers(0, 99))
def test_it_is_its_definition(count: int, dimensions: int, device: str, seed: int) -> None:
    rows = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed)).to(device)
    exact = (
        torch.stack([sum((v * v for v in row), row.new_zeros(())) for row in rows.double()])
        if count
        else rows[:, :0].sum(1)
    )
    assert_as_good_as(ops.squared_norms(rows), squared_norms_reference(rows), exact)


def test_its_gradient_is_right() -> None:
    rows = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(ops.squared_norms, (rows,))


def test_it_says_what_it_expects() -> None:
    with pytest.raises(ValueError, match="rows"):
        ops.squared_norms(torch.rand(3))
