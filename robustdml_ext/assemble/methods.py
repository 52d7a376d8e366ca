"""The methods by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.methods import (
    EAT,
    IAT,
    TRADES,
    Adversarial,
    AdvPropD,
    MDProp,
    Method,
    MixUp,
    NaiveEnsemble,
    Standard,
    UntargetedAdversarial,
)
from robustdml_ext.models import Embedder, EmbedderEnsemble
from robustdml_ext.recipes import CLEAN, Recipe


def training_attack(recipe: Recipe) -> PGD:
    """The attack that images are trained on."""
    return PGD(recipe.epsilon, recipe.attack_steps, recipe.attack_step_size, random_start=recipe.random_start)


METHODS: dict[str, Callable[[Recipe, Embedder, nn.Module], Method]] = {
    # All of their ideas are in the loss.
    **dict.fromkeys(CLEAN, lambda recipe, embedder, loss: Standard(embedder, loss)),
    "adversarial": lambda recipe, embedder, loss: Adversarial(
        embedder, loss, recipe.targets, training_attack(recipe), targets_from=recipe.targets_from
    ),
    "advprop": lambda recipe, embedder, loss: AdvPropD(
        embedder, loss, training_attack(recipe), targets_from=recipe.targets_from, joint_loss=recipe.joint_loss
    ),
    "mdprop": lambda recipe, embedder, loss: MDProp(
        embedder,
        loss,
        recipe.targets,
        training_attack(recipe),
        targets_from=recipe.targets_from,
        joint_loss=recipe.joint_loss,
    ),
    "pal": lambda recipe, embedder, loss: Standard(embedder, loss),
    "at": lambda recipe, embedder, loss: UntargetedAdversarial(
        embedder, loss, training_attack(recipe), beta=recipe.beta, label_vectors=recipe.label_vectors,
        attack_objective=recipe.attack_objective,
    ),
    "mixup": lambda recipe, embedder, loss: MixUp(
        embedder, loss, alpha=recipe.mixup_alpha, beta=recipe.beta, label_vectors=recipe.label_vectors
    ),
    "iat": lambda recipe, embedder, loss: IAT(
        embedder, loss, training_attack(recipe), alpha=recipe.mixup_alpha, beta=recipe.beta,
        label_vectors=recipe.label_vectors, attack_objective=recipe.attack_objective,
    ),
    "trades": lambda recipe, embedder, loss: TRADES(
        embedder, loss, training_attack(recipe), trade_off=recipe.trades_lambda,
        attack_objective=recipe.attack_objective,
    ),
}  # fmt: skip

ENSEMBLES: dict[str, Callable[[Recipe, EmbedderEnsemble, list[nn.Module], Tensor | None], Method]] = {
    "ensemble": lambda recipe, ensemble, losses, parts: NaiveEnsemble(
        ensemble, losses, training_attack(recipe), beta=1.0 if recipe.member_method == "pal" else recipe.beta,
        label_vectors=recipe.label_vectors, attack_objective=recipe.attack_objective,
    ),
    "eat": lambda recipe, ensemble, losses, parts: EAT(
        ensemble, losses, parts, training_attack(recipe), beta=recipe.beta, self_transfer=recipe.self_transfer,
        label_vectors=recipe.label_vectors, attack_objective=recipe.attack_objective,
    ),
}  # fmt: skip
