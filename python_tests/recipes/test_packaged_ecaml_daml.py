"""The packaged recipes of ECAML and DAML: the papers' setup, and the figures of every row as printed."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from robustdml_ext.recipes import packaged_recipes, read_recipe_file, resolve

# Tables 3 to 6 of ECAML, and of its table 2 what is not in table 3: Recall@k, then NMI and F1 where the table has them.
ECAML: dict[str, dict[str, str]] = {
    "cars196": {
        "triplet": "68.3 78.3 86.2 91.7 59.2 26.2",
        "ecaml-triplet": "81.0 88.2 92.8 96.0 65.7 33.0",
        "npair": "74.3 83.6 90.2 93.1 61.8 29.9",
        "ecaml-npair": "80.4 88.2 92.4 95.8 64.6 32.7",
        "binomial": "74.2 83.1 86.7 92.9 61.5 28.8",
        "ecaml-binomial": "84.5 90.4 93.8 96.6 68.4 38.4",
        "angular": "71.3 80.7 87.0 91.8 62.4 31.8",
        "binomial-dropout-0.1": "73.1 82.1 88.6 92.6",
        "binomial-dropout-0.25": "74.5 83.3 85.9 92.6",
        "binomial-dropout-0.4": "72.4 81.4 87.5 92.5",
    },
    "cub200": {
        "triplet": "49.5 61.7 73.2 82.5 57.2 24.1",
        "ecaml-triplet": "53.4 64.7 75.1 84.7 60.1 26.9",
        "npair": "51.9 63.3 73.9 83.0 59.7 26.5",
        "ecaml-npair": "53.2 65.1 75.9 84.9 60.4 28.5",
        "binomial": "52.9 65.0 75.4 83.6 59.0 26.5",
        "ecaml-binomial": "55.7 66.5 76.7 85.1 61.8 30.5",
        "angular": "53.6 65.0 75.3 83.7 61.0 30.2",
    },
    "sop": {
        "triplet": "57.9 75.6 88.5 96.3 86.4 20.8",
        "ecaml-triplet": "64.9 80.0 90.5 96.9 87.0 23.3",
        "npair": "68.0 84.0 93.1 97.8 87.6 25.8",
        "ecaml-npair": "69.8 84.7 93.2 97.8 88.0 27.2",
        "binomial": "68.5 84.0 93.1 97.7 88.5 29.9",
        "ecaml-binomial": "71.3 85.6 93.6 98.0 89.9 32.8",
        "angular": "70.9 85.0 93.5 98.0 87.8 26.5",
    },
    "inshop": {
        "triplet": "64.4 87.1 91.0 92.7 93.9 94.8",
        "ecaml-triplet": "68.0 89.9 93.3 94.8 95.7 96.3",
        "npair": "78.2 94.3 96.0 96.9 97.4 97.7",
        "ecaml-npair": "79.8 94.6 96.1 97.0 97.4 97.7",
        "binomial": "81.7 94.5 96.2 97.2 97.6 97.9",
        "ecaml-binomial": "83.8 95.1 96.6 97.3 97.7 98.0",
    },
}

# Tables 1 to 3 of DAML: NMI, F1, then Recall@k.
DAML: dict[str, dict[str, str]] = {
    "cub200": {
        "contrastive": "47.2 12.5 27.2 36.3 49.8 62.1",
        "daml-contrastive": "49.1 16.2 35.7 48.4 60.8 73.6",
        "triplet": "49.8 15.0 35.9 47.7 59.1 70.0",
        "daml-triplet": "51.3 17.6 37.6 49.3 61.3 74.4",
        "lifted": "56.4 22.6 46.9 59.8 71.2 81.5",
        "daml-lifted": "59.5 26.6 49.0 62.2 73.7 83.3",
        "npair": "60.2 28.2 51.9 64.3 74.9 83.2",
        "daml-npair": "61.3 29.5 52.7 65.4 75.5 84.3",
        "angular": "61.0 30.2 53.6 65.0 75.3 83.7",
        "triplet-npair": "54.1 20.0 42.8 54.9 66.2 77.6",
    },
    "cars196": {
        "contrastive": "42.3 10.5 27.6 38.3 51.0 63.9",
        "daml-contrastive": "42.6 11.4 37.2 49.6 61.8 73.3",
        "triplet": "52.9 17.9 45.1 57.4 69.7 79.2",
        "daml-triplet": "56.5 22.9 60.6 72.5 82.5 89.9",
        "lifted": "57.8 25.1 59.9 70.4 79.6 87.0",
        "daml-lifted": "63.1 31.9 72.5 82.1 88.5 92.9",
        "npair": "62.7 31.8 68.9 78.9 85.8 90.9",
        "daml-npair": "66.0 36.4 75.1 83.8 89.7 93.5",
        "angular": "62.4 31.8 71.3 80.7 87.0 91.8",
        "triplet-npair": "54.3 19.6 46.3 59.9 71.4 81.3",
    },
    "sop": {
        "contrastive": "82.4 10.1 37.5 53.9 71.0",
        "daml-contrastive": "83.5 10.9 41.7 57.5 73.5",
        "triplet": "86.3 20.2 53.9 72.1 85.7",
        "daml-triplet": "87.1 22.3 58.1 75.0 88.0",
        "lifted": "87.2 25.3 62.6 80.9 91.2",
        "daml-lifted": "89.1 31.7 66.3 82.8 92.5",
        "npair": "87.9 27.1 66.4 82.9 92.1",
        "daml-npair": "89.4 32.4 68.4 83.5 92.3",
        "angular": "87.8 26.5 67.9 83.2 92.2",
        "triplet-npair": "86.4 21.0 58.1 76.0 89.1",
    },
}

TABLES = {"ecaml": ECAML, "daml": DAML}
ROWS = [(paper, dataset, row) for paper, table in TABLES.items() for dataset, rows in table.items() for row in rows]
NUMBERS = {
    "ecaml": {"cars196": 3, "cub200": 4, "sop": 5, "inshop": 6},
    "daml": {"cub200": 1, "cars196": 2, "sop": 3},
}
RECALLS = {
    "cars196": (1, 2, 4, 8),
    "cub200": (1, 2, 4, 8),
    "sop": (1, 10, 100, 1000),
    "inshop": (1, 10, 20, 30, 40, 50),
}
# What a row is called in the papers, by the end of its recipe's name.
SHOWN = {
    "ecaml": {
        "triplet": "Triplet", "ecaml-triplet": "ECAML(Tri)", "npair": "N-Pair", "ecaml-npair": "ECAML(N-Pair)",
        "binomial": "Binomial", "ecaml-binomial": "ECAML(Binomial)", "angular": "Angular(Wang et al. 2017)",
        **{f"binomial-dropout-{ratio}": f"Dropout(Binomial,{ratio})" for ratio in (0.1, 0.25, 0.4)},
    },
    "daml": {
        "contrastive": "Contrastive", "daml-contrastive": "DAML (cont)", "triplet": "Triplet",
        "daml-triplet": "DAML (tri)", "lifted": "Lifted", "daml-lifted": "DAML (lifted)", "npair": "N-pair",
        "daml-npair": "DAML (N-pair)", "angular": "Angular", "triplet-npair": "Triplet+N-pair",
    },
}  # fmt: skip


def name_of(paper: str, dataset: str, row: str) -> str:
    number = 2 if "dropout" in row else NUMBERS[paper][dataset]
    return f"{paper}/table{number}-{dataset}-{row}"


def content(paper: str, dataset: str, row: str) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(packaged_recipes()[name_of(paper, dataset, row)].read_text(encoding="utf-8"))
    return read


def recalls(paper: str, dataset: str) -> tuple[int, ...]:
    return RECALLS[dataset][:3] if (paper, dataset) == ("daml", "sop") else RECALLS[dataset]


def test_every_row_has_a_recipe_and_every_recipe_a_row() -> None:
    found = {name for name in packaged_recipes() if name.startswith(("ecaml/", "daml/"))}
    assert found == {name_of(paper, dataset, row) for paper, dataset, row in ROWS}


@pytest.mark.parametrize(("paper", "dataset", "row"), ROWS)
def test_figures_are_as_printed(paper: str, dataset: str, row: str) -> None:
    published = content(paper, dataset, row)["published"]
    figures = [float(figure) for figure in TABLES[paper][dataset][row].split()]
    of_recall = [f"recall@{k}" for k in recalls(paper, dataset)]
    names = ["nmi", "f1", *of_recall] if paper == "daml" else [*of_recall, "nmi", "f1"][: len(figures)]
    assert published["clean"] == dict(zip(names, figures, strict=True))
    number = 2 if "dropout" in row else NUMBERS[paper][dataset]
    # Two rows of table 3 stand in ECAML's table 2 too.
    again = (paper, dataset) == ("ecaml", "cars196") and row in ("binomial", "ecaml-binomial")
    other = f", and table 2, row {SHOWN[paper][row]}" if again else ""
    assert published["source"].endswith(f", table {number}, row {SHOWN[paper][row]}{other}")
    assert published["threat"] == "none: the paper attacks nothing" and "adversarial" not in published


@pytest.mark.parametrize(("paper", "dataset", "row"), ROWS)
def test_a_row_runs_with_its_paper_s_setup(paper: str, dataset: str, row: str) -> None:
    file = read_recipe_file(name_of(paper, dataset, row))
    recipe = resolve(recipe_file=file)
    assert file.title.startswith(("CARS196", "CUB-200-2011", "Stanford Online Products", "In-Shop"))
    kind, _, rest = row.partition("-")
    assert recipe.method == kind and recipe.dataset == dataset
    assert recipe.loss == (rest if kind in ("ecaml", "daml") else kind)
    assert (recipe.arch, recipe.weights, recipe.embedding_dim, recipe.image_size) == (
        "googlenet", "imagenet", 512, 227,
    )  # fmt: skip
    assert (recipe.augment, recipe.head_lr_scale, recipe.select_on) == ("resize-crop-flip", 10, "last")
    assert (recipe.optimizer, recipe.learning_rate, recipe.weight_decay) == ("adam", 1e-5, 2e-4)
    assert recipe.targets == () and recipe.schedule == "none" and recipe.recall_at == recalls(paper, dataset)
    assert recipe.angular_alpha == 45 and recipe.unit_length == "auto"


@pytest.mark.parametrize(("dataset", "row"), [(dataset, row) for paper, dataset, row in ROWS if paper == "ecaml"])
def test_a_row_of_ecaml_has_its_own_numbers(dataset: str, row: str) -> None:
    recipe = resolve(recipe_file=read_recipe_file(name_of("ecaml", dataset, row)))
    # Section "Implementation details", and under equations 8 and 10.
    assert recipe.iterations == {"cub200": 5_000, "cars196": 10_000}.get(dataset, 20_000)
    assert (recipe.batch_size, recipe.samples_per_class, recipe.triplet_margin) == (128, 2, 0.1)
    assert (recipe.binomial_alpha, recipe.binomial_beta, recipe.binomial_eta) == (2, 0.5, 25)
    if recipe.method == "ecaml":
        weight = {"triplet": 0.02, "npair": 0.3, "binomial": 0.13}[recipe.loss]
        assert recipe.energy_confusion == pytest.approx(weight / (10 if dataset in ("sop", "inshop") else 1))
    # Table 2 puts dropout in the place of energy confusion.
    assert recipe.dropout == (float(row.rpartition("-")[2]) if "dropout" in row else 0)
    # Figure 2.
    curves = dataset == "cars196" and recipe.method != "angular" and "dropout" not in row
    assert recipe.evaluate_seen == curves and (recipe.evaluate_every > 0) == curves


@pytest.mark.parametrize(("dataset", "row"), [(dataset, row) for paper, dataset, row in ROWS if paper == "daml"])
def test_a_row_of_daml_has_its_own_numbers(dataset: str, row: str) -> None:
    recipe = resolve(recipe_file=read_recipe_file(name_of("daml", dataset, row)))
    # Section "Implementation details".
    assert recipe.iterations == 20_000 and recipe.batch_size == (120 if recipe.loss == "triplet" else 128)
    if recipe.loss in ("contrastive", "triplet", "lifted"):
        assert (
            getattr(recipe, {"contrastive": "contrastive_negative_margin"}.get(recipe.loss, f"{recipe.loss}_margin"))
            == 1
        )
    # N-pair sampling is of two images of each class.
    assert recipe.samples_per_class == (2 if "npair" in row or row == "angular" else 4)
    assert recipe.evaluate_every == 0 and recipe.dropout is None


def test_table_1_is_beside_the_rows_of_its_best_weights() -> None:
    for loss, best in (("triplet", "0.02: 81.0"), ("npair", "0.3: 80.4"), ("binomial", "0.13: 84.5")):
        for dataset in ("cars196", "cub200"):
            published = content("ecaml", dataset, f"ecaml-{loss}")["published"]
            assert (f", {best}, " in published["note"]) == (dataset == "cars196")
            assert best.endswith(f": {published['clean']['recall@1']}") == (dataset == "cars196")
    assert "R@1, R@2, R@3 and R@4" in content("ecaml", "cars196", "binomial-dropout-0.1")["published"]["note"]
