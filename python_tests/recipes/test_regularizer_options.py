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


@pytest.mark.parametrize(
    ("method", "words", "message"),
    [
        ("triplet", ("--loss", "npair"), "loss of triplet must be triplet; got npair"),
        ("daml", ("--loss", "binomial"), "loss with hard negatives must be one of contrastive, triplet, lifted, npair"),
        ("daml", ("--no-hard-negatives",), "hard_negatives of daml must be on"),
        ("standard", ("--hard-negatives-margin", "2"), "--hard-negatives-margin is read only with --hard-negatives"),
        ("standard", ("--energy-confusion-pairs", "2"), "is read only with --energy-confusion"),
        ("at", ("--loss", "triplet", "--hard-negatives", "--label-vectors", "embeddings"), "must be classes"),
        ("ecaml", ("--energy-confusion", "-1"), "energy_confusion must be greater than or equal to 0; got -1.0"),
    ],
)
def test_what_does_not_fit_is_said(method: str, words: tuple[str, ...], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse(method, *words)
    assert message in str(caught.value)


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
