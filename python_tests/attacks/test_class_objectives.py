"""What attackers of a classifier climb: cross-entropy, the margin, and the cross-entropy of probabilities."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdml_ext.attacks import CLASS_OBJECTIVES, PGD, ClassObjective, CrossEntropyAscent, MarginAscent
from robustdml_ext.attacks.class_objectives import ProbabilityAscent, margins


def _softmax(row: list[float]) -> list[float]:
    top = max(row)
    powers = [math.exp(value - top) for value in row]
    return [power / sum(powers) for power in powers]


def _cross_entropy(row: list[float], label: int) -> float:
    return -math.log(_softmax(row)[label])


def _margin(row: list[float], label: int) -> float:
    return max(value for j, value in enumerate(row) if j != label) - row[label]


WRITTEN_OUT = {
    "cross-entropy": _cross_entropy,
    "margin": _margin,
    "probabilities": lambda row, label: _cross_entropy(_softmax(row), label),
}


def _logits(batch: int, classes: int, seed: int, heads: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(batch, heads * classes, dtype=torch.float64, generator=generator)
    labels = torch.randint(classes, (batch,), generator=generator)
    if batch > 1:
        labels[0], labels[-1] = 0, classes - 1  # both ends
    return logits, labels


def test_every_name_has_its_objective() -> None:
    assert set(CLASS_OBJECTIVES) == set(WRITTEN_OUT)
    assert all(kind.maximize for kind in CLASS_OBJECTIVES.values())


@pytest.mark.parametrize("name", WRITTEN_OUT)
@given(batch=st.integers(0, 6), classes=st.integers(2, 7), heads=st.integers(1, 3), seed=st.integers(0, 999))
def test_values_are_sums_over_heads(name: str, batch: int, classes: int, heads: int, seed: int) -> None:
    logits, labels = _logits(batch, classes, seed, heads)
    values = CLASS_OBJECTIVES[name](labels, heads)(logits)
    expected = [
        sum(WRITTEN_OUT[name](row[h * classes : (h + 1) * classes], label) for h in range(heads))
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_gradients_are_those_of_differences(name: str) -> None:
    logits, labels = _logits(5, 4, 0, heads=2)
    logits.requires_grad_()
    (gradient,) = torch.autograd.grad(CLASS_OBJECTIVES[name](labels, 2)(logits).sum(), logits)
    step = 1e-6
    for i, row in enumerate(logits.detach().tolist()):
        for j in range(8):
            head = row[4 * (j // 4) : 4 * (j // 4 + 1)]
            moved = [[value + sign * step * (k == j % 4) for k, value in enumerate(head)] for sign in (1, -1)]
            up, down = (WRITTEN_OUT[name](values, int(labels[i])) for values in moved)
            assert float(gradient[i, j]) == pytest.approx((up - down) / (2 * step), abs=1e-7)


def test_margins_tell_hits_from_misses() -> None:
    logits = torch.tensor([[2.0, 5.0, 5.0], [5.0, 2.0, 5.0], [1.0, 2.0, 4.5], [7.0, 7.0, 7.0]], dtype=torch.float64)
    # The label's own logit is left out even where it is the largest, or ties with the best wrong one.
    assert margins(logits, torch.tensor([1, 0, 2, 0])).tolist() == [0.0, 0.0, -2.5, 0.0]
    assert margins(logits, torch.tensor([0, 1, 0, 2])).tolist() == [3.0, 3.0, 3.5, 0.0]
    # With one class alone no image can be misled.
    assert margins(torch.tensor([[3.0]]), torch.tensor([0])).tolist() == [-math.inf]


@pytest.mark.parametrize("kind", CLASS_OBJECTIVES.values())
def test_whatever_is_climbed_the_smallest_margin_says_what_is_kept(kind: type[ClassObjective]) -> None:
    logits, labels = _logits(6, 5, 1, heads=2)
    objective = kind(labels, 2)
    expected = [
        min(_margin(row[:5], label), _margin(row[5:], label))
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True)
    ]
    found = objective.better_by(logits, objective(logits))
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_fewer_heads_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="heads: expected at least 1, got 0"):
        CrossEntropyAscent(torch.tensor([0]), 0)


def test_where_the_model_is_sure_probabilities_have_no_gradient_left() -> None:
    """In float32, as attacks run: logits 40 apart, whose probabilities are 1 and 0."""
    sure = torch.tensor([[40.0, 0.0, 1.0]])
    gradients = {}
    for kind in (ProbabilityAscent, CrossEntropyAscent, MarginAscent):
        logits = sure.clone().requires_grad_()
        (gradients[kind],) = torch.autograd.grad(kind(torch.tensor([0]))(logits).sum(), logits)
    assert gradients[ProbabilityAscent].abs().max() < 1e-12
    assert gradients[MarginAscent].tolist() == [[-1.0, 0.0, 1.0]]


class _Winding(nn.Module):
    """Logits of one pixel x: up to 0.7 cross-entropy grows with x, while the margin is largest at x = 1/2."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1)
        # The true class, a wrong one that leads and falls from 1/2 on, and ten that rise behind it.
        return torch.cat([torch.zeros_like(x), 1 - 4 * (x - 0.5) ** 2, (2 * x - 1).expand(-1, 10)], 1)


def test_of_kept_iterates_the_one_with_the_largest_margin_is() -> None:
    images, labels = torch.full((1, 1, 1, 1), 0.2), torch.tensor([0])
    model, objective = _Winding(), CrossEntropyAscent(labels)
    walk = [images + 0.1 * step for step in range(6)]
    best = max(walk, key=lambda image: float(margins(model(image), labels)))
    kept = PGD(0.5, 5, 0.1, keep_best=True).perturb(model, images, objective)
    torch.testing.assert_close(kept, best)
    last = PGD(0.5, 5, 0.1).perturb(model, images, objective)
    torch.testing.assert_close(last, walk[-1])
    assert not torch.equal(kept, last)


class _TwoHeads(nn.Module):
    """Each head's logits are (x − 1/2, 0), of a pixel of its own."""

    def forward(self, images: Tensor) -> Tensor:
        x = images.flatten(1) - 0.5
        return torch.stack([x[:, 0], torch.zeros_like(x[:, 0]), x[:, 1], torch.zeros_like(x[:, 0])], 1)


@pytest.mark.parametrize("kind", CLASS_OBJECTIVES.values())
def test_an_attack_on_both_heads_misleads_both(kind: type[ClassObjective]) -> None:
    images, labels = torch.full((3, 1, 1, 2), 0.6), torch.tensor([0, 0, 0])
    moved = PGD(0.2, 4).perturb(_TwoHeads(), images, kind(labels, heads=2))
    torch.testing.assert_close(moved, torch.full_like(images, 0.4))
    first = PGD(0.2, 4).perturb(_FirstOfTwo(), images, kind(labels))
    torch.testing.assert_close(first, torch.tensor([0.4, 0.6]).expand_as(images))


class _FirstOfTwo(_TwoHeads):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :2]
