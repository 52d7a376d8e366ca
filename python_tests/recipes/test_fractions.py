"""Numbers of pixels written as fractions: 8/255, in YAML and on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustdml_ext.recipes import RecipeError, make_recipe, read_recipe_file, resolve
from robustdml_ext.recipes.commandline import parse_run
from robustdml_ext.recipes.option_group import read_fraction, write_fraction
from robustdml_ext.recipes.schema import FRACTIONS


def test_every_number_of_pixels_may_be_one() -> None:
    lists = {"attack_epsilons"}
    assert lists | {
        "epsilon", "random_start", "attack_step_size", "eval_step_size", "eval_random_start",
    } == FRACTIONS  # fmt: skip
    for name in FRACTIONS:
        value = getattr(make_recipe({name: ["8/255", 0.5] if name in lists else "8/255"}), name)
        assert value == ((8 / 255, 0.5) if name in lists else 8 / 255)


@pytest.mark.parametrize("text", ["8/0", "a/b", "1/2/3", "/", "8/255/"])
def test_what_is_no_fraction_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="epsilon must be a valid number"):
        make_recipe({"epsilon": text})


def test_a_fraction_is_held_to_the_range() -> None:
    with pytest.raises(RecipeError, match="epsilon must be greater than or equal to 0"):
        make_recipe({"epsilon": "-8/255"})
    with pytest.raises(RecipeError, match="learning_rate"):
        make_recipe({"learning_rate": "1/1000"})


def test_a_file_may_hold_fractions(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("recipe: {epsilon: 16/255, attack_epsilons: [8/255, 0.1]}\n")
    recipe = resolve("at", {}, read_recipe_file(path))
    assert (recipe.epsilon, recipe.attack_epsilons) == (16 / 255, (8 / 255, 0.1))


def test_flags_may_be_fractions() -> None:
    words = ["--epsilon", "16/255", "--attack-epsilons", "8/255", "0.1", "--attack-step-size", "2/255"]
    recipe = parse_run("at", "", [*words, "--eval-random-start", "0.8/255"], "run").recipe
    assert (recipe.epsilon, recipe.attack_epsilons) == (16 / 255, (8 / 255, 0.1))
    assert (recipe.attack_step_size, recipe.eval_step_size) == (2 / 255, None)
    assert recipe.eval_random_start == 0.8 / 255


@pytest.mark.parametrize("word", ["8/0", "many", "8/"])
def test_a_flag_that_is_no_number_leaves_with_2(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_run("at", "", ["--epsilon", word], "run")
    assert caught.value.code == 2 and "--epsilon" in capsys.readouterr().err


def test_help_shows_the_fraction(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_run("at", "", ["--dataset", "cars196", "--help"], "run")
    text = capsys.readouterr().out
    assert "(default: 16/255)" in text and "0.06274" not in text


@given(st.floats(0, 1) | st.integers(0, 2550).map(lambda tenths: tenths / 10 / 255))
def test_what_is_written_reads_as_the_same_number(value: float) -> None:
    assert float(read_fraction(write_fraction(value))) == value


def test_short_numbers_stay_as_they_are() -> None:
    assert [write_fraction(value) for value in (0.0, 0.2, 0.01, 8 / 255)] == ["0.0", "0.2", "0.01", "8/255"]
