"""Prototypical classifiers as recipes: the published codes' numbers, what is refused, and folders."""

from __future__ import annotations

import pytest

from robustdml_ext.models.architectures import own_architecture
from robustdml_ext.recipes import NEUTRAL_FIELDS, Recipe, RecipeError, make_recipe, resolve
from robustdml_ext.recipes.commandline import parse_run
from robustdml_ext.recipes.names import CLASS_EVAL_ATTACKS, EVAL_ATTACKS, is_untrained
from robustdml_ext.recipes.prototype_options import PROTOTYPE_READ_BY, PrototypeOptions


def parse(method: str, *words: str) -> Recipe:
    return parse_run(method, "summary", words, f"run {method}").recipe


def test_photographs_have_the_papers_network() -> None:
    recipe = resolve("prototypes", {"dataset": "cub200"})
    assert (recipe.arch, recipe.weights, recipe.embedding_dim, recipe.loss) == (
        "resnet50",
        "imagenet",
        512,
        "prototypical",
    )
    assert (recipe.learning_rate, recipe.weight_decay, recipe.batch_size) == (1e-4, 1e-4, 120)
    assert (recipe.samples_per_class, recipe.targets, recipe.adversarial, recipe.eval_attacks) == (5, (), "none", ())
    # The published network: concat → Linear 512 → LeakyReLU → Dropout 0.25 → Linear, and prototypes that keep 0.9.
    assert (recipe.similarity_hidden, recipe.similarity_dropout, recipe.prototype_momentum) == (512, 0.25, 0.9)
    assert (recipe.pair_weight, recipe.auxiliary_weight, recipe.label_smoothing) == (1, 1, 0)
    assert (recipe.few_shot_ways, recipe.few_shot_shots, recipe.few_shot_episodes) == ((5,), (1, 5), 600)
    assert not recipe.unit_embeddings and recipe.model_copy(update={"unit_length": "yes"}).unit_embeddings


def test_table_1_on_mnist() -> None:
    recipe = resolve("prototypes", {"dataset": "mnist"})
    assert (recipe.arch, recipe.weights, recipe.embedding_dim) == ("lenet", "none", 50)
    assert (recipe.epsilon, recipe.attack_steps, recipe.attack_step_size, recipe.random_start) == (0.3, 40, 0.01, 0.3)
    assert recipe.adversarial_batch == "joint" and recipe.adversarial == "none"
    assert (recipe.eval_attacks, recipe.attack_epsilons) == (("pgd", "fgsm"), (0.3,))
    assert (recipe.eval_steps, recipe.eval_sweep_steps) == (40, (100,))
    assert recipe.eval_step_size == pytest.approx(0.3 / 30) and recipe.eval_random_start == 0
    fashion = resolve("prototypes", {"dataset": "fashion-mnist"})
    assert (fashion.arch, fashion.epsilon, fashion.attack_epsilons) == ("lenet", 0.1, (0.1,))
    assert fashion.eval_step_size == pytest.approx(0.1 / 30)


def test_table_1_on_cifar10() -> None:
    recipe = resolve("prototypes", {"dataset": "cifar10"})
    assert (recipe.arch, recipe.weights, recipe.embedding_dim) == ("wide_resnet34_10", "none", 640)
    assert (recipe.optimizer, recipe.schedule, recipe.adversarial_batch) == ("sgd", "cosine", "alone")
    in_levels = [255 * value for value in (recipe.epsilon, recipe.attack_step_size or 0, *recipe.attack_epsilons)]
    assert in_levels == pytest.approx([20, 2, 8]) and recipe.attack_steps == 10
    assert (recipe.eval_steps, recipe.eval_sweep_steps) == (7, (20,))
    assert recipe.eval_step_size == pytest.approx(8 / 255 / 30)


def test_digits_are_left_to_the_small_network() -> None:
    recipe = resolve("prototypes")
    assert (recipe.dataset, recipe.arch, recipe.verification_trials) == ("digits", "small", 20_000)


def test_another_architecture_brings_no_weights_that_nobody_has() -> None:
    assert resolve("prototypes", {"dataset": "mnist", "arch": "small"}).weights == "none"
    assert resolve("prototypes", {"dataset": "cub200", "arch": "wide_resnet10_1"}).weights == "none"
    for arch in ("lenet", "wide_resnet34_10", "small"):
        with pytest.raises(RecipeError, match=f"weights of the arch {arch} must be none or a FILE"):
            resolve("standard", {"arch": arch, "weights": "imagenet"})
    assert resolve("standard", {"arch": "wide_resnet50_2", "dataset": "cub200"}).weights == "imagenet"


@pytest.mark.parametrize(
    "arch", ["small", "lenet", "wide_resnet28_10", "wide_resnet50_2", "wide_resnet101_2", "resnet50"]
)
def test_recipes_and_models_agree_on_what_has_no_published_weights(arch: str) -> None:
    own = own_architecture(arch)
    assert is_untrained(arch) == (own is not None and own.url is None)


