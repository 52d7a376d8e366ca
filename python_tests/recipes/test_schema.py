"""The schema: round trips, what it refuses and in which words, and what a resumed run may change."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext.data import NAMES
from robustdml_ext.recipes import METHODS, NEUTRAL_FIELDS, Recipe, RecipeError, make_recipe, resolve
from robustdml_ext.recipes.options import GROUPS


def test_every_option_is_described_and_belongs_to_one_group() -> None:
    grouped = [name for group in GROUPS for name in group.model_fields]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) | {"method"} == set(Recipe.model_fields)
    for name, info in Recipe.model_fields.items():
        assert info.description, name


@pytest.mark.parametrize("method", METHODS)
def test_every_methods_defaults_fit_every_data_set(method: str) -> None:
    for dataset in NAMES:
        for protocol in ("default", "zero-shot"):
            assert resolve(method, {"dataset": dataset, "protocol": protocol}).dataset == dataset


@given(
    targets=st.lists(st.integers(1, 20), min_size=1, max_size=4),
    epsilon=st.floats(0, 1),
    step_size=st.none() | st.floats(1e-6, 1),
    attacks=st.lists(st.floats(1e-4, 1), max_size=3),
    seed=st.integers(0, 2**31),
)
def test_json_round_trip_is_exact(
    targets: list[int], epsilon: float, step_size: float | None, attacks: list[float], seed: int
) -> None:
    recipe = make_recipe(
        {
            "method": "mdprop",
            "targets": targets,
            "epsilon": epsilon,
            "attack_step_size": step_size,
            "attack_epsilons": attacks,
            "seed": seed,
        }
    )
    assert make_recipe(json.loads(json.dumps(recipe.model_dump(mode="json")))) == recipe


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"epsilon": -0.1}, ["epsilon", "greater than or equal to 0", "-0.1"]),
        ({"learning_rate": "fast"}, ["learning_rate", "'fast'"]),
        ({"epsilom": 0.1}, ["epsilom", "not an option"]),
        ({"batch_size": 10, "samples_per_class": 4}, ["batch_size", "multiple", "10", "4"]),
        ({"method": "standard", "targets": [1]}, ["targets", "standard", "none", "[1]"]),
        ({"method": "advprop", "targets": [3]}, ["targets", "advprop", "[3]"]),
        ({"method": "adversarial", "targets": [1, 5]}, ["targets", "one number"]),
        ({"method": "mdprop", "targets": []}, ["targets", "at least one"]),
        ({"targets": [0]}, ["targets", "above 0"]),
        ({"angular_alpha": 90}, ["angular_alpha", "less than 90"]),
        ({"loss": "angular", "samples_per_class": 1}, ["samples_per_class", "at least 2", "angular"]),
        ({"dropout": 1.0}, ["dropout", "less than 1", "1.0"]),
        ({"unit_length": "maybe"}, ["unit_length", "'auto', 'yes' or 'no'", "'maybe'"]),
        ({"attack_epsilons": [0.1, -1.0]}, ["attack_epsilons", "-1.0"]),
        ({"recall_at": [2]}, ["recall_at", "1"]),
        ({"select_on": "validation", "evaluate_every": 0}, ["select_on validation", "evaluate_every", "0"]),
        ({"select_on": "best"}, ["select_on", "best", "validation"]),
        ({"validation_share": 1.0}, ["validation_share", "1"]),
        ({"batch_size": 12, "samples_per_class": 12}, ["batch_size", "samples_per_class", "2 classes"]),
        ({"samples_per_class": 1}, ["samples_per_class", "multisimilarity", "positive"]),
        ({"arch": "small"}, ["weights", "small", "none", "imagenet"]),
        ({"eval_restarts": 2}, ["eval_restarts", "eval_random_start"]),
        ({"eval_norm": "l1"}, ["eval_norm", "linf"]),
        ({"attack_epsilons": [0.1, float("nan")]}, ["attack_epsilons", "finite", "nan"]),
        ({"attack_epsilons": [float("inf")]}, ["attack_epsilons", "finite", "inf"]),
        ({"attack_epsilons": [0.0]}, ["attack_epsilons", "above 0"]),
        ({"loss": "triplets"}, ["loss", "multisimilarity", "'triplets'"]),
    ],
)
def test_a_wrong_value_is_named_with_what_was_expected(fields: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        make_recipe(fields)
    for word in words:
        assert word in str(caught.value)


def test_a_recipe_cannot_be_changed() -> None:
    with pytest.raises(Exception, match="frozen"):
        make_recipe({}).epsilon = 0.5  # type: ignore[misc]


def test_differences_name_what_trains_other_weights_and_nothing_else() -> None:
    recipe = make_recipe({})
    moved = make_recipe(
        {
            "out": "elsewhere",
            "workers": 3,
            "threads": 1,
            "epochs": 500,
            "save_every": 7,
            "attack_epsilons": [0.3],
        }
    )
    assert recipe.differences(moved) == []
    changed = make_recipe({"epsilon": 0.5, "seed": 3, "workers": 2})
    assert set(recipe.differences(changed)) == {"epsilon", "seed"}
    for name in (
        "method",
        "targets",
        "epsilon",
        "seed",
        "batch_size",
        "learning_rate",
        "arch",
        "loss",
        "precision",
    ):
        assert name not in NEUTRAL_FIELDS


def test_the_default_folder_tells_methods_seeds_and_targets_apart() -> None:
    made = [
        make_recipe({"seed": 0}),
        make_recipe({"seed": 1}),
        make_recipe({"targets": [3]}),
        make_recipe({"method": "standard", "targets": []}),
        make_recipe({"loss": "arcface"}),
    ]
    assert len({recipe.out_folder for recipe in made}) == len(made)
    assert make_recipe({"out": "here"}).out_folder == "here"


_FLOATS = [name for name, info in Recipe.model_fields.items() if info.annotation in (float, float | None)]


@pytest.mark.parametrize("name", _FLOATS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_every_float_must_be_finite(name: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"{name} must be a finite number"):
        make_recipe({name: value})
