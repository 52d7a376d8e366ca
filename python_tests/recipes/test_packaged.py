"""The packaged recipes: each loads, carries its paper's setup, and has the figures that were printed."""

from __future__ import annotations

import re

import pytest

from robustdml_ext.recipes import packaged_recipes, read_recipe_file, resolve


def _names(paper: str) -> list[str]:
    return [name for name in packaged_recipes() if name.startswith(f"{paper}/")]


@pytest.mark.parametrize("name", _names("mdprop"))
def test_a_recipe_of_mdprop_loads_and_carries_the_papers_setup(name: str) -> None:
    file = read_recipe_file(name)
    recipe = resolve(recipe_file=file)
    assert file.title and file.published is not None
    assert "ImageNet's normalization" in file.published.note
    source = file.published.source
    clean_only = any(part in source for part in ("table 9", "table 10", "ResNet18", "ResNet152"))
    assert bool(file.published.adversarial) != clean_only
    # One of table 10 is no recall of four images, as it is below another row's of one.
    broken = source.endswith("table 10, row AP'")
    for figures in (file.published.clean, *([] if clean_only else [file.published.adversarial])):
        assert set(figures) == {"recall@1", "recall@4", "nmi", "pi_ratio"} - ({"recall@4"} if broken else set())
        assert all(20 < figures[metric] < 100 for metric in figures if metric != "pi_ratio")
        assert 0.3 < figures["pi_ratio"] < 2
        assert broken or figures["recall@1"] < figures["recall@4"]
    # Appendix C.
    assert (recipe.batch_size, recipe.learning_rate, recipe.weight_decay) == (112, 1e-5, 4e-4)
    arch = next((arch for arch in ("resnet18", "resnet152") if arch in name), "resnet50")
    dimensions = 512 if "table 10" in source else 128
    assert (recipe.arch, recipe.embedding_dim, recipe.image_size, recipe.weights) == (arch, dimensions, 224, "imagenet")
    assert recipe.s2sd == ("s2sd" in name)
    assert recipe.head_dims == (512, 1024, 1536, 2048) or not recipe.s2sd
    assert recipe.epochs == (100 if recipe.dataset == "sop" else 150)
    assert recipe.attack_steps == 1 and recipe.epsilon == 0.01 and recipe.eval_steps == 20
    # Frozen norms in the baselines only.
    assert recipe.freeze_norm == (recipe.method in ("standard", "adversarial"))


def test_a_published_row_is_as_printed() -> None:
    published = read_recipe_file("mdprop/table3-sop-mdprop-1-5").published
    assert published is not None
    assert published.clean == {"recall@1": 78.70, "recall@4": 87.19, "nmi": 90.27, "pi_ratio": 0.452}
    assert published.adversarial == {"recall@1": 71.89, "recall@4": 83.00, "nmi": 88.62, "pi_ratio": 0.438}
    assert "table 3" in published.source


@pytest.mark.parametrize("name", packaged_recipes())
def test_a_name_begins_with_the_table_that_the_row_is_of(name: str) -> None:
    file = read_recipe_file(name)
    place = re.match(r"(?:appendix-)?(table\d+|figures\d+-\d+|figure\d+)-", name.partition("/")[2])
    # Of figures, and of tables that cannot be read, the title says the place.
    said = re.search(
        r"(table|figures?) (\d+)(?: (?:and|to) (\d+))?", file.published.source if file.published else file.title
    )
    assert (place is None) == (said is None)
    if place is not None and said is not None:
        assert place[1] == f"{said[1]}{said[2]}" + (f"-{said[3]}" if said[3] else "")


def test_every_paper_has_its_recipes() -> None:
    assert {name.split("/")[0] for name in packaged_recipes()} == {"mdprop", "eat", "ecaml", "daml", "prototypes"}
    # MDProp: five methods by two losses on two data sets, two rows of table 9 on each, four on SOP; five with three
    # networks in table 2; eleven of table 10. EAT: tables 1, 2, 4 with six methods each (table 1 for two data sets),
    # two more rows of table 3, and the figures.
    assert len(_names("mdprop")) == 5 * 4 + 2 * 2 + 4 + 5 * 3 + 11 and len(_names("eat")) == 4 * 6 + 2 + 6 + 1
    # Six methods on four data sets, angular on three, dropout at three ratios; ten rows of each of three tables.
    assert len(_names("ecaml")) == 4 * 6 + 3 + 3 and len(_names("daml")) == 3 * 10


