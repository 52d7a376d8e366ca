"""On real digits: what the similarity learns, and what adversarial training of a head is worth; each idea off fails."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from methods.digits import digits
from torch import Tensor

from robustdml_ext.attacks import PGD
from robustdml_ext.evaluation import (
    ClassThreat,
    embed,
    judge_classifier,
    judge_few_shot,
    judge_verification,
    scorers_of,
)
from robustdml_ext.methods import Batch, Context, Prototypes, PrototypicalLoss
from robustdml_ext.models import PrototypicalClassifier, PrototypicalHeads, build_embedder

SEEDS, TRAINED, STEPS, PER_CLASS = (0, 1), 900, 100, 12


def halves() -> tuple[Tensor, Tensor]:
    """Rows of the images to train on, and of those to test on."""
    order = torch.randperm(len(digits()[1]), generator=torch.Generator().manual_seed(0))
    return order[:TRAINED], order[TRAINED:]


@cache
def trained(
    seed: int, classes: int = 10, *, adversarial: str = "none", momentum: float = 0.9, pair_weight: float = 1.0
) -> PrototypicalClassifier:
    images, labels = digits()
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    embedder = build_embedder("small", channels=1, embedding_dim=32, unit_length=False)
    heads = PrototypicalHeads(classes, 32, 64, momentum=momentum)
    attack = PGD(0.2, 5, 0.1, random_start=0.2)
    method = Prototypes(embedder, PrototypicalLoss(heads, pair_weight=pair_weight), adversarial, attack).train()
    optimizer = torch.optim.AdamW(method.parameter_groups(2e-3, 1e-4))
    rows = halves()[0]
    of_class = [rows[labels[rows] == label] for label in range(classes)]
    for _ in range(STEPS):
        drawn = torch.cat([own[torch.randperm(len(own), generator=generator)[:PER_CLASS]] for own in of_class])
        optimizer.zero_grad()
        batch = Batch(images[drawn], labels[drawn], drawn)
        method.training_step(batch, generator, Context()).loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return method.classifier().eval()


def judged() -> list[tuple[Tensor, Tensor]]:
    images, labels = digits()
    rows = halves()[1]
    return [(images[rows], labels[rows])]


def mean(figures: list[float]) -> float:
    return sum(figures) / len(figures)


@cache
def accuracies(adversarial: str) -> list[dict[str, float]]:
    """Clean and under PGD-10 of each head through itself, means over seeds."""
    threat = ClassThreat("pgd", 0.2, 10, 0.05)
    found = [judge_classifier(trained(seed, adversarial=adversarial), judged(), [threat]) for seed in SEEDS]
    return [
        {name: mean([entries[row]["metrics"][name] for entries in found]) for name in found[0][row]["metrics"]}
        for row in (0, 1)
    ]


def test_the_similarity_classifies_as_the_dense_output_layer_does() -> None:
    clean = accuracies("none")[0]
    assert clean["accuracy_similarity"] > 0.95 and clean["accuracy_similarity"] > clean["accuracy_dense"] - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("head", ["similarity", "dense"])
def test_adversarial_training_of_a_head_makes_it_robust(head: str) -> None:
    """Next to nothing is left of either head without it; the head that is attacked in training gains the most."""
    undefended, defended = accuracies("none")[1], accuracies(head)[1]
    assert undefended[f"accuracy_{head}"] < 0.05
    assert defended[f"accuracy_{head}"] > 0.3
    other = accuracies("dense" if head == "similarity" else "similarity")[1]
    assert defended[f"accuracy_{head}"] > other[f"accuracy_{head}"] + 0.02


def verification(**options: Any) -> float:
    """EER by S of pairs of test images, a mean over seeds."""
    errors = []
    for seed in SEEDS:
        model = trained(seed, **options)
        embeddings, labels = embed(model.encoder, judged())
        scorers = scorers_of(model.heads.similarity, ("similarity",))
        errors.append(judge_verification(scorers, embeddings, labels, 20_000)["eer_similarity"])
    return mean(errors)


@pytest.mark.slow
def test_pairs_are_told_apart_by_what_the_similarity_was_trained_on() -> None:
    """S compares two encoded images because it met encoded pairs: in L_pair, and in prototypes that follow the encoder.

    Each alone does. With neither (prototypes stay random vectors, and there is no L_pair) it classifies as well, and
    knows nothing of pairs.
    """
    assert verification() < 0.06
    assert verification(pair_weight=0.0) < 0.1 and verification(momentum=1.0) < 0.06
    assert verification(momentum=1.0, pair_weight=0.0) > 0.3
    assert verification() < verification(pair_weight=0.0)


@pytest.mark.slow
def test_new_classes_need_examples_and_no_training() -> None:
    """Five digits that were never trained on, from five examples each; chance is one in five."""
    images, labels = digits()
    new = labels >= 5
    accuracy = []
    for seed in SEEDS:
        model = trained(seed, 5)
        embeddings, classes = embed(model.encoder, [(images[new], labels[new])])
        scorers = scorers_of(model.heads.similarity, ("similarity",))
        found = judge_few_shot(scorers, embeddings, classes, shots=(1, 5), episodes=100)
        accuracy.append((found["few_shot_5way_1shot_similarity"], found["few_shot_5way_5shot_similarity"]))
    one, five = (mean([pair[place] for pair in accuracy]) for place in (0, 1))
    assert 0.3 < one < five and five > 0.4
