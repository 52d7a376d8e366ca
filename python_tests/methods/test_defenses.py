"""AT, Mix-Up, IAT and TRADES against their equations written out, and without their key ideas."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from methods.written_out import batch, network, pgd, proxy_anchor
from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.losses import ContrastiveLoss, MultiSimilarityLoss, ProxyAnchorLoss
from robustdml_ext.methods import IAT, TRADES, Batch, Context, Method, MixUp, UntargetedAdversarial
from robustdml_ext.methods.label_vectors import metric_to_vectors

EPSILON, STEPS, START = 0.1, 3, 0.02


def attack() -> PGD:
    return PGD(EPSILON, STEPS, random_start=START)


def anchor() -> ProxyAnchorLoss:
    torch.manual_seed(5)
    return ProxyAnchorLoss(4, 8).double()


def step(method: Method, data: Batch, seed: int = 2) -> tuple[Tensor, dict[str, Tensor]]:
    """A step's loss, and the gradients it leaves."""
    output = method.training_step(data, torch.Generator().manual_seed(seed), Context())
    output.loss.backward()
    return output.loss.detach(), {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def attacked(method: Method, data: Batch, generator: torch.Generator) -> Tensor:
    noise = attack().draw_noise(data.images, generator)
    assert noise is not None
    return pgd([method.embedder], data.images, noise, EPSILON, STEPS)


def expect(method: Method, loss: Tensor, found: tuple[Tensor, dict[str, Tensor]]) -> None:
    loss.backward()
    torch.testing.assert_close(found[0], loss.detach(), rtol=1e-7, atol=1e-9)
    expected = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    assert expected.keys() == found[1].keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-6, atol=1e-9, msg=name)


def centroids(vectors: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([vectors[labels == label].mean(0) for label in labels.unique()]).detach()


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("label_vectors", ["embeddings", "classes"])
def test_at_is_equations_4_and_5(beta: float, label_vectors: str) -> None:
    method = UntargetedAdversarial(network(), anchor(), attack(), beta=beta, label_vectors=label_vectors)
    plain, data = copy.deepcopy(method), batch()
    found = step(method, data)
    adversarial = attacked(plain, data, torch.Generator().manual_seed(2))
    clean, moved = plain.embedder(torch.cat([data.images, adversarial])).chunk(2)
    proxies = plain.loss.proxies if label_vectors == "classes" else centroids(clean, data.labels)
    loss = beta * proxy_anchor(clean, plain.loss.proxies, data.labels)
    loss = loss + (1 - beta) * proxy_anchor(moved, proxies, data.labels)
    expect(plain, loss, found)


@pytest.mark.parametrize("label_vectors", ["embeddings", "classes"])
@pytest.mark.parametrize("interpolated", [False, True])
def test_mixtures_are_equations_6_and_7(interpolated: bool, label_vectors: str) -> None:
    options = {"alpha": 0.7, "beta": 0.4, "label_vectors": label_vectors}
    if interpolated:
        method: MixUp = IAT(network(), anchor(), attack(), **options)  # type: ignore[arg-type]
    else:
        method = MixUp(network(), anchor(), **options)  # type: ignore[arg-type]
    plain, data = copy.deepcopy(method), batch()
    found = step(method, data)

    generator = torch.Generator().manual_seed(2)
    share, partners = plain.draw(len(data.labels), generator)
    assert 0 < share < 1 and sorted(partners.tolist()) == list(range(len(data.labels)))
    sources = [data.images, attacked(plain, data, generator)] if interpolated else [data.images]
    mixed = [share * images + (1 - share) * images[partners] for images in sources]
    clean, *between = plain.embedder(torch.cat([data.images, *mixed])).chunk(1 + len(mixed))
    loss = 0.4 * proxy_anchor(clean, plain.loss.proxies, data.labels)
    for embeddings in between:
        if label_vectors == "classes":
            term = share * proxy_anchor(embeddings, plain.loss.proxies, data.labels)
            term = term + (1 - share) * proxy_anchor(embeddings, plain.loss.proxies, data.labels[partners])
        else:
            targets = F.normalize(share * clean + (1 - share) * clean[partners], dim=1)
            pairs = data.labels * 10 + data.labels[partners]
            rank = (pairs[:, None] > pairs.unique()[None]).sum(1)
            term = proxy_anchor(embeddings, centroids(targets, pairs), rank)
        loss = loss + 0.6 * term
    expect(plain, loss, found)


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_the_mixing_coefficient_is_of_beta(alpha: float) -> None:
    """Beta(α, α): mean 1/2, variance 1 / (4(2α + 1)); another draw and another permutation each time."""
    method, generator = MixUp(network(), anchor(), alpha=alpha), torch.Generator().manual_seed(0)
    drawn = [method.draw(6, generator) for _ in range(4000)]
    shares = torch.stack([share for share, _ in drawn])
    assert shares.min() >= 0 and shares.max() <= 1
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)
    assert len({tuple(partners.tolist()) for _, partners in drawn}) > 500  # of 720


