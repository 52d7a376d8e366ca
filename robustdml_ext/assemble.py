"""From a recipe to data, model, loss and method; the only file that knows every name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from robustdml_ext import data
from robustdml_ext.attacks import PGD
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
    EAT,
    IAT,
    TRADES,
    Adversarial,
    AdvPropD,
    EnergyConfused,
    HardNegatives,
    MDProp,
    Method,
    MixUp,
    NaiveEnsemble,
    Prototypes,
    PrototypicalLoss,
    Standard,
    UntargetedAdversarial,
    split_into_parts,
)
from robustdml_ext.models import Embedder, EmbedderEnsemble, PrototypicalClassifier, PrototypicalHeads, build_embedder
from robustdml_ext.models.lenet import LEAST_PIXELS as LENET_PIXELS
from robustdml_ext.recipes import ATTACKING, CLEAN, Recipe


@dataclass(frozen=True)
class Assembled:
    """What a recipe describes: images to train and to test on, and the method with its network and loss."""

    splits: data.DataSplits
    method: Method


def assemble(recipe: Recipe) -> Assembled:
    """Read the data set and build the model, loss and method of a recipe, on the CPU.

    Weights are drawn from the recipe's seed by PyTorch's global generator, which is left seeded.

    Raises:
        DataError: the data set is missing or broken, or has too few classes.
        ValueError: a value that does not fit the data set or the architecture.
        FileNotFoundError: weights that are not there and cannot be downloaded.
    """
    sound = sound_of(recipe)
    splits = data.load(
        recipe.dataset,
        recipe.root,
        image_size=recipe.image_size,
        channels=recipe.channels,
        augment=recipe.augment,
        train_classes=recipe.train_classes,
        on_broken=recipe.on_broken,
        cache=recipe.cache,
        protocol=recipe.protocol,
        download=recipe.download,
        sound=sound,
    )
    if recipe.select_on == "validation":
        splits = data.hold_out(splits, recipe.validation_share, recipe.seed)
    data.check_classes(splits)
    if recipe.arch == "lenet" and splits.image_size < LENET_PIXELS:
        raise ValueError(f"image_size: lenet needs {LENET_PIXELS} pixels or more, got {splits.image_size}; try small")
    torch.manual_seed(recipe.seed)
    embedder = build_network(recipe, splits.channels)
    classes = len(splits.train.class_names)
    if isinstance(embedder, EmbedderEnsemble):
        losses = [build_loss(recipe, classes, member.feature_dim) for member in embedder.embedders]
        parts = split_into_parts(splits.train.labels, recipe.members, recipe.seed) if recipe.split else None
        method = ENSEMBLES[recipe.method](recipe, embedder, losses, parts)
    elif recipe.method == "prototypes":
        method = build_prototypes(recipe, embedder, classes)
    else:
        method = METHODS[recipe.method](recipe, embedder, build_loss(recipe, classes, embedder.feature_dim))
    method.head_lr_scale = recipe.head_lr_scale
    return Assembled(splits, method)


def sound_of(recipe: Recipe, dataset: str | None = None) -> data.SoundOptions | None:
    """How recordings are read for a recipe; None for a data set of images.

    Args:
        recipe: the options.
        dataset: another than the recipe's.

    Raises:
        ValueError: options of sound for images, or attacks on sound, which has no pixels.
    """
    options = data.SoundOptions(
        recipe.bins,
        recipe.frames,
        recipe.test_frames,
        recipe.sound_mean,
        None if recipe.musan is None else Path(recipe.musan),
        None if recipe.rirs is None else Path(recipe.rirs),
    )
    name = recipe.dataset if dataset is None else dataset
    if not data.is_sound(name):
        if dataset is None and options != data.SoundOptions():
            raise ValueError(
                f"bins, frames, test_frames, sound_mean, musan and rirs are for sound; {name} is of images"
            )
        return None
    attacks = recipe.method in ATTACKING and recipe.method != "prototypes"
    if attacks or recipe.adversarial != "none" or recipe.eval_attacks:
        raise ValueError(
            f"attacks are on pixels, which sound has none of: {name} needs a method that does not attack, adversarial "
            "none, and no eval_attacks"
        )
    return options


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
    return Prototypes(embedder, loss, recipe.adversarial, _attack(recipe), adversarial_batch=recipe.adversarial_batch)


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
    embedder = _embedder(recipe.model_copy(update={"weights": "none"}), channels)
    method = build_prototypes(recipe, embedder, len(state[dense]))
    method.load_state_dict(dict(state))
    return method.classifier(None if class_names is None else list(class_names)).eval()


def build_network(recipe: Recipe, channels: int) -> Embedder | EmbedderEnsemble:
    """Build the embedder, or the ensemble of them that the method trains."""
    if recipe.method in ENSEMBLES:
        return EmbedderEnsemble((_embedder(recipe, channels) for _ in range(recipe.members)), recipe.inference)
    return _embedder(recipe, channels)


def _embedder(recipe: Recipe, channels: int) -> Embedder:
    """One distribution for clean images, one for each auxiliary norm of the method."""
    auxiliary = len(recipe.targets) if recipe.method in ("advprop", "mdprop") else 0
    return build_embedder(
        recipe.arch,
        embedding_dim=recipe.embedding_dim,
        weights=recipe.weights,
        channels=channels,
        distributions=1 + auxiliary,
        norm_noise=recipe.norm_noise,
        freeze_norm=recipe.freeze_norm,
        # The exponents of npair are inner products, too narrow between unit vectors.
        unit_length=recipe.unit_embeddings,
        dropout=recipe.dropout,
        bins=recipe.bins,
    )


def _attack(recipe: Recipe) -> PGD:
    return PGD(recipe.epsilon, recipe.attack_steps, recipe.attack_step_size, random_start=recipe.random_start)


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

METHODS: dict[str, Callable[[Recipe, Embedder, nn.Module], Method]] = {
    # All of their ideas are in the loss.
    **dict.fromkeys(CLEAN, lambda recipe, embedder, loss: Standard(embedder, loss)),
    "adversarial": lambda recipe, embedder, loss: Adversarial(
        embedder, loss, recipe.targets, _attack(recipe), targets_from=recipe.targets_from
    ),
    "advprop": lambda recipe, embedder, loss: AdvPropD(
        embedder, loss, _attack(recipe), targets_from=recipe.targets_from, joint_loss=recipe.joint_loss
    ),
    "mdprop": lambda recipe, embedder, loss: MDProp(
        embedder,
        loss,
        recipe.targets,
        _attack(recipe),
        targets_from=recipe.targets_from,
        joint_loss=recipe.joint_loss,
    ),
    "pal": lambda recipe, embedder, loss: Standard(embedder, loss),
    "at": lambda recipe, embedder, loss: UntargetedAdversarial(
        embedder, loss, _attack(recipe), beta=recipe.beta, label_vectors=recipe.label_vectors,
        attack_objective=recipe.attack_objective,
    ),
    "mixup": lambda recipe, embedder, loss: MixUp(
        embedder, loss, alpha=recipe.mixup_alpha, beta=recipe.beta, label_vectors=recipe.label_vectors
    ),
    "iat": lambda recipe, embedder, loss: IAT(
        embedder, loss, _attack(recipe), alpha=recipe.mixup_alpha, beta=recipe.beta,
        label_vectors=recipe.label_vectors, attack_objective=recipe.attack_objective,
    ),
    "trades": lambda recipe, embedder, loss: TRADES(
        embedder, loss, _attack(recipe), trade_off=recipe.trades_lambda, attack_objective=recipe.attack_objective
    ),
}  # fmt: skip

ENSEMBLES: dict[str, Callable[[Recipe, EmbedderEnsemble, list[nn.Module], Tensor | None], Method]] = {
    "ensemble": lambda recipe, ensemble, losses, parts: NaiveEnsemble(
        ensemble, losses, _attack(recipe), beta=1.0 if recipe.member_method == "pal" else recipe.beta,
        label_vectors=recipe.label_vectors, attack_objective=recipe.attack_objective,
    ),
    "eat": lambda recipe, ensemble, losses, parts: EAT(
        ensemble, losses, parts, _attack(recipe), beta=recipe.beta, self_transfer=recipe.self_transfer,
        label_vectors=recipe.label_vectors, attack_objective=recipe.attack_objective,
    ),
}  # fmt: skip
