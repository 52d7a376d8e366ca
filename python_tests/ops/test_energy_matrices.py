"""Energy confusion, energy distance and linear MMD of every pair of classes: equations 5 and 7, and the lemmas."""

from __future__ import annotations

import pytest
import torch
from energy_confusion_cases import expectations, labelings
from hypothesis import given
from hypothesis import strategies as st
from strategies import DEVICES, devices, seeds, values

from robustdml_ext.ops.energy_confusion import (
    energy_confusion,
    energy_distance,
    maximum_mean_discrepancy,
    pairwise_energy_confusion,
)


@given(st.data(), st.sampled_from([2, 5, 9, 33]), st.sampled_from([1, 4, 40]), st.sampled_from(["float32", "float64"]),
       devices(), seeds(), st.sampled_from([0.0, 1e-3, 1.0, 1e3]), st.sampled_from([0.0, 100.0]))  # fmt: skip
def test_lemmas_2_and_3(
    data: st.DataObject, rows: int, width: int, precision: str, device: str, seed: int, spread: float, offset: float
) -> None:
    """L_ec ≥ D_E / 2 and L_ec ≥ γ², of our values and of the definitions, which agree."""
    dtype = getattr(torch, precision)
    labels = data.draw(labelings(rows)).to(device)
    centers = values((rows, width), torch.float64, device, seed)
    x = (centers[(labels % rows)] + values((rows, width), torch.float64, device, seed + 1, spread) + offset).to(dtype)
    confusion, distance = pairwise_energy_confusion(x, labels), energy_distance(x, labels)
    discrepancy = maximum_mean_discrepancy(x, labels)

    exact = expectations(x.double(), labels)
    own = exact.diagonal()
    exact_distance = 2 * exact - own[:, None] - own[None, :]
    member = (labels == labels.unique()[:, None]).double()
    kernel = member / member.sum(1, keepdim=True)
    kernel = kernel @ (x.double() @ x.double().T) @ kernel.T
    exact_discrepancy = kernel.diagonal()[:, None] + kernel.diagonal()[None, :] - 2 * kernel

    # One rounding of the result; and what float64 leaves where the definitions cancel.
    eps, size = torch.finfo(dtype).eps, x.double().square().sum(1).max().item()
    cancelled = 100 * torch.finfo(torch.float64).eps * size
    torch.testing.assert_close(confusion.double(), exact, rtol=2 * eps, atol=cancelled)
    torch.testing.assert_close(distance.double(), exact_distance, rtol=2 * eps, atol=cancelled)
    torch.testing.assert_close(discrepancy.double(), exact_discrepancy, rtol=2 * eps, atol=cancelled)
    assert (exact >= exact_distance / 2 - cancelled).all() and (exact >= exact_discrepancy - cancelled).all()
    # Each side is rounded once from sums that satisfy the lemma up to float64's own rounding.
    slack = eps * confusion.double() + 1e-13 * exact.abs().max()
    assert (confusion.double() + slack >= distance.double() / 2).all()
    assert (confusion.double() + slack >= discrepancy.double()).all()
    assert torch.equal(distance, 2 * discrepancy) and torch.equal(discrepancy, discrepancy.T)


@pytest.mark.parametrize("device", DEVICES)
def test_the_sum_of_the_matrix_is_the_loss(device: str) -> None:
    x, labels = values((30, 8), torch.float64, device, 0), (torch.arange(30) % 7).to(device)
    energies = pairwise_energy_confusion(x, labels)
    off = ~torch.eye(7, dtype=torch.bool, device=device)
    torch.testing.assert_close(energy_confusion(x, labels), energies[off].sum())
    torch.testing.assert_close(energy_confusion(x, labels, logarithmic=True), energies[off].log1p().sum())
    pairs = torch.tensor([[2, 5], [5, 2], [0, 6]], device=device)
    expected = energies[pairs[:, 0], pairs[:, 1]].mean()
    torch.testing.assert_close(energy_confusion(x, labels, pairs=pairs, reduction="mean"), expected)
    assert pairwise_energy_confusion(x[:0], labels[:0]).shape == (0, 0)


@pytest.mark.parametrize("device", DEVICES)
def test_one_class_has_a_gradient_though_no_pair(device: str) -> None:
    x = values((5, 3), torch.float64, device, 0).requires_grad_()
    labels = torch.zeros(5, dtype=torch.int64, device=device)
    assert torch.autograd.gradcheck(lambda x: pairwise_energy_confusion(x, labels), x)
    assert torch.autograd.grad(pairwise_energy_confusion(x, labels).sum(), x)[0].any()