@pytest.mark.parametrize("trade_off", [0.0, 2.0])
def test_trades_is_equation_8(trade_off: float) -> None:
    method = TRADES(network(), anchor(), attack(), trade_off=trade_off)
    plain, data = copy.deepcopy(method), batch()
    found = step(method, data)
    adversarial = attacked(plain, data, torch.Generator().manual_seed(2))
    clean, moved = plain.embedder(torch.cat([data.images, adversarial])).chunk(2)
    second = ((moved - clean).square().sum(1) / 2).mean()
    expect(plain, proxy_anchor(clean, plain.loss.proxies, data.labels) + trade_off * second, found)


def test_label_vectors_of_pair_losses_are_their_reference() -> None:
    torch.manual_seed(0)
    embeddings, vectors = (F.normalize(torch.randn(9, 5, dtype=torch.float64), dim=1) for _ in range(2))
    labels = torch.arange(9) % 3
    loss = ContrastiveLoss(0.0, 1.0)
    expected = loss(embeddings, labels, reference=vectors, reference_labels=labels)
    torch.testing.assert_close(metric_to_vectors(loss, embeddings, vectors, labels), expected)
    vectors.requires_grad_()
    embeddings.requires_grad_()
    metric_to_vectors(MultiSimilarityLoss(), embeddings, vectors, labels).backward()
    assert embeddings.grad is not None and vectors.grad is None


class Bare(nn.Module):
    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        return embeddings.sum()


def test_what_does_not_fit_is_named() -> None:
    rows, labels = torch.rand(4, 3), torch.arange(4)
    with pytest.raises(TypeError, match="Bare takes no reference"):
        metric_to_vectors(Bare(), rows, rows, labels)
    for options, named in (
        ({"beta": 1.5}, "beta"),
        ({"label_vectors": "both"}, "label_vectors"),
        ({"attack_objective": "up"}, "attack_objective"),
        ({"attack": PGD(0.1, 2)}, "random_start"),
    ):
        with pytest.raises(ValueError, match=named):
            UntargetedAdversarial(network(), anchor(), **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="alpha"):
        MixUp(network(), anchor(), alpha=0)
    with pytest.raises(ValueError, match="trade_off"):
        TRADES(network(), anchor(), trade_off=-1)


def test_the_attack_up_the_metric_loss_raises_it_most() -> None:
    data = batch(24)
    raised = {}
    for objective in ("away", "loss"):
        torch.manual_seed(0)
        method = UntargetedAdversarial(network(), anchor(), attack(), attack_objective=objective)
        images = method.perturbed(data, torch.Generator().manual_seed(0), Context())
        assert (images - data.images).abs().max() <= EPSILON + 1e-9
        method.eval()
        with torch.no_grad():
            raised[objective] = float(method.loss(method.embedder(images), data.labels))
    with torch.no_grad():
        clean = float(method.loss(method.embedder(data.images), data.labels))
    assert raised["loss"] > raised["away"] and raised["loss"] > clean
