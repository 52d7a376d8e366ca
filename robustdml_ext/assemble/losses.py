"""The losses by name, and what joins them."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from robustdml_ext.losses import (
    AngularLoss,
    ArcFaceLoss,
    BinomialDevianceLoss,
    ContrastiveLoss,
    LiftedStructureLoss,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    NPairLoss,
    ProxyAnchorLoss,
    TripletLoss,
)
from robustdml_ext.methods import (
    EnergyConfused,
    HardNegatives,
)
from robustdml_ext.recipes import Recipe


def build_loss(recipe: Recipe, classes: int, feature_dim: int) -> nn.Module:
    """Build the metric loss, and around it what the recipe joins with it: hard negatives, energy confusion.

    Args:
        recipe: which, and with which numbers.
        classes: of the training images.
        feature_dim: of the network's features.
    """
    loss = LOSSES[recipe.loss](recipe, classes)
    if recipe.hard_negatives:
        loss = HardNegatives(
            loss,
            feature_dim,
            recipe.loss,
            margin=recipe.synthetic_margin,
            regularization=recipe.hard_negatives_regularization,
            adversary=recipe.hard_negatives_adversary,
            weight=recipe.hard_negatives_weight,
            negatives=recipe.hard_negatives_count,
            mining=recipe.hard_negatives_mining,
            pretrain_epochs=recipe.hard_negatives_pretrain,
            generator_epochs=recipe.hard_negatives_alone,
            hidden=recipe.hard_negatives_hidden,
            lr_scale=recipe.hard_negatives_lr_scale or recipe.head_lr_scale,
            gradients=recipe.hard_negatives_gradients,
        )
    if recipe.energy_confusion:
        loss = EnergyConfused(
            loss,
            recipe.energy_confusion,
            reduction=recipe.energy_confusion_reduction,
            pairs=recipe.energy_confusion_pairs,
        )
    return loss


LOSSES: dict[str, Callable[[Recipe, int], nn.Module]] = {
    "multisimilarity": lambda recipe, classes: MultiSimilarityLoss(
        recipe.multisimilarity_alpha,
        recipe.multisimilarity_beta,
        recipe.multisimilarity_base,
        recipe.multisimilarity_epsilon,
    ),
    "arcface": lambda recipe, classes: ArcFaceLoss(
        classes, recipe.embedding_dim, recipe.arcface_margin, recipe.arcface_scale, recipe.arcface_center_lr
    ),
    "contrastive": lambda recipe, classes: ContrastiveLoss(
        recipe.contrastive_positive_margin, recipe.contrastive_negative_margin, normalize=recipe.unit_embeddings
    ),
    "triplet": lambda recipe, classes: TripletLoss(
        recipe.triplet_margin, recipe.triplet_mining, normalize=recipe.unit_embeddings
    ),
    "lifted": lambda recipe, classes: LiftedStructureLoss(recipe.lifted_margin, normalize=recipe.unit_embeddings),
    "npair": lambda recipe, classes: NPairLoss(scale=recipe.npair_scale),
    "binomial": lambda recipe, classes: BinomialDevianceLoss(
        recipe.binomial_alpha, recipe.binomial_beta, recipe.binomial_eta
    ),
    "angular": lambda recipe, classes: AngularLoss(recipe.angular_alpha),
    "proxyanchor": lambda recipe, classes: ProxyAnchorLoss(
        classes,
        recipe.embedding_dim,
        recipe.proxyanchor_alpha,
        recipe.proxyanchor_margin,
        recipe.proxy_lr_scale or 100.0,
    ),
    "normalizedsoftmax": lambda recipe, classes: NormalizedSoftmaxLoss(
        classes, recipe.embedding_dim, recipe.softmax_temperature, recipe.proxy_lr_scale or 1.0
    ),
}
