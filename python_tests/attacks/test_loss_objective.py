"""Metric-loss ascent: each sample's own loss, whatever the loss is."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from victims import embed, pictures, trained

from robustdml_ext.attacks import PGD, AdaptivePGD, MetricLossAscent
from robustdml_ext.losses import (
    ContrastiveLoss,
    EnergyConfusion,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    NPairLoss,
    ProxyAnchorLoss,
    TripletLoss,
)

PAIRS = [MultiSimilarityLoss(), ContrastiveLoss(), TripletLoss(), NPairLoss()]


def numbers(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", PAIRS, ids=lambda loss: type(loss).__name__)
def test_pair_losses_compare_each_sample_with_the_bank_but_its_own_row(loss: nn.Module) -> None:
    bank, bank_labels = numbers(12, 4, seed=0), torch.arange(12) % 3
    own = torch.tensor([7, -1, 0, 11])
    labels = torch.tensor([1, 2, 0, 2])
    embeddings = numbers(4, 4, seed=1).requires_grad_()
    objective = MetricLossAscent(loss, labels, bank, bank_labels, own)
    assert objective.maximize and not objective.shared
    values = objective(embeddings)
    for i in range(4):
        kept = torch.arange(12) != own[i]
        row = slice(i, i + 1)
        alone = loss(embeddings[row], labels[row], reference=bank[kept], reference_labels=bank_labels[kept])
        torch.testing.assert_close(values[i], alone)
    joint = (torch.autograd.grad(values[i], embeddings, retain_graph=True)[0] for i in range(4))
    for i, gradient in enumerate(joint):
        assert gradient[i].abs().max() > 0 and (gradient[torch.arange(4) != i] == 0).all()
    assert torch.autograd.gradcheck(objective, (embeddings,))


def test_means_over_anchors_have_the_same_gradient_when_shared() -> None:
    bank, bank_labels, labels = numbers(12, 4, seed=0), torch.arange(12) % 3, torch.tensor([1, 2, 0, 2])
    embeddings = numbers(4, 4, seed=1).requires_grad_()
    each = MetricLossAscent(MultiSimilarityLoss(), labels, bank, bank_labels)
    shared = MetricLossAscent(MultiSimilarityLoss(), labels, bank, bank_labels, shared=True)
    assert shared.shared and shared(embeddings).shape == (4,)
    torch.testing.assert_close(shared(embeddings)[2], each(embeddings).mean())
    gradients = [torch.autograd.grad(objective(embeddings).sum(), embeddings)[0] for objective in (each, shared)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("make", [NormalizedSoftmaxLoss, ProxyAnchorLoss])
def test_proxies_stay_as_they_are(make: type[nn.Module]) -> None:
    torch.manual_seed(0)
    loss = make(3, 4).double()
    labels, embeddings = torch.tensor([1, 2, 0]), numbers(3, 4, seed=1).requires_grad_()
    objective = MetricLossAscent(loss, labels, numbers(5, 4, seed=2), torch.arange(5) % 3)
    values = objective(embeddings)
    expected = torch.stack([loss(embeddings[i : i + 1], labels[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(values, expected)
    values.sum().backward()
    assert embeddings.grad is not None and all(p.grad is None and p.requires_grad for p in loss.parameters())


def test_other_losses_share_their_value() -> None:
    bank, bank_labels, labels = numbers(9, 4, seed=0), torch.arange(9) % 3, torch.tensor([1, 2, 0])
    embeddings, own = numbers(3, 4, seed=1), torch.tensor([1, 2, -1])
    together = torch.cat([embeddings, bank[[0, 3, 4, 5, 6, 7, 8]]])
    expected = EnergyConfusion()(together, torch.cat([labels, bank_labels[[0, 3, 4, 5, 6, 7, 8]]]))
    objective = MetricLossAscent(EnergyConfusion(), labels, bank, bank_labels, own)
    assert objective.shared
    torch.testing.assert_close(objective(embeddings), expected.expand(3))
    plain = MetricLossAscent(lambda e, y: (e.sum(1) * y).sum(), labels)
    torch.testing.assert_close(plain(embeddings), (embeddings.sum(1) * labels).sum().expand(3))
    batch = MetricLossAscent(TripletLoss(), labels)
    assert batch.shared and batch(embeddings).shape == (3,)


def test_attack_raises_the_loss() -> None:
    model, (images, labels) = trained(), pictures()
    bank, own = embed(model, images), torch.arange(len(images))
    for loss in (MultiSimilarityLoss(), TripletLoss(margin=0.5)):
        objective = MetricLossAscent(loss, labels, bank, labels, own)
        before = objective(bank)
        for attack in (PGD(0.08, 6, 0.02), AdaptivePGD(0.08, 6)):
            after = objective(embed(model, attack.perturb(model, images, objective)))
            assert (after > before).float().mean() > 0.9 and after.mean() > 1.1 * before.mean()


def test_errors_name_the_argument() -> None:
    labels, bank = torch.arange(4) % 2, numbers(6, 3, seed=0)
    for options, message in [
        ({"bank": bank}, "bank_labels"),
        ({"own": labels}, "own"),
        ({"bank": bank, "bank_labels": labels}, "bank_labels"),
        ({"bank": bank, "bank_labels": torch.arange(6), "own": torch.arange(5)}, "own"),
        ({"shared": False}, "shared: TripletLoss"),
    ]:
        with pytest.raises(ValueError, match=message):
            MetricLossAscent(TripletLoss(), labels, **options)
