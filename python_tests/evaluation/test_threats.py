"""Threat models: one complete record each, and the algorithm that it describes."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from robustdml_ext.attacks import PGD, AdaptivePGD, SquareAttack
from robustdml_ext.evaluation import ATTACKS, STANDARD, ThreatModel
from robustdml_ext.evaluation.threats import standard_threat


@pytest.mark.parametrize("name", STANDARD)
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_standard_threats_are_complete_records(name: str, norm: str) -> None:
    if name == "square" and norm == "l2":
        with pytest.raises(ValueError, match="norm"):
            standard_threat(name, 0.1, norm=norm)
        return
    threat = standard_threat(name, 0.1, steps=7, norm=norm)
    record = json.loads(json.dumps(asdict(threat)))
    assert ThreatModel(**record) == threat
    assert record["attacked"] == ATTACKS[name].attacked and record["steps"] == 7 and record["norm"] == norm
    assert record["route"] == ("whole" if ATTACKS[name].black_box else "every")
    kind = {"pgd": PGD, "adaptive": AdaptivePGD, "square": SquareAttack}[record["algorithm"]]
    attack = threat.attack()
    assert type(attack) is kind and attack.epsilon == 0.1 and attack.norm == norm
    assert (record["step_size"] is None) == (record["algorithm"] != "pgd")
    assert record["keep_best"] == (record["algorithm"] != "pgd")
    assert (record["queries"] is None) == (name != "square")


def test_what_is_asked_for_reaches_the_attack() -> None:
    threat = standard_threat("out", 0.1, momentum=0.9, restarts=3, keep_best=True)
    attack = threat.attack()
    assert threat.algorithm == "pgd" and isinstance(attack, PGD)
    assert (attack.momentum, attack.restarts, attack.keep_best, attack.random_start) == (0.9, 3, True, 0.1)
    assert attack.step_size == pytest.approx(0.005)
    square = standard_threat("square", 0.1, queries=33, restarts=2, momentum=0.9).attack()
    assert isinstance(square, SquareAttack) and (square.queries, square.restarts) == (33, 2)
    assert isinstance(standard_threat("stax", 0.1, algorithm="adaptive").attack(), AdaptivePGD)
    assert standard_threat("mtax", 0.1, targets=3).targets == 3 and standard_threat("mtax", 0.1).targets == 5


def test_every_attack_has_a_line_of_help() -> None:
    assert all(20 < len(attack.summary) < 90 and "\n" not in attack.summary for attack in ATTACKS.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacked": "gallery"}, "attacked"), ({"algorithm": "square"}, "algorithm"),
        ({"algorithm": "x"}, "algorithm"),
        ({"name": "square"}, "algorithm"), ({"queries": 5}, "queries"), ({"momentum": -1.0}, "momentum"),
        ({"name": "square", "algorithm": "square", "queries": 0}, "queries"), ({"k": 0}, "k"), ({"turns": 0}, "turns"),
        ({"turns": 2}, "turns"), ({"algorithm": "adaptive", "momentum": 0.5}, "momentum"),
        ({"algorithm": "adaptive", "step_size": 0.5}, "step_size"), ({"restarts": 2}, "restarts"),
        ({"name": "gallery-raise", "targets": 2}, "targets"),
    ],
)  # fmt: skip
def test_errors_name_the_field(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreatModel(**options)
    with pytest.raises(ValueError, match="attacks"):
        standard_threat("pgd", 0.1)