@pytest.mark.parametrize("name", _names("eat"))
def test_a_recipe_of_eat_loads_and_carries_the_papers_setup(name: str) -> None:
    file = read_recipe_file(name)
    recipe = resolve(recipe_file=file)
    assert file.title
    # Section "Implementation details".
    assert (recipe.optimizer, recipe.learning_rate, recipe.epochs) == ("adamw", 1e-4, 200)
    assert (recipe.epsilon, recipe.attack_steps, recipe.loss) == (16 / 255, 10, "proxyanchor")
    assert recipe.schedule != "none" and recipe.weights == "imagenet" and recipe.random_start > 0
    assert (recipe.eval_attacks, recipe.attack_epsilons[0], recipe.eval_steps) == (("away",), 8 / 255, 10)
    assert recipe.arch == ("bn_inception" if "bninception" in name else "mobilenet_v2")
    assert recipe.dataset in ("cub200-2010", "cars196", "inshop") and f"-{recipe.dataset}-" in name
    assert (recipe.protocol == "query-only") == (recipe.dataset == "inshop")
    assert recipe.method in name.split("-") and recipe.split != ("nosplit" in name)
    if "figure" in name or "bninception" in name:
        assert file.published is None
        return
    assert file.published is not None and "PGD-10, epsilon 8/255" in file.published.threat
    clean, adversarial = file.published.clean, file.published.adversarial
    assert set(clean) == set(adversarial) and {"nmi", "f1"} < set(clean)
    for figures in (clean, adversarial):
        recalls = [figures[f"recall@{k}"] for k in recipe.recall_at if f"recall@{k}" in figures]
        assert recalls == sorted(recalls) and len(recalls) == len(figures) - 2
        assert 0 < figures["f1"] < figures["nmi"] < 100
    assert all(adversarial[metric] < clean[metric] for metric in clean)


@pytest.mark.parametrize(
    ("name", "clean", "adversarial"),
    [
        (
            "table1-cub200-2010-mobilenetv2-eat",
            {"nmi": 56.91, "f1": 19.28, "recall@1": 52.78, "recall@2": 62.34, "recall@4": 71.31, "recall@8": 80.48},
            {"nmi": 38.02, "f1": 4.84, "recall@1": 24.02, "recall@2": 30.43, "recall@4": 37.56, "recall@8": 47.49},
        ),
        (
            "table1-cars196-mobilenetv2-pal",
            {"nmi": 51.02, "f1": 16.16, "recall@1": 51.40, "recall@2": 63.52, "recall@4": 74.59, "recall@8": 84.73},
            {"nmi": 27.10, "f1": 0.97, "recall@1": 5.52, "recall@2": 8.89, "recall@4": 14.22, "recall@8": 23.09},
        ),
        (
            "table3-cub200-2010-mobilenetv2-ensemble",
            {"nmi": 58.95, "f1": 20.93, "recall@1": 53.47, "recall@8": 81.76},
            {"nmi": 34.76, "f1": 3.26, "recall@1": 17.91, "recall@8": 40.91},
        ),
        (
            "table4-inshop-mobilenetv2-trades",
            {"nmi": 87.35, "f1": 16.18, "recall@1": 63.37, "recall@10": 84.61, "recall@20": 88.37},
            {"nmi": 81.95, "f1": 2.45, "recall@1": 11.36, "recall@10": 24.38, "recall@20": 28.99},
        ),
    ],
)
def test_rows_of_eat_are_as_printed(name: str, clean: dict[str, float], adversarial: dict[str, float]) -> None:
    published = read_recipe_file(f"eat/{name}").published
    assert published is not None and published.clean == clean and published.adversarial == adversarial


@pytest.mark.parametrize("method", ["pal", "at", "mixup", "iat", "trades", "eat"])
def test_recipes_of_the_figures_judge_the_weights_of_their_row_otherwise(method: str) -> None:
    row = resolve(recipe_file=read_recipe_file(f"eat/table1-cub200-2010-mobilenetv2-{method}"))
    figures = resolve(
        recipe_file=read_recipe_file(f"eat/figures2-{4 if method == 'eat' else 3}-cub200-2010-mobilenetv2-{method}")
    )
    assert row.differences(figures) == [] and row.out_folder == figures.out_folder
    assert [round(epsilon * 255) for epsilon in figures.attack_epsilons] == [8, 12, 16, 20, 24, 28, 32]
    assert figures.eval_sweep_steps and figures.eval_steps not in figures.eval_sweep_steps
    assert figures.judge_members == (method == "eat")
