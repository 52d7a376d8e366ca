"""ECAML's loss and every gradient against its equations written out plainly, and what it does on real digits."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from methods.digits import recall_of, trained
from methods.written_out import batch, network
from torch import Tensor

from robustdml_ext.attacks import PGD
from robustdml_ext.losses import BinomialDevianceLoss, ContrastiveLoss, NPairLoss, TripletLoss
from robustdml_ext.methods import Context, EnergyConfused, HardNegatives, Standard, UntargetedAdversarial
from robustdml_ext.models import Embedder, build_embedder

LOSSES = {"triplet": TripletLoss, "npair": NPairLoss, "binomial": BinomialDevianceLoss}
LAMBDA = 0.3


def confusion(outputs: Tensor, labels: Tensor, logarithmic: bool = True) -> list[Tensor]:
    """log(1 + L_ec(X_I, X_J)) of every ordered pair of classes, image by image (equations 3, 7 and 11)."""
    terms = []
    for one in labels.unique():
        for other in labels.unique():
            if one != other:
                pairs = [(x - z).square().sum() for x in outputs[labels == one] for z in outputs[labels == other]]
                mean = torch.stack(pairs).mean()
                terms.append(mean.log1p() if logarithmic else mean)
    return terms


def gradients(model: Embedder, loss: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient
        for (name, parameter), gradient in zip(model.named_parameters(), found, strict=True)
    }


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", LOSSES)
def test_is_equation_11_and_confuses_the_head_alone(name: str, reduction: str) -> None:
    data, metric = batch(), LOSSES[name]()
    model = network()
    model.unit_length = name != "npair"
    method = Standard(model, EnergyConfused(metric, LAMBDA, reduction=reduction)).train()
    output = method.training_step(data, torch.Generator(), Context())
    actual = gradients(model, output.loss)

    model = network()
    model.unit_length = name != "npair"
    features = model.features(data.images)
    plain = metric(model.finish(model.head(features)), data.labels)
    terms = confusion(model.head(features.detach()), data.labels)
    expected = plain + LAMBDA * (torch.stack(terms).mean() if reduction == "mean" else torch.stack(terms).sum())
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(output.log["loss/metric"], plain.detach())
    torch.testing.assert_close(output.log["loss/confusion"], (expected - plain).detach())
    correct, without = gradients(model, expected), gradients(model, metric(model(data.images), data.labels))
    for key, gradient in actual.items():
        torch.testing.assert_close(gradient, correct[key], rtol=1e-7, atol=1e-10)
        # "Our EC term is only used to constrain the learning of fc layer": the backbone has L_m's gradient alone.
        alike = torch.allclose(gradient, without[key], rtol=1e-7, atol=1e-10)
        assert alike == (key != "head.weight")  # distances do not depend on the bias


def test_the_confused_output_is_the_unnormalized_one() -> None:
    data, model = batch(), network()
    loss = EnergyConfused(TripletLoss(), LAMBDA)
    first = Standard(model, loss).train().training_step(data, torch.Generator(), Context())
    with torch.no_grad():
        model.head.weight.mul_(3)
        model.head.bias.mul_(3)
    second = Standard(model, loss).train().training_step(data, torch.Generator(), Context())
    # Unit embeddings are the same; the head's outputs, and so their energy, are not.
    torch.testing.assert_close(first.log["loss/metric"], second.log["loss/metric"])
    assert second.log["loss/confusion"] > 1.2 * first.log["loss/confusion"]


def test_pairs_are_drawn_from_the_methods_generator() -> None:
    data, model = batch(), network()
    method = Standard(model, EnergyConfused(TripletLoss(), LAMBDA, pairs=3)).train()

    def drawn(seed: int) -> float:
        return float(method.training_step(data, torch.Generator().manual_seed(seed), Context()).log["loss/confusion"])

    assert drawn(1) == drawn(1) and len({drawn(seed) for seed in range(8)}) > 4
    every = Standard(model, EnergyConfused(TripletLoss(), LAMBDA)).train()
    whole = float(every.training_step(data, torch.Generator(), Context()).log["loss/confusion"])
    assert sum(drawn(seed) for seed in range(200)) / 200 == pytest.approx(whole, rel=0.02)


def test_equation_7_is_the_plain_form() -> None:
    data, model = batch(), network()
    method = Standard(model, EnergyConfused(TripletLoss(), LAMBDA, logarithmic=False)).train()
    found = method.training_step(data, torch.Generator(), Context()).log["loss/confusion"]
    with torch.no_grad():
        model.train()
        terms = confusion(model.head(model.features(data.images)), data.labels, logarithmic=False)
    torch.testing.assert_close(found, LAMBDA * torch.stack(terms).mean())


@pytest.mark.parametrize("kind", ["classes", "embeddings"])
def test_defenses_have_it_in_each_of_their_losses(kind: str) -> None:
    """β·(L_m + λ·EC) of clean images + (1 − β)·(L_m + λ·EC) of attacked ones; the parts are means over both."""
    data, attack = batch(), PGD(0.1, 2, random_start=0.01)
    outputs = {}
    for weight in (0.0, LAMBDA):
        loss = EnergyConfused(ContrastiveLoss(), weight)
        method = UntargetedAdversarial(network(), loss, attack, beta=0.25, label_vectors=kind).train()
        outputs[weight] = method.training_step(data, torch.Generator().manual_seed(3), Context())
    with_it, without = outputs[LAMBDA], outputs[0.0]
    parts = [with_it.log["loss/clean"] - without.log["loss/clean"]]
    parts += [with_it.log["loss/adversarial"] - without.log["loss/adversarial"]]
    assert min(parts) > 0.01
    torch.testing.assert_close(with_it.loss - without.loss, 0.25 * parts[0] + 0.75 * parts[1])
    torch.testing.assert_close(with_it.log["loss/confusion"], (parts[0] + parts[1]) / 2)


def test_an_attack_climbs_the_metric_loss_alone() -> None:
    data, found = batch(), []
    for loss in (TripletLoss(), EnergyConfused(TripletLoss(), 100.0)):
        attack = PGD(0.1, 2, random_start=0.01)
        method = UntargetedAdversarial(network(), loss, attack, attack_objective="loss").train()
        found.append(method.perturbed(data, torch.Generator().manual_seed(3), Context()))
    assert torch.equal(*found) and not torch.equal(found[0], data.images)


def test_rests_while_the_generator_is_trained_alone() -> None:
    """Then L_m does not defend the network, which would be drawn together unopposed."""
    data, model = batch(), network()
    hard = HardNegatives(TripletLoss(), model.feature_dim, "triplet", generator_epochs=1).double()
    method = Standard(model, EnergyConfused(hard, LAMBDA)).train()
    for epoch, learns in ((0, False), (1, True)):
        method.epoch = epoch
        output = method.training_step(data, torch.Generator(), Context())
        method.zero_grad()
        output.loss.backward()
        assert any(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters()) == learns
        assert ("loss/confusion" in output.log) == learns


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match="weight: expected a number >= 0, got -1"):
        EnergyConfused(TripletLoss(), -1)
    with pytest.raises(TypeError, match="weight: expected a number, got str"):
        EnergyConfused(TripletLoss(), "a")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metric: expected a loss, got str"):
        EnergyConfused("triplet", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction"):
        EnergyConfused(TripletLoss(), 1, reduction="none")


def build(weight: float) -> Standard:
    embedder = build_embedder("small", channels=1, embedding_dim=64)
    return Standard(embedder, EnergyConfused(BinomialDevianceLoss(), weight))


@cache
def recalls(weight: float) -> tuple[float, float]:
    """Mean Recall@1 on seen and on unseen digits over seeds."""
    found = [recall_of(trained(lambda: build(weight), seed, steps=200)) for seed in (0, 1, 2)]
    seen, unseen = zip(*found, strict=True)
    return sum(seen) / 3, sum(unseen) / 3


@pytest.mark.slow
def test_unseen_digits_are_found_better_with_energy_confusion() -> None:
    """Figure 2: the regularized metric is better where it has not been trained. λ = 0 is the plain loss."""
    assert recalls(0.13)[1] > recalls(0.0)[1] + 0.01
