"""On real digits: unseen classes are found better with generated hard negatives than with observed ones alone."""

from __future__ import annotations

from functools import cache

import pytest
from methods.digits import recall_of, trained
from torch import nn

from robustdml_ext.losses import ContrastiveLoss, LiftedStructureLoss
from robustdml_ext.methods import HardNegatives, Standard
from robustdml_ext.models import build_embedder

METRICS: dict[str, type[nn.Module]] = {"contrastive": ContrastiveLoss, "lifted": LiftedStructureLoss}
PRETRAIN, STEPS = 75, 225


def build(form: str, hard: bool) -> Standard:
    embedder = build_embedder("small", channels=1, embedding_dim=64)
    loss = METRICS[form]()
    if hard:
        loss = HardNegatives(loss, embedder.feature_dim, form, negatives=4, pretrain_epochs=1)
    return Standard(embedder, loss)


@cache
def unseen_recall(form: str, hard: bool) -> float:
    """Mean Recall@1 over seeds; the metric alone until the generator comes in."""
    found = [
        recall_of(trained(lambda: build(form, hard), seed, STEPS, lambda step: int(step >= PRETRAIN)))[1]
        for seed in (0, 1, 2)
    ]
    return sum(found) / len(found)


@pytest.mark.slow
@pytest.mark.parametrize("form", METRICS)
def test_unseen_digits_are_found_better_with_hard_negatives(form: str) -> None:
    assert unseen_recall(form, True) > unseen_recall(form, False) + 0.02
