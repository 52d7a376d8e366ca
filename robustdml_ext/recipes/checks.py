"""Whether the options of a recipe fit together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustdml_ext.recipes.names import (
    BASELINES,
    CLASS_EVAL_ATTACKS,
    CLEAN,
    DEFENSES,
    EVAL_ATTACKS,
    PAIR_LOSSES,
    is_untrained,
)
from robustdml_ext.recipes.regularizer_options import SYNTHETIC_LOSSES

if TYPE_CHECKING:
    from robustdml_ext.recipes.schema import Recipe


def check_recipe(recipe: Recipe) -> None:
    """Raises ValueError, naming the options, where they do not fit together."""
    expected: dict[str, tuple[bool, str]] = {
        **dict.fromkeys(CLEAN, (len(recipe.targets) == 0, "none, as it trains on clean images alone")),
        "adversarial": (len(recipe.targets) == 1, "one number"),
        "advprop": (recipe.targets == (1,), "1; for other numbers use mdprop"),
        "mdprop": (len(recipe.targets) >= 1, "at least one number"),
    }
    expected |= dict.fromkeys((*DEFENSES, "prototypes"), (len(recipe.targets) == 0, "none, as it aims at no targets"))
    fits, wanted = expected[recipe.method]
    if not fits:
        raise ValueError(f"targets of {recipe.method} must be {wanted}; got {list(recipe.targets)}")
    positive: dict[str, tuple[float, ...]] = {
        "targets": recipe.targets,
        "recall_at": recipe.recall_at,
        "attack_epsilons": recipe.attack_epsilons,
        "eval_sweep_steps": recipe.eval_sweep_steps,
    }
    for name, values in positive.items():
        if any(value <= 0 for value in values):
            raise ValueError(f"{name} must hold numbers above 0; got {list(values)}")
    if 1 not in recipe.recall_at:
        raise ValueError(f"recall_at must hold 1, which tables and model selection use; got {list(recipe.recall_at)}")
    if recipe.batch_size % recipe.samples_per_class:
        raise ValueError(
            "batch_size must be a multiple of samples_per_class; "
            f"got {recipe.batch_size} and {recipe.samples_per_class}"
        )
    if recipe.batch_size // recipe.samples_per_class < 2:
        raise ValueError(
            "batch_size must hold at least 2 classes, so be at least twice samples_per_class; "
            f"got {recipe.batch_size} and {recipe.samples_per_class}"
        )
    if recipe.loss in PAIR_LOSSES and recipe.samples_per_class < 2:
        raise ValueError(
            f"samples_per_class must be at least 2 with the loss {recipe.loss}, "
            f"which needs positive pairs; got {recipe.samples_per_class}"
        )
    if is_untrained(recipe.arch) and recipe.weights == "imagenet":
        raise ValueError(
            f"weights of the arch {recipe.arch} must be none or a FILE, as ImageNet has none; got 'imagenet'"
        )
    if recipe.joint_loss and recipe.method not in ("advprop", "mdprop"):
        raise ValueError(f"joint_loss is for advprop and mdprop; got it with {recipe.method}")
    _check_defense(recipe)
    _check_regularizers(recipe)
    _check_prototypes(recipe)
    _check_attacks(recipe)
    if recipe.selects and not recipe.evaluate_every:
        raise ValueError(
            f"select_on {recipe.select_on} needs evaluate_every above 0, or there is nothing to choose from; got 0. "
            "With select_on last the last weights are judged"
        )


def _check_attacks(recipe: Recipe) -> None:
    known = CLASS_EVAL_ATTACKS if recipe.method == "prototypes" else EVAL_ATTACKS
    if unknown := [name for name in recipe.eval_attacks if name not in known]:
        raise ValueError(f"eval_attacks of {recipe.method} must be of {', '.join(known)}; got {', '.join(unknown)}")
    for name, values in (("eval_attacks", recipe.eval_attacks), ("eval_sweep_steps", recipe.eval_sweep_steps)):
        if len(set(values)) < len(values):
            raise ValueError(f"{name} must hold each value once; got {list(values)}")
    # Attacks on prototypes start anywhere in the ball unless told otherwise.
    if recipe.eval_restarts > 1 and recipe.eval_random_start == 0 and recipe.method != "prototypes":
        raise ValueError(
            "eval_restarts above 1 needs eval_random_start above 0, or every restart is the same; "
            f"got {recipe.eval_restarts} and 0"
        )


def _check_prototypes(recipe: Recipe) -> None:
    if (recipe.method == "prototypes") != (recipe.loss == "prototypical"):
        wanted = "prototypical" if recipe.method == "prototypes" else "another than prototypical"
        raise ValueError(f"loss of {recipe.method} must be {wanted}; got {recipe.loss}")
    if recipe.method == "prototypes" and (recipe.energy_confusion or recipe.hard_negatives or recipe.s2sd):
        raise ValueError("energy_confusion, hard_negatives and s2sd join metric losses, which prototypes has none of")
    if recipe.adversarial in ("dense", "both") and not recipe.auxiliary_weight:
        raise ValueError(
            f"adversarial {recipe.adversarial} attacks the dense output layer, so auxiliary_weight must be above 0; "
            "got 0"
        )
    if any(ways < 2 for ways in recipe.few_shot_ways) or any(shots < 1 for shots in recipe.few_shot_shots):
        raise ValueError(
            "few_shot_ways must be at least 2 and few_shot_shots at least 1; "
            f"got {list(recipe.few_shot_ways)} and {list(recipe.few_shot_shots)}"
        )


def _check_defense(recipe: Recipe) -> None:
    if recipe.method == "ensemble" and recipe.members < 2:
        raise ValueError(f"members of ensemble must be at least 2; got {recipe.members}")
    if recipe.method == "eat" and recipe.split and recipe.members < 2:
        raise ValueError(
            f"split needs at least 2 members, or the only one has nothing to train on; got {recipe.members}"
        )


def _check_regularizers(recipe: Recipe) -> None:
    if recipe.method in BASELINES and recipe.loss != recipe.method:
        raise ValueError(f"loss of {recipe.method} must be {recipe.method}; got {recipe.loss}")
    if recipe.method == "daml" and not recipe.hard_negatives:
        raise ValueError("hard_negatives of daml must be on, or it is its loss's baseline; got off")
    if recipe.hard_negatives and recipe.loss not in SYNTHETIC_LOSSES:
        raise ValueError(f"loss with hard negatives must be one of {', '.join(SYNTHETIC_LOSSES)}; got {recipe.loss}")
    if recipe.hard_negatives and recipe.loss == "npair" and recipe.npair_scale is not None:
        raise ValueError(f"npair_scale with hard negatives must be None; got {recipe.npair_scale}")
    if recipe.hard_negatives and recipe.iterations is None and 0 < recipe.epochs <= recipe.phases_before:
        raise ValueError(
            "epochs must be more than hard_negatives_pretrain and hard_negatives_alone, or the metric never meets "
            f"a synthetic negative; got {recipe.epochs}, {recipe.hard_negatives_pretrain} and "
            f"{recipe.hard_negatives_alone}"
        )
    if recipe.hard_negatives and recipe.label_vectors != "classes":
        raise ValueError(f"label_vectors with hard negatives must be classes; got {recipe.label_vectors}")
    if recipe.s2sd and recipe.hard_negatives:
        raise ValueError("s2sd and hard_negatives each take the place of the metric loss; got both")
    if recipe.s2sd and recipe.label_vectors != "classes":
        raise ValueError(f"label_vectors with s2sd must be classes; got {recipe.label_vectors}")
    if any(dim < 1 for dim in recipe.s2sd_dims):
        raise ValueError(f"s2sd_dims must hold numbers above 0; got {list(recipe.s2sd_dims)}")
