"""`run enroll`: classes that a trained classifier has never seen, from a few examples, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from robustdml_ext import data
from robustdml_ext.data.sets.folder import load_examples
from robustdml_ext.evaluation import embed
from robustdml_ext.training import RunRefusedError
from robustdml_ext.training.checkpoint import load_checkpoint, write_classifier
from robustdml_ext.training.folder import CLASSIFIER

if TYPE_CHECKING:
    from robustdml_ext.tools.enroll_options import Enroll

_MOST_NAMES = 10


def enroll_command(asked: Enroll) -> int:
    """Add classes to a classifier's file, and say which.

    Returns:
        The exit code.

    Raises:
        RunRefusedError: there is no classifier, a class that it has already, or images that it cannot take.
    """
    from robustdml_ext.assemble import build_classifier
    from robustdml_ext.recipes import make_recipe
    from robustdml_ext.tools.evaluate import device_of

    path = Path(asked.model)
    path = path / CLASSIFIER if path.is_dir() else path
    if not path.is_file():
        raise RunRefusedError(f"{path} is not there; expected the folder of a finished run of prototypes, or its file")
    state = load_checkpoint(path)
    if "class_names" not in state:
        raise RunRefusedError(f"{path} is a checkpoint of training; expected a run's {CLASSIFIER}")
    out = path if asked.out is None else Path(asked.out)
    if not out.parent.is_dir():
        raise RunRefusedError(f"out: the folder {out.parent} is not there; make it, or name another file")
    try:
        device = device_of(asked.device)
        recipe = make_recipe(state["recipe"])
        if data.is_sound(recipe.dataset):
            raise ValueError("enroll reads images; to a model of sound classes are added by its add_classes, in Python")
        images = load_examples(asked.examples, state["image_size"], state["channels"], augment=recipe.augment)
        classifier = build_classifier(recipe, state["channels"], state["method"], state["class_names"]).to(device)
        embeddings, labels = embed(classifier.encoder, data.evaluation_batches(images, recipe.eval_batch_size), device)
        classifier.add_embedded_classes(embeddings.to(device), labels, images.class_names)
    except (ValueError, TypeError, OSError) as error:
        raise RunRefusedError(str(error)) from error
    state["method"] = {**state["method"], "loss.heads.prototypes": classifier.heads.prototypes.cpu()}
    state["class_names"] = classifier.class_names
    write_classifier(out, state)
    counts = torch.bincount(labels, minlength=len(images.class_names)).tolist()
    for name, count in list(zip(images.class_names, counts, strict=True))[:_MOST_NAMES]:
        print(f"  {name}: {count} example{'s' if count > 1 else ''}")
    if len(counts) > _MOST_NAMES:
        print(f"  and {len(counts) - _MOST_NAMES} more classes")
    print(f"{len(counts)} classes added, {len(classifier.class_names)} in all: {out}")
    return 0
