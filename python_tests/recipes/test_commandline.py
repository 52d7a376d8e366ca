"""Flags: precedence, help that teaches, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustdml_ext.recipes import Recipe, RecipeError
from robustdml_ext.recipes.commandline import parse_run


def _parse(*words: str) -> Recipe:
    return parse_run("mdprop", "MDProp.", list(words), "run mdprop").recipe


def test_flags_win_over_recipe_and_data_set() -> None:
    assert _parse().arch == "small"
    recipe = _parse("--recipe", "mdprop/table3-sop-mdprop-3", "--epochs", "2", "--root", "x")
    assert (recipe.dataset, recipe.targets, recipe.epochs, recipe.root) == ("sop", (3,), 2, "x")
    assert _parse("--dataset=sop").epochs == 100


def test_lists_switches_and_actions() -> None:
    request = parse_run(
        "mdprop",
        "",
        ["--targets", "1", "3", "5", "--joint-loss", "--resume", "--attack-epsilons", "0.1"],
        "run",
    )
    assert request.recipe.targets == (1, 3, 5)
    assert request.recipe.joint_loss and request.resume and not request.overwrite
    assert request.recipe.attack_epsilons == (0.1,)


def test_published_figures_travel_with_the_recipe() -> None:
    request = parse_run("mdprop", "", ["--recipe", "mdprop/table3-sop-mdprop-3", "--root", "x"], "run")
    assert request.published is not None and request.published.clean["recall@1"] == 77.73


def test_out_of_range_is_said_in_our_words() -> None:
    with pytest.raises(RecipeError, match=r"^epsilon must be greater than or equal to 0; got -1.0$"):
        _parse("--epsilon", "-1")


@pytest.mark.parametrize("words", [["--epsilom", "1"], ["--epochs", "many"], ["--loss", "triplets"]])
def test_what_cannot_be_read_leaves_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parse(*words)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert words[0] in captured.err and not captured.out


def test_help_describes_every_option_and_shows_this_runs_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        _parse("--dataset", "sop", "--help")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for name in set(Recipe.model_fields) - {"method"}:
        assert f"--{name.replace('_', '-')}" in text
    assert "Examples:" in text and "resnet50" in text and "small)" not in text


def test_the_small_network_starts_from_nothing_unless_told_otherwise() -> None:
    assert _parse("--dataset", "folder", "--arch", "small").weights == "none"
    assert _parse("--dataset", "folder", "--arch=small", "--weights", "mine.pt").weights == "mine.pt"
    assert _parse("--dataset", "folder").weights == "imagenet"
    with pytest.raises(RecipeError, match="weights of the arch small must be none or a FILE"):
        _parse("--arch", "small", "--weights", "imagenet")


def test_help_names_the_augmentation(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        _parse("--help")
    assert "crop-flip" in capsys.readouterr().out


def test_epochs_asked_for_take_the_place_of_a_recipes_iterations(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("recipe: {method: mdprop, iterations: 20000}\n")
    assert _parse("--recipe", str(file)).iterations == 20000
    epochs = _parse("--recipe", str(file), "--epochs", "3")
    assert (epochs.epochs, epochs.iterations) == (3, None)
    assert _parse("--recipe", str(file), "--iterations", "7").iterations == 7
    assert _parse("--epochs", "3", "--iterations", "7").iterations == 7
    with pytest.raises(RecipeError, match=r"^iterations must be greater than or equal to 1; got 0$"):
        _parse("--iterations", "0")
