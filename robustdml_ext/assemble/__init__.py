"""From a recipe to data, model, loss and method; the only place that knows every name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from robustdml_ext import data
from robustdml_ext.assemble.losses import LOSSES, build_loss
from robustdml_ext.assemble.methods import ENSEMBLES, METHODS
from robustdml_ext.assemble.networks import build_network
from robustdml_ext.assemble.prototypes import build_classifier, build_prototypes
from robustdml_ext.methods import Method, split_into_parts
from robustdml_ext.models import EmbedderEnsemble
from robustdml_ext.models.lenet import LEAST_PIXELS as LENET_PIXELS
from robustdml_ext.recipes import ATTACKING, Recipe

__all__ = [
    "ENSEMBLES",
    "LOSSES",
    "METHODS",
    "Assembled",
    "assemble",
    "build_classifier",
    "build_loss",
    "build_network",
    "build_prototypes",
    "sound_of",
]


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
