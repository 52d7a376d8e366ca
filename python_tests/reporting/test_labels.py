"""Names of methods, attacks and numbers of pixels."""

from __future__ import annotations

from typing import Any

import pytest
from made_up import away, made_up

from robustdml_ext.recipes import METHODS, make_recipe, resolve
from robustdml_ext.recipes.names import DEFENSES
from robustdml_ext.reporting import group_results, labels, method_label
from robustdml_ext.reporting.labels import inputs_label, pixels_label


def _label(method: str, **fields: Any) -> str:
    return method_label(resolve(method, fields).model_dump(mode="json"))


def test_the_defenses_are_the_recipes_own() -> None:
    assert set(labels.DEFENSES) == set(DEFENSES) < set(METHODS)


@pytest.mark.parametrize("method", [name for name in DEFENSES if name not in ("pal", "trades")])
def test_label_vectors_are_named_where_they_are_not_the_default(method: str) -> None:
    """A default that changes in the recipes must change in the labels too."""
    default = resolve(method).label_vectors
    other = "classes" if default == "embeddings" else "embeddings"
    assert "(" not in _label(method)
    words = {"classes": "(class labels)", "embeddings": "(clean embeddings)"}
    assert _label(method, label_vectors=other).endswith(words[other])


@pytest.mark.parametrize(
    ("method", "fields", "label"),
    [
        ("triplet", {}, "Triplet"),
        ("binomial", {"dropout": 0.25}, "Binomial + dropout 0.25"),
        ("ecaml", {"loss": "npair"}, "ECAML (N-Pair)"),
        ("ecaml", {"loss": "multisimilarity"}, "ECAML (multisimilarity)"),
        ("daml", {"loss": "lifted"}, "DAML (Lifted)"),
        ("daml", {"loss": "lifted", "energy_confusion": 0.1}, "DAML (Lifted) + EC"),
        ("mdprop", {"loss": "triplet", "hard_negatives": True, "energy_confusion": 0.1}, "MP″ (1, 5) + DAML + EC"),
        ("pal", {}, "PAL"),
        ("at", {}, "PAL + AT"),
        ("mixup", {}, "PAL + Mix-Up"),
        ("iat", {}, "PAL + IAT"),
        ("trades", {}, "PAL + TRADES"),
        ("eat", {}, "PAL + EAT"),
        ("eat", {"split": False}, "EAT without split"),
        ("ensemble", {}, "naive ensemble"),
        ("ensemble", {"member_method": "pal"}, "naive ensemble (members trained plainly)"),
        ("eat", {"members": 5, "self_transfer": False}, "PAL + EAT (of 5, no self-transfer)"),
        ("eat", {"inference": "average"}, "PAL + EAT (inference by average)"),
        ("at", {"loss": "triplet"}, "AT"),
        ("eat", {"loss": "triplet"}, "EAT"),
        ("pal", {"loss": "triplet"}, "baseline (triplet)"),
        ("trades", {"label_vectors": "classes"}, "PAL + TRADES"),
    ],
)
def test_defenses_are_called_as_the_paper_calls_them(method: str, fields: dict[str, Any], label: str) -> None:
    assert _label(method, **fields) == label


@pytest.mark.parametrize(
    ("threat", "label"),
    [
        (away(8 / 255), "PGD-10 away from clean, ε = 8/255"),
        (away(0.1, 20), "PGD-20 away from clean, ε = 0.1"),
        (away(0.1, random_start=0.02), "PGD-10 away from clean, ε = 0.1, start 0.02"),
        (away(0.1, step_size=2 / 255), "PGD-10 away from clean, ε = 0.1, step 2/255"),
        (away(0.1, route="sum"), "PGD-10 away from clean, ε = 0.1, through sum"),
        (away(0.1, algorithm="adaptive"), "APGD-10 away from clean, ε = 0.1"),
    ],
)
def test_away_is_the_papers_pgd(threat: dict[str, Any], label: str) -> None:
    assert inputs_label(threat) == label


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (16 / 255, "16/255"), (0.2, "0.2"), (0.01, "0.01"), (0.031, "0.031"), (0.0, "0")],
)
def test_pixels_are_fractions_where_that_is_shorter(value: float, text: str) -> None:
    assert pixels_label(value) == text


def test_two_methods_of_one_name_are_told_apart() -> None:
    adversarial = {**made_up("at"), "recipe": make_recipe({"method": "adversarial", "targets": [1]}).model_dump()}
    groups = group_results([made_up("at", loss="triplet"), adversarial, made_up("pal")])
    assert [group.label for group in groups] == ["AT, method at", "AT, method adversarial", "PAL"]


def test_only_the_options_that_tell_namesakes_apart_are_named() -> None:
    groups = group_results([made_up("eat"), made_up("eat", beta=0.25), made_up("eat", split=False, beta=0.75)])
    assert [group.label for group in groups] == ["PAL + EAT, beta 0.5", "PAL + EAT, beta 0.25", "EAT without split"]


def test_ensembles_attacked_through_every_route_are_another_group() -> None:
    groups = group_results([made_up("eat"), made_up("eat", seed=1, eval_route="every")])
    assert [group.label for group in groups] == ["PAL + EAT", "PAL + EAT, attacked through every route"]
    # A single network has one route.
    assert len(group_results([made_up("at"), made_up("at", seed=1, eval_route="every")])) == 1
