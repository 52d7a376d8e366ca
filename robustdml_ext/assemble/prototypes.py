"""Prototypical classifiers: the method as a recipe describes it, and a saved classifier."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from robustdml_ext.assemble.methods import training_attack
from robustdml_ext.assemble.networks import build_member
from robustdml_ext.methods import (
    Prototypes,
    PrototypicalLoss,
)
from robustdml_ext.models import Embedder, PrototypicalClassifier, PrototypicalHeads
from robustdml_ext.recipes import Recipe


def build_prototypes(recipe: Recipe, embedder: Embedder, classes: int) -> Prototypes:
    """Build the method with the similarity network, prototypes and dense output layer for so many classes."""
    heads = PrototypicalHeads(
        classes,
        embedder.embedding_dim,
        recipe.similarity_hidden,
        dropout=recipe.similarity_dropout,
        momentum=recipe.prototype_momentum,
    )
    loss = PrototypicalLoss(
        heads,
        pair_weight=recipe.pair_weight,
        auxiliary_weight=recipe.auxiliary_weight,
        label_smoothing=recipe.label_smoothing,
    )
    return Prototypes(
        embedder, loss, recipe.adversarial, training_attack(recipe), adversarial_batch=recipe.adversarial_batch
    )


def build_classifier(
    recipe: Recipe, channels: int, state: Mapping[str, Tensor], class_names: Sequence[str] | None = None
) -> PrototypicalClassifier:
    """Build the classifier that `prototypes` trained, in eval mode on the CPU, from its method's weights.

    Args:
        recipe: what it was trained by.
        channels: of the images.
        state: the method's state dict, as checkpoints have it.
        class_names: one a prototype, those added after training included; None: their numbers.

    Raises:
        ValueError: the recipe is of another method.
        RuntimeError: weights that do not fit.
    """
    if recipe.method != "prototypes":
        raise ValueError(f"recipe: expected one of prototypes, got one of {recipe.method}")
    dense = "loss.heads.dense.weight"
    if dense not in state:
        raise ValueError(f"state: expected the method's weights with {dense}, which there is not")
    embedder = build_member(recipe.model_copy(update={"weights": "none"}), channels)
    method = build_prototypes(recipe, embedder, len(state[dense]))
    method.load_state_dict(dict(state))
    return method.classifier(None if class_names is None else list(class_names)).eval()
