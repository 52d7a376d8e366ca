"""Energy confusion and hard negatives as options of every method, and what does not fit together."""

from __future__ import annotations

import pytest

from robustdml_ext.recipes import Recipe, RecipeError, resolve
from robustdml_ext.recipes.commandline import parse_run


def parse(method: str, *words: str) -> Recipe:
    return parse_run(method, "summary", words, f"run {method}").recipe


def test_ecaml_has_the_papers_weight_for_its_loss_and_data_set() -> None:
    assert parse("ecaml", "--loss", "triplet").energy_confusion == 0.02
    assert parse("ecaml", "--loss=npair", "--dataset", "inshop").energy_confusion == pytest.approx(0.03)
    assert parse("ecaml").loss == "binomial" and parse("ecaml").energy_confusion == 0.13
    assert parse("ecaml", "--loss", "triplet", "--energy-confusion", "0").energy_confusion == 0
    assert parse("standard").energy_confusion == 0
    assert parse("ecaml", "--loss", "npair").npair_scale == parse("npair").npair_scale == 10
    assert parse("npair", "--npair-scale", "None").npair_scale is None and parse("daml").npair_scale is None


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("triplet", ("--loss", "npair"), "loss of triplet must be triplet; got npair"),
        ("daml", ("--loss", "binomial"), "loss with hard negatives must be one of contrastive, triplet, lifted, npair"),
        ("daml", ("--no-hard-negatives",), "hard_negatives of daml must be on"),
        ("standard", ("--hard-negatives-margin", "2"), "--hard-negatives-margin is read only with --hard-negatives"),
        ("standard", ("--energy-confusion-pairs", "2"), "is read only with --energy-confusion"),
        ("at", ("--loss", "triplet", "--hard-negatives", "--label-vectors", "embeddings"), "must be classes"),
        ("daml", ("--npair-scale", "10"), "npair_scale with hard negatives must be None; got 10.0"),
        ("ecaml", ("--energy-confusion", "-1"), "energy_confusion must be greater than or equal to 0; got -1.0"),
    ],
)
def test_what_does_not_fit_is_said(method: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(method, *words)
    assert message in str(caught.value)


def test_what_is_turned_off_by_its_own_flag_may_have_its_numbers() -> None:
    """As the value 0 of an ablation has."""
    for method in ("ecaml", "standard"):
        recipe = parse(method, "--loss", "triplet", "--energy-confusion", "0", "--energy-confusion-pairs", "8")
        assert recipe.energy_confusion == 0


def test_synthetic_negatives_have_the_margin_of_their_loss() -> None:
    assert resolve("daml", {"loss": "triplet"}).synthetic_margin == 1.0
    fields = {"hard_negatives": True, "loss": "triplet", "triplet_margin": 0.2}
    assert resolve("standard", fields).synthetic_margin == 0.2
    assert resolve("standard", {**fields, "hard_negatives_margin": 0.5}).synthetic_margin == 0.5
    assert resolve("daml", {"triplet_margin": 0.3}).synthetic_margin == 1.0  # npair


def test_a_run_that_would_end_before_any_synthetic_negative_is_refused() -> None:
    with pytest.raises(RecipeError, match="epochs must be more than hard_negatives_pretrain"):
        parse("daml", "--epochs", "5")
    assert parse("daml", "--epochs", "6").phases_before == 5 and parse("standard", "--epochs", "1").phases_before == 0


def test_runs_of_one_loss_with_and_without_have_folders_of_their_own() -> None:
    fields = {"loss": "triplet"}
    folders = [
        resolve(method, {**fields, **more}).out_folder
        for method, more in (
            ("standard", {}), ("standard", {"energy_confusion": 0.1}), ("standard", {"hard_negatives": True}),
            ("ecaml", {}), ("daml", {}), ("triplet", {}), ("daml", {"energy_confusion": 0.1}),
            ("triplet", {"dropout": 0.1}), ("triplet", {"dropout": 0.25}),
        )
    ]  # fmt: skip
    assert len(set(folders)) == len(folders)
    assert folders[5] == "runs/digits-triplet-seed0" and folders[4] == "runs/digits-daml-triplet-seed0"
