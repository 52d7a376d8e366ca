"""Recipe files and the order in which defaults, file and flags win."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustdml_ext.recipes import (
    Published,
    RecipeError,
    make_recipe,
    read_recipe_file,
    resolve,
    write_recipe_file,
)
from robustdml_ext.recipes.commandline import parse_run
from robustdml_ext.recipes.defense_options import READ_BY
from robustdml_ext.recipes.names import METHODS
from robustdml_ext.recipes.schema import Recipe


def test_schema_then_data_set_then_file_then_flags(tmp_path: Path) -> None:
    assert resolve("mdprop", {"dataset": "sop"}).batch_size == 112  # schema
    assert resolve("mdprop").arch == "small"  # digits' own
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: {epochs: 7, batch_size: 40, samples_per_class: 8}\n")
    file = read_recipe_file(path)
    from_file = resolve("mdprop", {}, file)
    assert (from_file.epochs, from_file.batch_size, from_file.arch) == (7, 40, "small")
    assert resolve("mdprop", {"epochs": 9}, file).epochs == 9
    assert resolve("mdprop", {"epochs": 9}, file).batch_size == 40


def test_the_data_set_named_in_a_file_brings_its_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: {dataset: sop}\n")
    assert resolve("mdprop", {}, read_recipe_file(path)).epochs == 100


def test_methods_bring_their_targets() -> None:
    assert resolve("standard").targets == ()
    assert resolve("adversarial").targets == (1,)
    assert resolve("advprop").targets == (1,)
    assert resolve("mdprop").targets == (1, 5)


def test_yaml_round_trip_keeps_everything(tmp_path: Path) -> None:
    recipe = make_recipe({"targets": [1, 3, 5], "learning_rate": 1e-5, "root": "somewhere", "seed": 4})
    published = Published(source="a", threat="b", clean={"recall@1": 1.5}, adversarial={})
    write_recipe_file(tmp_path / "recipe.yaml", recipe, published)
    file = read_recipe_file(tmp_path / "recipe.yaml")
    assert resolve(recipe_file=file) == recipe
    assert file.published == published


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("recipe: {epsilom: 1}", ["epsilom"]),
        ("epsilon: 1", ["recipe:"]),
        ("recipe: {}\nextra: 1", ["extra"]),
        ("recipe: [", ["YAML"]),
        ("recipe: {}\npublished: {source: x}", ["published", "clean"]),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(tmp_path: Path, text: str, words: list[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe_file(path)
    for word in [*words, "bad.yaml"]:
        assert word in str(caught.value)


def test_an_unknown_name_gets_those_nearest_to_it() -> None:
    with pytest.raises(RecipeError, match=r"did you mean.*mdprop/table3-sop-standard"):
        read_recipe_file("mdprop/none-such")


def test_a_recipe_for_another_method_is_refused() -> None:
    with pytest.raises(RecipeError, match="is for mdprop, but standard"):
        resolve("standard", {}, read_recipe_file("mdprop/table3-sop-mdprop-3"))


@pytest.mark.parametrize("text", ["recipe: {dataset: [sop]}", "recipe: {method: [mdprop]}"])
def test_a_list_where_a_name_belongs_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match="got \\["):
        resolve(recipe_file=read_recipe_file(path))
    with pytest.raises(RecipeError):
        resolve("mdprop", {}, read_recipe_file(path))


@pytest.mark.parametrize(
    ("method", "flags", "named"),
    [
        ("mixup", ["--epsilon", "8/255"], "mixup does not read --epsilon"),
        ("trades", ["--label-vectors", "embeddings"], "trades does not read --label-vectors"),
        ("pal", ["--members", "5"], "pal does not read --members, which is for ensemble, eat"),
        ("standard", ["--attack-steps", "9"], "standard does not read --attack-steps"),
        ("eat", ["--targets-from", "clean"], "eat does not read --targets-from"),
    ],
)
def test_an_option_of_other_methods_is_refused(method: str, flags: list[str], named: str) -> None:
    with pytest.raises(RecipeError, match=named):
        parse_run(method, "", flags, "run")


def test_options_that_only_some_methods_read_are_options() -> None:
    assert set(READ_BY) <= set(Recipe.model_fields) and {name for names in READ_BY.values() for name in names} <= set(
        METHODS
    )
