"""The rows of the prototypes paper: each loads, and has the figures that its tables print."""

from __future__ import annotations

import pytest

from robustdml_ext.recipes import Recipe, packaged_recipes, read_recipe_file, resolve

NAMES = [name for name in packaged_recipes() if name.startswith("prototypes/")]
# Table 1, as printed: clean, then by attack; SIM and DOL.
TABLE_1 = {
    "mnist": {
        "clean": (99.36, 99.31), "PGD (40)": (23.85, 0.02), "PGD (100)": (13.61, 0.01), "FGSM (1)": (68.51, 17.18)
    },
    "mnist-at": {
        "clean": (98.79, 98.71), "PGD (40)": (95.35, 95.04), "PGD (100)": (93.98, 93.78), "FGSM (1)": (97.84, 97.62)
    },
    "cifar10": {
        "clean": (96.14, 96.20), "PGD (7)": (65.46, 47.39), "PGD (20)": (27.87, 9.27), "FGSM (1)": (65.46, 57.42)
    },
    "cifar10-at": {
        "clean": (92.55, 93.29), "PGD (7)": (80.04, 80.73), "PGD (20)": (56.13, 54.29), "FGSM (1)": (52.98, 46.85)
    },
}  # fmt: skip
# Table 2, SIM; table 3, EER on VoxCeleb1's test set, Extended and Hard.
TABLE_2 = {"photo": 97.07, "art-painting": 86.38, "cartoon": 83.66, "sketch": 84.63}
TABLE_3 = {"similarity": (2.55, 2.75, 4.76), "cosine": (2.62, 2.69, 4.48), "sum": (2.45, 2.55, 4.39)}


def row(name: str) -> Recipe:
    return resolve(recipe_file=read_recipe_file(f"prototypes/{name}"))


def test_the_rows_are_those_of_the_papers_experiments() -> None:
    others = {"mnist-no-auxiliary", "cub200", "cars196", "cub200-no-auxiliary", "cars196-no-auxiliary", "miniimagenet"}
    pacs = {f"pacs-{domain}" for domain in TABLE_2}
    printed = {f"table1-{name}" for name in TABLE_1} | {f"table2-{name}" for name in pacs} | {"table3-voxceleb"}
    assert {name.removeprefix("prototypes/") for name in NAMES} == printed | others


@pytest.mark.parametrize("name", NAMES)
def test_a_row_loads_with_the_papers_losses(name: str) -> None:
    file = read_recipe_file(name)
    recipe = resolve(recipe_file=file)
    assert file.title and recipe.method == "prototypes" and recipe.loss == "prototypical"
    assert (recipe.prototype_momentum, recipe.pair_weight, recipe.label_smoothing) == (0.9, 1.0, 0.0)
    assert recipe.auxiliary_weight == (0.0 if "no-auxiliary" in name else 1.0)
    assert (recipe.similarity_hidden, recipe.similarity_dropout) == (512, 0.25) and not recipe.unit_embeddings
    assert (file.published is not None) == name.startswith("prototypes/table")


@pytest.mark.parametrize("name", TABLE_1)
def test_table_1_is_as_printed(name: str) -> None:
    recipe, published = row(f"table1-{name}"), read_recipe_file(f"prototypes/table1-{name}").published
    assert published is not None and "table 1" in published.source
    found = {"clean": published.clean, **published.attacks}
    assert {
        attack: (figures["accuracy_similarity"], figures["accuracy_dense"]) for attack, figures in found.items()
    } == TABLE_1[name]
    # What is printed is what is judged.
    steps = [f"PGD ({steps})" for steps in (recipe.eval_steps, *recipe.eval_sweep_steps)]
    assert list(published.attacks) == [*steps, "FGSM (1)"] and recipe.eval_attacks == ("pgd", "fgsm")
    assert recipe.arch == ("lenet" if "mnist" in name else "wide_resnet34_10")
    assert recipe.attack_epsilons == ((0.3,) if "mnist" in name else (8 / 255,))
    assert recipe.eval_step_size == pytest.approx(recipe.attack_epsilons[0] / 30)
    assert recipe.adversarial == ("dense" if name.endswith("-at") else "none")


def test_tables_2_and_3_are_as_printed() -> None:
    for domain, figure in TABLE_2.items():
        published = read_recipe_file(f"prototypes/table2-pacs-{domain}").published
        assert published is not None and published.clean == {"accuracy_similarity": figure}
        recipe = row(f"table2-pacs-{domain}")
        assert recipe.protocol == domain.replace("-", "_") and recipe.arch == "resnet50"
    published = read_recipe_file("prototypes/table3-voxceleb").published
    assert (
        published is not None
        and row("table3-voxceleb").arch == "xvector"
        and row("table3-voxceleb").dataset == "voxceleb2"
    )
    lists = ("veri_test", "list_test_all", "list_test_hard")
    expected = {
        f"{listed}/eer_{scorer}": figure
        for scorer, figures in TABLE_3.items()
        for listed, figure in zip(lists, figures, strict=True)
    }
    assert published.clean == expected
