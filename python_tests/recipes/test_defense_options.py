"""The methods of the EAT paper: their defaults, what they refuse, and the folders they write to."""

from __future__ import annotations

import pytest

from robustdml_ext.evaluation.threats import ATTACKS
from robustdml_ext.recipes import METHODS, NEUTRAL_FIELDS, Recipe, RecipeError, make_recipe, resolve
from robustdml_ext.recipes.defaults import DATASET_DEFAULTS
from robustdml_ext.recipes.names import DEFENSES, EVAL_ATTACKS


def test_the_attacks_that_may_be_named_are_those_of_the_suite() -> None:
    assert set(EVAL_ATTACKS) == set(ATTACKS)


@pytest.mark.parametrize("method", DEFENSES)
def test_the_papers_numbers_are_the_defaults(method: str) -> None:
    recipe = resolve(method, {"dataset": "cars196"})
    assert METHODS[method] and recipe.targets == ()
    assert (recipe.optimizer, recipe.learning_rate, recipe.epochs, recipe.loss) == ("adamw", 1e-4, 200, "proxyanchor")
    assert (recipe.epsilon, recipe.attack_steps) == (16 / 255, 10)
    assert (recipe.eval_attacks, recipe.attack_epsilons, recipe.eval_steps) == (("away",), (8 / 255,), 10)
    assert (recipe.arch, recipe.embedding_dim, recipe.schedule) == ("mobilenet_v2", 512, "cosine")


@pytest.mark.parametrize("method", DEFENSES)
@pytest.mark.parametrize("dataset", [name for name, fields in DATASET_DEFAULTS.items() if "epsilon" in fields])
def test_a_small_data_set_brings_its_own_network_and_radius(method: str, dataset: str) -> None:
    recipe = resolve(method, {"dataset": dataset})
    assert recipe.arch == "small" and recipe.epsilon == DATASET_DEFAULTS[dataset]["epsilon"]
    assert recipe.random_start == pytest.approx(recipe.epsilon / 10)
    assert recipe.attack_epsilons == DATASET_DEFAULTS[dataset]["attack_epsilons"] and recipe.eval_attacks == ("away",)


def test_other_methods_are_as_they_were() -> None:
    recipe = resolve("mdprop", {"dataset": "cars196"})
    assert (recipe.random_start, recipe.eval_attacks, recipe.schedule) == (5e-4, ("stax", "mtax"), "none")


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("eat", {"members": 1}, ["split needs at least 2 members", "1"]),
        ("eat", {"members": 0, "split": False}, ["members", "greater than or equal to 1", "0"]),
        ("ensemble", {"members": 1}, ["members of ensemble", "at least 2", "1"]),
        ("at", {"beta": 1.5}, ["beta", "less than or equal to 1", "1.5"]),
        ("mixup", {"mixup_alpha": 0}, ["mixup_alpha", "greater than 0"]),
        ("trades", {"trades_lambda": -1}, ["trades_lambda", "greater than or equal to 0"]),
        ("pal", {"targets": [1]}, ["targets of pal", "none", "[1]"]),
        ("eat", {"targets": [1, 5]}, ["targets of eat", "none"]),
        ("eat", {"joint_loss": True}, ["joint_loss", "eat"]),
        ("eat", {"inference": "mean"}, ["inference", "vote", "'mean'"]),
        ("pal", {"schedule_gamma": 1.5}, ["schedule_gamma", "less than or equal to 1"]),
        ("pal", {"schedule_step": 0}, ["schedule_step", "0"]),
        ("pal", {"eval_attacks": ["away", "pgd"]}, ["eval_attacks", "stax", "got pgd"]),
        ("pal", {"eval_attacks": ["away", "away"]}, ["eval_attacks", "once"]),
        ("pal", {"eval_sweep_steps": [5, 0]}, ["eval_sweep_steps", "above 0"]),
        ("pal", {"eval_sweep_steps": [5, 5]}, ["eval_sweep_steps", "once"]),
    ],
)
def test_what_makes_no_sense_is_refused(method: str, fields: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(method, fields)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("eat", {"members": 1, "split": False}),
        ("at", {"beta": 0, "label_vectors": "classes"}),
        ("ensemble", {"beta": 0, "member_method": "pal"}),
        ("pal", {"members": 1, "beta": 0}),  # options of other methods
        ("trades", {"beta": 0}),
    ],
)
def test_what_makes_sense_is_not(method: str, fields: dict[str, object]) -> None:
    assert resolve(method, fields).method == method


def test_folders_tell_ensembles_apart() -> None:
    made: list[Recipe] = [
        resolve("eat"),
        resolve("eat", {"members": 5}),
        resolve("eat", {"split": False}),
        resolve("ensemble"),
        *(resolve(method) for method in ("pal", "at", "mixup", "iat", "trades")),
    ]
    assert len({recipe.out_folder for recipe in made}) == len(made)
    assert resolve("eat", {"split": False}).out_folder == "runs/digits-eat-3-nosplit-proxyanchor-seed0"
    assert resolve("at").out_folder == "runs/digits-at-proxyanchor-seed0"


def test_what_judges_may_change_and_what_trains_may_not() -> None:
    assert {"eval_attacks", "eval_sweep_steps", "judge_members", "eval_route", "inference"} <= NEUTRAL_FIELDS
    trained = {"beta", "members", "split", "self_transfer", "label_vectors", "schedule", "mixup_alpha"}
    assert not trained & NEUTRAL_FIELDS
    judged = {"method": "eat", "targets": [], "eval_attacks": ["away"], "judge_members": True}
    assert make_recipe({**judged, "beta": 0.25, "inference": "average"}).differences(
        make_recipe({"method": "eat", "targets": []})
    ) == ["beta"]
