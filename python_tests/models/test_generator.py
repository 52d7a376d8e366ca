"""The hard negative generator: three layers on concatenated features, without the concatenation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, seeds, values
from tolerance import assert_as_good_as
from torch import Tensor

from robustdml_ext.models.generator import HardNegativeGenerator, Tuples


def concatenated(generator: HardNegativeGenerator, features: Tensor, tuples: Tuples) -> Tensor:
    """The same on `[T, M, 3F]`."""
    count = tuples.negatives.shape[1]
    anchor, positive = (features[rows][:, None].expand(-1, count, -1) for rows in (tuples.anchor, tuples.positive))
    joined = torch.cat([features[tuples.negatives], anchor, positive], dim=2)
    return generator.third(generator.second(generator.first(joined).relu()).relu())


def drawn(rows: int, tuples: int, count: int, device: str, seed: int) -> Tuples:
    generator = torch.Generator().manual_seed(seed)
    anchor, positive = (torch.randint(rows, (tuples,), generator=generator).to(device) for _ in range(2))
    return Tuples(anchor, positive, torch.randint(rows, (tuples, count), generator=generator).to(device))


@given(st.integers(1, 9), st.integers(0, 7), st.integers(0, 5), st.integers(1, 17), st.sampled_from([None, 1, 33]),
       devices(), seeds())  # fmt: skip
def test_is_the_concatenated_form_and_its_gradient(
    rows: int, tuples: int, count: int, width: int, hidden: int | None, device: str, seed: int
) -> None:
    torch.manual_seed(seed)
    generator = HardNegativeGenerator(width, hidden).double().to(device)
    features = values((rows, width), torch.float64, device, seed).requires_grad_()
    chosen = drawn(rows, tuples, count, device, seed)
    actual, expected = generator(features, chosen), concatenated(generator, features, chosen)
    assert actual.shape == (tuples, count, width)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(actual)
    at = [features, *generator.parameters()]
    for one, other in zip(torch.autograd.grad((actual * weights).sum(), at),
                          torch.autograd.grad((expected * weights).sum(), at), strict=True):  # fmt: skip
        torch.testing.assert_close(one, other)


@given(st.integers(1, 9), st.integers(0, 7), st.integers(0, 5), st.integers(1, 17), devices(), seeds())
def test_both_players_have_one_pass_and_a_gradient_each(
    rows: int, tuples: int, count: int, width: int, device: str, seed: int
) -> None:
    torch.manual_seed(seed)
    generator = HardNegativeGenerator(width, 6).double().to(device)
    features = values((rows, width), torch.float64, device, seed).requires_grad_()
    chosen = drawn(rows, tuples, count, device, seed)
    first, second = generator.for_both_players(features, chosen)
    exact = concatenated(generator, features, chosen)
    torch.testing.assert_close(first, exact)
    torch.testing.assert_close(second, exact)
    weights, others = torch.randn_like(exact), torch.randn_like(exact)
    parameters = list(generator.parameters())
    loss = (first * weights).sum() + (second * others).sum()
    actual = torch.autograd.grad(loss, [features, *parameters], materialize_grads=True)
    of_features = torch.autograd.grad((exact * others).sum(), features, retain_graph=True, materialize_grads=True)
    of_parameters = torch.autograd.grad((exact * weights).sum(), parameters, materialize_grads=True)
    for one, other in zip(actual, [*of_features, *of_parameters], strict=True):
        torch.testing.assert_close(one, other)
    alone, _ = generator.for_both_players(features.detach(), chosen)
    for one, other in zip(torch.autograd.grad((alone * weights).sum(), parameters), of_parameters, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("device", DEVICES)
def test_is_as_exact_as_the_concatenated_form(device: str) -> None:
    torch.manual_seed(0)
    generator = HardNegativeGenerator(64).to(device)
    features = values((40, 64), torch.float32, device, 0, 3.0)
    chosen = drawn(40, 50, 20, device, 1)
    plain = concatenated(generator, features, chosen)
    actual = generator(features, chosen)
    exact = concatenated(generator.double(), features.double(), chosen)
    assert_as_good_as(actual, plain, exact)


def test_keeps_its_precision_under_autocast_and_names_what_does_not_fit() -> None:
    generator, chosen = HardNegativeGenerator(4), drawn(5, 3, 2, "cpu", 0)
    with torch.autocast("cpu", torch.bfloat16):
        assert generator(torch.rand(5, 4, dtype=torch.bfloat16), chosen).dtype == torch.float32
    with pytest.raises(ValueError, match=r"features: expected \[B, 4\], got \[5, 3\]"):
        generator(torch.rand(5, 3), chosen)
    with pytest.raises(ValueError, match="feature_dim: expected >= 1, got 0"):
        HardNegativeGenerator(0)
    with pytest.raises(TypeError, match="hidden: expected a whole number, got float"):
        HardNegativeGenerator(4, 2.5)  # type: ignore[arg-type]
