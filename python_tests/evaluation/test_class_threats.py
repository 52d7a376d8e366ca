"""What an attacker of a classifier may do, and how a threat is recorded."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
import torch

from robustdml_ext.attacks import FGSM, PGD, AdaptivePGD, CrossEntropyAscent, MarginAscent, SquareAttack
from robustdml_ext.attacks.class_objectives import ProbabilityAscent
from robustdml_ext.evaluation import CLASS_ATTACKS, ClassThreat
from robustdml_ext.evaluation.class_threats import STRONG
from robustdml_ext.recipes.names import CLASS_EVAL_ATTACKS

LABELS = torch.tensor([0, 1])


def test_recipes_know_the_same_attacks() -> None:
    assert set(CLASS_EVAL_ATTACKS) == set(CLASS_ATTACKS) and set(STRONG) <= set(CLASS_ATTACKS)


def test_pgd_crosses_the_ball_and_can_be_foolboxs() -> None:
    """From anywhere in the ball, and the last iterate counts; steps of ε/30 where there are so many."""
    assert ClassThreat("pgd", 0.3, 5).step_size == pytest.approx(0.15)
    assert ClassThreat("pgd", 0.3, 100).step_size == pytest.approx(0.01)
    threat = ClassThreat("pgd", 0.3, 40, 0.01)
    attack = threat.attack()
    assert isinstance(attack, PGD) and not isinstance(attack, FGSM)
    assert (attack.epsilon, attack.steps, attack.step_size) == (0.3, 40, pytest.approx(0.01))
    assert attack.random_start == 0.3 and not attack.keep_best
    assert isinstance(threat.objective(LABELS), CrossEntropyAscent)
    assert isinstance(ClassThreat("pgd-probabilities").objective(LABELS), ProbabilityAscent)
    other = ClassThreat("pgd", 0.3, 5, 0.02, "l2", 0.1, 2, True)
    attack = other.attack()
    assert isinstance(attack, PGD)
    assert (attack.step_size, attack.norm, attack.random_start, attack.restarts) == (0.02, "l2", 0.1, 2)
    assert attack.keep_best


def test_records_hold_what_is_run_and_nothing_else() -> None:
    fgsm = ClassThreat("fgsm", 0.1, 20, random_start=0.1, restarts=3, keep_best=True)
    attack = fgsm.attack()
    assert isinstance(attack, FGSM) and (attack.steps, attack.step_size, attack.random_start) == (1, 0.1, 0.0)
    record = asdict(fgsm)
    assert (record["steps"], record["restarts"], record["random_start"], record["keep_best"]) == (1, 1, 0.0, False)
    adaptive = ClassThreat("apgd-margin", 0.1, 7)
    attack = adaptive.attack()
    assert isinstance(attack, AdaptivePGD) and (attack.steps, attack.random_start) == (7, 0.1)
    assert adaptive.keep_best and isinstance(adaptive.objective(LABELS, 2), MarginAscent)
    assert isinstance(ClassThreat("apgd").objective(LABELS), CrossEntropyAscent)


def test_a_random_search_counts_queries() -> None:
    search = ClassThreat("square-margin", 0.1, steps=20)
    attack = search.attack()
    assert isinstance(attack, SquareAttack) and attack.queries == search.queries == 200
    assert asdict(search)["queries"] == 200 and search.random_start == 0.0
    attack = ClassThreat("square-margin", 0.1, queries=30, restarts=2).attack()
    assert isinstance(attack, SquareAttack) and (attack.queries, attack.restarts) == (30, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "stax"}, "name: expected one of fgsm, pgd"),
        ({"name": "apgd", "step_size": 0.1}, "step_size: apgd chooses its own, got 0.1"),
        ({"name": "fgsm", "step_size": 0.1}, "step_size: fgsm"),
        ({"name": "pgd", "steps": 0}, "steps: expected a number >= 1, got 0"),
        ({"name": "pgd", "epsilon": -0.1}, "epsilon"),
        ({"name": "pgd", "norm": "l1"}, "norm"),
        ({"name": "pgd", "queries": 10}, "queries: for square-margin alone, got 10 for pgd"),
        ({"name": "pgd", "random_start": 0.0, "restarts": 2}, "restarts"),
        ({"name": "square-margin", "norm": "l2"}, "linf"),
    ],
)
def test_what_no_attack_can_do_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassThreat(**fields)
