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
from robustdml_ext.methods import EnergyConfused, HardNegatives, SelfDistillation
from robustdml_ext.recipes import Recipe


def build_loss(recipe: Recipe, classes: int, feature_dim: int) -> nn.Module:
    """Build the metric loss, and around it what the recipe joins with it: S2SD, hard negatives, energy confusion.

    Args:
        recipe: which, and with which numbers.
        classes: of the training images.
        feature_dim: of the network's features.
    """
    loss = LOSSES[recipe.loss](recipe, classes, recipe.embedding_dim)
    if recipe.s2sd:
        loss = SelfDistillation(
            loss,
            feature_dim,
            recipe.head_dims,
            head_loss=lambda dim: LOSSES[recipe.loss](recipe, classes, dim),
            weight=recipe.s2sd_weight,
            feature_weight=recipe.s2sd_feature_weight,
            temperature=recipe.s2sd_temperature,
            feature_delay=recipe.s2sd_feature_delay,
        )
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


# By the recipe, the number of classes, and the dimensions of what they judge.
LOSSES: dict[str, Callable[[Recipe, int, int], nn.Module]] = {
    "multisimilarity": lambda recipe, classes, dim: MultiSimilarityLoss(
        recipe.multisimilarity_alpha,
        recipe.multisimilarity_beta,
        recipe.multisimilarity_base,
        recipe.multisimilarity_epsilon,
    ),
    "arcface": lambda recipe, classes, dim: ArcFaceLoss(
        classes, dim, recipe.arcface_margin, recipe.arcface_scale, recipe.arcface_center_lr
    ),
    "contrastive": lambda recipe, classes, dim: ContrastiveLoss(
        recipe.contrastive_positive_margin, recipe.contrastive_negative_margin, normalize=recipe.unit_embeddings
    ),
    "triplet": lambda recipe, classes, dim: TripletLoss(
        recipe.triplet_margin, recipe.triplet_mining, normalize=recipe.unit_embeddings
    ),
    "lifted": lambda recipe, classes, dim: LiftedStructureLoss(recipe.lifted_margin, normalize=recipe.unit_embeddings),
    "npair": lambda recipe, classes, dim: NPairLoss(scale=recipe.npair_scale),
    "binomial": lambda recipe, classes, dim: BinomialDevianceLoss(
        recipe.binomial_alpha, recipe.binomial_beta, recipe.binomial_eta
    ),
    "angular": lambda recipe, classes, dim: AngularLoss(recipe.angular_alpha),
    "proxyanchor": lambda recipe, classes, dim: ProxyAnchorLoss(
        classes,
        dim,
        recipe.proxyanchor_alpha,
        recipe.proxyanchor_margin,
        recipe.proxy_lr_scale or 100.0,
    ),
    "normalizedsoftmax": lambda recipe, classes, dim: NormalizedSoftmaxLoss(
        classes, dim, recipe.softmax_temperature, recipe.proxy_lr_scale or 1.0
    ),
}
