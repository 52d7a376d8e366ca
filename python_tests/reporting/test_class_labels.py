"""What attacks on a classifier, and prototypical classifiers, are called."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from robustdml_ext.evaluation import CLASS_ATTACKS, ClassThreat
from robustdml_ext.recipes import resolve
from robustdml_ext.reporting import method_label
from robustdml_ext.reporting.labels import inputs_label


def label(*values: Any, **fields: Any) -> str:
    """Of a threat as results record it."""
    threat = ClassThreat(*values, **fields)
    return inputs_label({**asdict(threat), "algorithm": threat.algorithm})


@pytest.mark.parametrize(
    ("values", "fields", "text"),
    [
        (("fgsm", 0.3), {}, "FGSM, ε = 0.3"),
        (("fgsm", 0.3), {"restarts": 4, "steps": 9}, "FGSM, ε = 0.3"),
        (("pgd", 0.3, 40), {}, "PGD-40, ε = 0.3"),
        (("pgd", 8 / 255, 7), {}, "PGD-7, ε = 8/255"),
        (("pgd", 0.3, 40, 0.02), {}, "PGD-40, ε = 0.3, step 0.02"),
        (("pgd", 0.3, 40), {"random_start": 0.0}, "PGD-40, ε = 0.3, start 0"),
        (("pgd", 0.3, 40), {"restarts": 3, "keep_best": True}, "PGD-40, ε = 0.3, 3 restarts, best iterate"),
        (("pgd", 1.5, 10), {"norm": "l2"}, "PGD-10, ε = 1.5, l2"),
        (("pgd-probabilities", 0.3, 40), {}, "PGD-40, probabilities for logits, ε = 0.3"),
        (("fgsm-probabilities", 0.3), {}, "FGSM, probabilities for logits, ε = 0.3"),
        (("apgd", 0.1, 20), {}, "APGD-20, ε = 0.1"),
        (("apgd-margin", 0.1, 20), {}, "APGD-20 on the margin, ε = 0.1"),
        (("square-margin", 0.1, 20), {}, "square, 200 queries, ε = 0.1"),
        (("square-margin", 0.1), {"queries": 1000}, "square, 1000 queries, ε = 0.1"),
    ],
)
def test_attacks_on_a_classifier(values: tuple[Any, ...], fields: dict[str, Any], text: str) -> None:
    assert label(*values, **fields) == text


def test_no_two_attacks_share_a_label() -> None:
    assert len({label(name, 0.1, 20) for name in CLASS_ATTACKS}) == len(CLASS_ATTACKS)
    worst = {"name": "worst", "epsilon": 0.3, "norm": "linf", "attacks": ["pgd", "fgsm"]}
    assert inputs_label(worst) == "worst of 2 attacks, ε = 0.3"


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "prototypes"),
        ({"adversarial": "dense"}, "prototypes + AT (dense)"),
        ({"adversarial": "similarity", "auxiliary_weight": 0}, "prototypes, without L_aux + AT (similarity)"),
        ({"dropout": 0.5}, "prototypes + dropout 0.5"),
    ],
)
def test_methods(fields: dict[str, Any], text: str) -> None:
    assert method_label(resolve("prototypes", fields).model_dump(mode="json")) == text