@pytest.mark.parametrize(
    ("method", "fields", "words"),
    [
        ("prototypes", {"loss": "triplet"}, ["loss of prototypes", "prototypical", "triplet"]),
        ("standard", {"loss": "prototypical"}, ["loss of standard", "another than prototypical"]),
        ("prototypes", {"targets": [1]}, ["targets of prototypes", "none", "[1]"]),
        ("prototypes", {"energy_confusion": 0.1}, ["energy_confusion", "prototypes has none"]),
        ("prototypes", {"hard_negatives": True}, ["loss with hard negatives"]),
        ("prototypes", {"joint_loss": True}, ["joint_loss", "prototypes"]),
        ("prototypes", {"adversarial": "dense", "auxiliary_weight": 0}, ["adversarial dense", "auxiliary_weight", "0"]),
        ("prototypes", {"adversarial": "both", "auxiliary_weight": 0}, ["adversarial both", "auxiliary_weight"]),
        ("prototypes", {"adversarial": "all"}, ["adversarial", "'both'", "'all'"]),
        ("prototypes", {"adversarial_batch": "apart"}, ["adversarial_batch", "'alone' or 'joint'"]),
        ("prototypes", {"prototype_momentum": 1.5}, ["prototype_momentum", "less than or equal to 1"]),
        ("prototypes", {"similarity_hidden": 0}, ["similarity_hidden", "greater than or equal to 1"]),
        ("prototypes", {"similarity_dropout": 1}, ["similarity_dropout", "less than 1"]),
        ("prototypes", {"pair_weight": -1}, ["pair_weight", "greater than or equal to 0"]),
        ("prototypes", {"label_smoothing": 1}, ["label_smoothing", "less than 1"]),
        ("prototypes", {"few_shot_ways": [1]}, ["few_shot_ways must be at least 2", "[1]"]),
        ("prototypes", {"few_shot_shots": [5, 0]}, ["few_shot_shots at least 1", "[5, 0]"]),
        ("prototypes", {"few_shot_episodes": 1}, ["few_shot_episodes", "greater than or equal to 2"]),
        ("prototypes", {"verification_trials": -1}, ["verification_trials", "greater than or equal to 0"]),
        ("prototypes", {"samples_per_class": 1}, ["samples_per_class", "prototypical", "positive"]),
        ("prototypes", {"eval_attacks": ["stax"]}, ["eval_attacks of prototypes", "fgsm", "apgd-margin", "got stax"]),
        ("standard", {"eval_attacks": ["fgsm"]}, ["eval_attacks of standard", "stax", "got fgsm"]),
        ("prototypes", {"eval_attacks": ["pgd", "pgd"]}, ["eval_attacks", "once"]),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(method: str, fields: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        resolve(method, fields)
    for word in words:
        assert word in str(caught.value)


def test_what_makes_sense_is_not() -> None:
    recipe = resolve(
        "prototypes", {"adversarial": "similarity", "auxiliary_weight": 0, "eval_attacks": CLASS_EVAL_ATTACKS}
    )
    assert recipe.auxiliary_weight == 0
    # Without ways, or without trials, there is no such task.
    assert resolve("prototypes", {"few_shot_ways": [], "verification_trials": 0}).few_shot_ways == ()
    assert not set(CLASS_EVAL_ATTACKS) & set(EVAL_ATTACKS)


@pytest.mark.parametrize("method", ["mdprop", "eat", "ecaml", "triplet"])
def test_other_methods_refuse_the_flags(method: str) -> None:
    with pytest.raises(RecipeError, match=f"{method} does not read --pair-weight, which is for prototypes"):
        parse(method, "--pair-weight", "2")


def test_every_option_of_the_group_is_prototypes_own() -> None:
    assert set(PROTOTYPE_READ_BY) == set(PrototypeOptions.model_fields)
    assert parse("prototypes", "--pair-weight", "2", "--adversarial", "both").pair_weight == 2
    with pytest.raises(RecipeError, match="prototypes does not read --members"):
        parse("prototypes", "--members", "5")
    with pytest.raises(RecipeError, match="prototypes does not read --targets-from"):
        parse("prototypes", "--targets-from", "clean")
    assert parse("prototypes", "--epsilon", "0.25").epsilon == 0.25


def test_what_judges_may_change_and_what_trains_may_not() -> None:
    judging = {"few_shot_ways", "few_shot_shots", "few_shot_episodes", "verification_trials"}
    assert set(PrototypeOptions.model_fields) & NEUTRAL_FIELDS == judging
    first = resolve("prototypes", {"few_shot_ways": [10], "verification_trials": 5})
    assert first.differences(resolve("prototypes", {"adversarial": "both"})) == ["adversarial"]


def test_folders() -> None:
    made = [resolve("prototypes", {"adversarial": name}) for name in ("none", "similarity", "dense", "both")]
    assert [recipe.out_folder for recipe in made] == [
        f"runs/digits-prototypes{kind}-seed0" for kind in ("", "-similarity", "-dense", "-both")
    ]
    again = make_recipe(resolve("prototypes", {"dataset": "mnist", "seed": 3}).model_dump(mode="json"))
    assert again.out_folder == "runs/mnist-prototypes-seed3" and again.arch == "lenet"
