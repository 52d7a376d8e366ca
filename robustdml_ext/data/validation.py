"""A validation split of what may be trained on, so that model selection never looks at the test classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from robustdml_ext.data.errors import DataError
from robustdml_ext.data.splits import DataSplits, LabeledImages

LEAST = 2  # classes: with one, every neighbor is right


def hold_out(splits: DataSplits, share: float, seed: int) -> DataSplits:
    """Takes a validation split out of `splits.train`; a function of the split, `share` and `seed` alone.

    Under a zero-shot protocol whole classes are held out, as the test classes are: the validation classes are *seen*
    classes that training does without. `share` of the classes, at least 2, drawn by `seed`; the rest is numbered
    0, 1, ... anew. Where train and test have the same classes, `share` of each class's images is held out instead, at
    least one of every class that has two, and none of a class that has one. An official validation split is taken as
    it is, and nothing is held out.

    Raises: ValueError for a share outside (0, 1); DataError where fewer than two classes would be left on a side.
    """
    if not 0 < share < 1:
        raise ValueError(f"share must be between 0 and 1, got {share}")
    if splits.validation is not None:
        return splits
    random = np.random.default_rng([seed, 0x5EED])
    hold = _classes if splits.zero_shot else _images
    train, validation = hold(splits.train, share, random, splits.name)
    # Held-out images are judged as test images are: without augmentation, which also reads and crops as testing does.
    return replace(splits, train=train, validation=validation.without_augmentation())


def _classes(
    images: LabeledImages, share: float, random: np.random.Generator, name: str
) -> tuple[LabeledImages, LabeledImages]:
    classes = len(images.class_names)
    held = max(LEAST, round(share * classes))
    if classes - held < LEAST:
        raise DataError(
            f"the data set {name!r} has {classes} classes to train on, too few to hold out {held} of them for "
            "validation and train on at least 2; choose the weights otherwise, by select_on 'last'"
        )
    chosen = random.choice(classes, held, replace=False)
    rest = np.setdiff1d(np.arange(classes), chosen)
    return images.select_classes(rest.tolist()), images.select_classes(np.sort(chosen).tolist())


def _images(
    images: LabeledImages, share: float, random: np.random.Generator, name: str
) -> tuple[LabeledImages, LabeledImages]:
    labels = images.labels.numpy()
    order = random.permutation(len(labels))
    held = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        members = order[labels[order] == label]
        count = 0 if len(members) < 2 else min(max(1, round(share * len(members))), len(members) - 1)
        held[members[:count]] = True
    if len(np.unique(labels[held])) < LEAST:
        raise DataError(f"the data set {name!r} has fewer than 2 classes with 2 images to hold some out for validation")
    kept, out = (torch.from_numpy(np.flatnonzero(rows)).tolist() for rows in (~held, held))
    return images.select(kept), images.select(out)
