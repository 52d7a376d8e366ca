"""The images that `run evaluate` judges on: which data set, read how, and how many of them."""

from __future__ import annotations

from typing import Any

import torch

from robustdml_ext import data
from robustdml_ext.data import DataSplits, EvaluationBatches, LabeledImages
from robustdml_ext.recipes import Recipe
from robustdml_ext.tools.evaluate_options import ImageOptions, PlaceOptions
from robustdml_ext.training import RunRefusedError


def load_images(asked: ImageOptions, recipe: Recipe | None) -> DataSplits:
    """The data set asked for, or else the checkpoint's own with all that its recipe says of it.

    Args:
        asked: the options.
        recipe: of the checkpoint; None of another model.

    Raises:
        RunRefusedError: no data set is named, and there is no checkpoint to bring one.
        ValueError: an option that does not fit the data set.
        DataError: the data are missing or broken.
    """
    own = recipe if recipe is not None and asked.dataset in (None, recipe.dataset) else None
    if own is None and asked.dataset is None:
        raise RunRefusedError("name the images to judge on by --dataset; only a checkpoint brings its own")

    def option(name: str, default: Any = None) -> Any:
        value = getattr(asked, name)
        return value if value is not None else default if own is None else getattr(own, name)

    splits = data.load(
        option("dataset"),
        option("root"),
        # What the network was trained for holds on any data set.
        image_size=asked.image_size or (None if recipe is None else recipe.image_size),
        channels=asked.channels or (None if recipe is None else recipe.channels),
        # Its only augmentation that says how test images are resized.
        augment=recipe.augment if recipe is not None and recipe.augment == "resize-crop-flip" else "default",
        train_classes=option("train_classes"),
        on_broken=asked.on_broken,
        cache=asked.cache,
        protocol=option("protocol", "default"),
        download=asked.download,
        sound=_sound(option("dataset"), recipe),
    )
    if asked.split != "test" and own is not None and own.select_on == "validation":
        splits = data.hold_out(splits, own.validation_share, own.seed)
    return splits


def _sound(dataset: str, recipe: Recipe | None) -> data.SoundOptions | None:
    """How recordings are read: as the checkpoint's recipe has them; None for images."""
    from robustdml_ext.assemble import sound_of

    if recipe is None:
        return data.SoundOptions() if data.is_sound(dataset) else None
    return sound_of(recipe, dataset)


def split_of(splits: DataSplits, name: str) -> LabeledImages:
    """The images of a split by its name.

    Raises:
        RunRefusedError: a validation split that there is not.
    """
    if name == "validation":
        if splits.validation is None:
            raise RunRefusedError(
                f"{splits.name} has no validation split of its own, and no run that held one out (by select_on "
                "validation) was named"
            )
        return splits.validation
    return splits.test if name == "test" else splits.train


def limited(images: LabeledImages, limit: int | None) -> LabeledImages:
    """At most so many of the images, taken evenly.

    Raises:
        ValueError: fewer than two.
    """
    if limit is None or limit >= len(images):
        return images
    if limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}")
    return images.select(torch.linspace(0, len(images) - 1, limit).round().long().tolist())


def batches_of(asked: PlaceOptions, images: LabeledImages, device: torch.device) -> EvaluationBatches:
    """The images in batches as the options have them, for a device."""
    pinned = device.type == "cuda"
    return data.evaluation_batches(images, asked.batch_size, num_workers=asked.workers, pin_memory=pinned)
