"""From a recipe to its method: every option arrives where it counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from training.tiny import ALONE

from robustdml_ext.assemble import assemble
from robustdml_ext.losses import AngularLoss, NPairLoss
from robustdml_ext.methods import (
    EAT,
    IAT,
    TRADES,
    EnergyConfused,
    HardNegatives,
    MixUp,
    NaiveEnsemble,
    Standard,
    UntargetedAdversarial,
)
from robustdml_ext.models import EmbedderEnsemble
from robustdml_ext.recipes import resolve
from robustdml_ext.training import Job, TrainingBatches


def built(method: str, **fields: Any) -> Any:
    return assemble(resolve(method, fields)).method


@pytest.mark.parametrize("method", ["at", "iat", "trades", "ensemble", "eat"])
def test_the_attack_is_the_recipes(method: str) -> None:
    made = built(method, epsilon=0.3, attack_steps=7, attack_step_size=0.1, random_start=0.05, attack_objective="loss")
    attack = made.attack
    assert (attack.epsilon, attack.steps, attack.step_size, attack.random_start) == (0.3, 7, 0.1, 0.05)
    assert made.attack_objective == "loss" and built(method).attack_objective == "away"


@pytest.mark.parametrize("method", ["at", "mixup", "iat", "ensemble", "eat"])
def test_beta_and_label_vectors_are_the_recipes(method: str) -> None:
    made = built(method, beta=0.25, label_vectors="embeddings")
    assert made.beta == 0.25 and made.label_vectors == "embeddings"
    assert built(method).label_vectors == "classes"


def test_each_method_is_itself_and_has_its_own_numbers() -> None:
    kinds = {"pal": Standard, "at": UntargetedAdversarial, "mixup": MixUp, "iat": IAT, "trades": TRADES}
    kinds |= {"ensemble": NaiveEnsemble, "eat": EAT}
    for method, kind in kinds.items():
        assert type(built(method)) is kind
    for method in ("mixup", "iat"):
        assert built(method, mixup_alpha=0.2).alpha == 0.2
    assert built("trades", trades_lambda=2.5).trade_off == 2.5
    assert built("ensemble", member_method="pal").beta == 1.0 and built("ensemble").beta == 0.5


def test_the_split_the_transfer_and_the_members_are_the_recipes() -> None:
    made = built("eat", members=4)
    assert made.self_transfer and len(made.losses) == len(made.ensemble.members) == 4
    assert set(made.parts.tolist()) == {0, 1, 2, 3}
    assert built("eat", split=False).parts is None
    assert not built("eat", self_transfer=False).self_transfer
    assert built("ensemble", members=2).plans == 2 and built("eat").plans == 1
    first, second = (m.head.weight for m in list(made.ensemble.members)[:2])
    assert not torch.equal(first, second) and not torch.equal(made.losses[0].proxies, made.losses[1].proxies)
    for inference in ("vote", "average", "concatenate"):
        ensemble = built("eat", inference=inference).embedder
        assert isinstance(ensemble, EmbedderEnsemble) and ensemble.inference == inference


def test_energy_confusion_is_the_recipes() -> None:
    for method, loss, weight in (("ecaml", "triplet", 0.02), ("ecaml", "npair", 0.3), ("ecaml", "binomial", 0.13)):
        made = built(method, loss=loss)
        assert isinstance(made.loss, EnergyConfused) and made.loss.weight == weight
        assert type(made.loss.metric).__name__.lower().startswith(loss) and made.loss.confusion.logarithmic
        assert (made.loss.confusion.reduction, made.loss.confusion.pairs) == ("mean", None)
    assert not isinstance(built("ecaml", energy_confusion=0.0).loss, EnergyConfused)
    assert built("npair").loss.scale == 10 and built("npair", npair_scale=None).loss.scale is None
    options = {"energy_confusion": 0.5, "energy_confusion_reduction": "sum", "energy_confusion_pairs": 7}
    for method in ("standard", "adversarial", "mdprop", "at", "mixup", "iat", "trades"):
        loss = built(method, **options).loss
        assert (loss.weight, loss.confusion.reduction, loss.confusion.pairs) == (0.5, "sum", 7)
    assert all(isinstance(loss, EnergyConfused) for loss in built("eat", **options).losses)


def test_hard_negatives_are_the_recipes() -> None:
    made = built("daml").loss
    assert isinstance(made, HardNegatives) and isinstance(made.metric, NPairLoss) and made.form == "npair"
    assert (made.regularization, made.adversary, made.weight, made.margin) == (1.0, 50.0, 1.0, 1.0)
    assert made.mining == "all" and made.gradients == "players" and made.generator.first.in_features == 3 * 64
    numbers = {
        "margin": 0.25, "regularization": 2.0, "adversary": 3.0, "weight": 4.0, "mining": "hardest", "hidden": 9,
        "gradients": "literal", "pretrain": 11, "alone": 12, "count": 13,
    }  # fmt: skip
    options = {f"hard_negatives_{name}": value for name, value in numbers.items()}
    for method, loss in (("mdprop", "triplet"), ("adversarial", "lifted"), ("daml", "contrastive")):
        made = built(method, loss=loss, hard_negatives=True, energy_confusion=0.1, **options).loss
        assert isinstance(made, EnergyConfused)
        made = made.metric
        assert (made.form, made.margin, made.regularization, made.adversary) == (loss, 0.25, 2.0, 3.0)
        assert (made.weight, made.mining, made.gradients, made.negatives) == (4.0, "hardest", "literal", 13)
        assert (made.pretrain_epochs, made.generator_epochs, made.generator.first.out_features) == (11, 12, 9)


def test_baselines_train_with_the_loss_of_their_name_and_the_papers_setup() -> None:
    for method in ("contrastive", "triplet", "lifted", "npair", "binomial", "angular"):
        made = built(method)
        assert type(made) is Standard and type(made.loss).__name__.lower().startswith(method)
    recipe = resolve("ecaml", {"dataset": "cars196", "loss": "npair"})
    assert (recipe.arch, recipe.embedding_dim, recipe.batch_size, recipe.iterations) == ("googlenet", 512, 128, 10_000)
    assert (recipe.head_lr_scale, recipe.weight_decay, recipe.energy_confusion) == (10, 2e-4, 0.3)
    assert resolve("ecaml", {"dataset": "sop", "loss": "npair"}).energy_confusion == pytest.approx(0.03)
    assert resolve("daml", {"dataset": "cars196"}).iterations == 20_000


def test_the_head_learns_at_its_own_rate() -> None:
    for method in ("standard", "eat"):
        made = built(method, head_lr_scale=10.0)
        groups = made.parameter_groups(0.1, 0.0)
        rates = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
        embedders = [made.embedder] if method == "standard" else made.ensemble.embedders
        for embedder in embedders:
            heads = {id(parameter) for parameter in embedder.head.parameters()}
            for parameter in embedder.parameters():
                assert rates[id(parameter)] == pytest.approx(1.0 if id(parameter) in heads else 0.1)
        assert {id(parameter) for parameter in made.parameters()} == set(rates)


def job(method: str) -> Job:
    recipe = resolve(method)
    parts = assemble(recipe)
    return Job(recipe, parts.splits, parts.method, ALONE)


def test_places_are_those_of_the_images() -> None:
    made = job("eat")
    images, labels, places = next(made.batches.since(3))
    expected, expected_labels = made.splits.train.batch(places.tolist())
    assert torch.equal(images, expected) and torch.equal(labels, expected_labels)


def test_naive_members_have_batches_of_their_own() -> None:
    made = job("ensemble")
    assert isinstance(made.batches, TrainingBatches)
    _, _, places = next(made.batches.since(0))
    parts = [set(part.tolist()) for part in places.chunk(3)]
    assert len(places) == 180 and all(len(parts[a] & parts[b]) < 30 for a, b in ((0, 1), (0, 2), (1, 2)))
    _, _, alone = next(job("at").batches.since(0))
    assert set(alone.tolist()) == parts[0]


def test_the_angle_is_the_recipes() -> None:
    made = built("standard", loss="angular", angular_alpha=36.0).loss
    assert isinstance(made, AngularLoss) and made.alpha == 36 and built("standard", loss="angular").loss.alpha == 45


def test_dropout_and_length_are_the_recipes() -> None:
    assert built("standard").embedder.dropout.p == 0 and built("standard", dropout=0.25).embedder.dropout.p == 0.25
    for loss, unit_length, expected in (
        ("triplet", "auto", True), ("npair", "auto", False), ("triplet", "no", False), ("npair", "yes", True),
    ):  # fmt: skip
        embedder = built("standard", loss=loss, unit_length=unit_length).embedder
        assert embedder.unit_length is expected
        lengths = embedder.eval()(torch.rand(3, 1, 8, 8)).norm(dim=1)
        assert torch.allclose(lengths, torch.ones(3)) is expected
