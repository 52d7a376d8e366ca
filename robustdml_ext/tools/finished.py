"""A finished run, put together again from its folder: its result, its images, and the weights that it judged."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from robustdml_ext import data, reporting
from robustdml_ext.data import DataSplits, LabeledImages
from robustdml_ext.evaluation import Subject
from robustdml_ext.methods import Method
from robustdml_ext.recipes import Recipe, RecipeError, make_recipe
from robustdml_ext.training import Precision, RunRefusedError
from robustdml_ext.training.checkpoint import load_checkpoint
from robustdml_ext.training.folder import BEST, LAST
from robustdml_ext.training.state import load_weights


@dataclass(frozen=True)
class FinishedRun:
    """A run with its images and its trained network, on a device.

    Attributes:
        result: content of ``result.json``.
        recipe: what it was trained by.
        step: of the weights.
        splits: its images.
        method: with the weights that the result judges.
        subject: the network with the test images, as the result judges them.
    """

    result: Mapping[str, Any]
    recipe: Recipe
    step: int
    splits: DataSplits
    method: Method
    subject: Subject


def read_run(folder: Path) -> tuple[dict[str, Any], Recipe, Path]:
    """Return a finished run's result, its recipe, and the file of the weights that the result judges.

    Raises:
        ReportError: there is no result, as the run has not ended, or it cannot be read.
        RunRefusedError: it is no training run's, is of another version, or its weights are gone.
    """
    result = reporting.read_result(folder)
    if "results" not in result or "weights" not in result:
        raise RunRefusedError(f"{folder} holds a judgment by `evaluate`; expected the folder of a run, which trains")
    try:
        recipe = make_recipe(result["recipe"])
    except RecipeError as error:
        raise RunRefusedError(f"{folder} was written by another version of this package: {error}") from None
    weights = folder / (BEST if result["weights"]["chosen"] == "best" else LAST)
    if not weights.is_file():
        raise RunRefusedError(f"{weights} is not there; it has the weights that {folder}'s result judges")
    return result, recipe, weights


def digest(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    sha = hashlib.sha256()
    with open(file, "rb") as content:
        while block := content.read(1 << 22):
            sha.update(block)
    return sha.hexdigest()


def weights_step(result: Mapping[str, Any], weights: Path) -> tuple[int, dict[str, Any]]:
    """Return the step of the judged weights, and their checkpoint.

    Raises:
        CheckpointError: it is broken.
        RunRefusedError: the run has gone on since it was judged.
    """
    state = load_checkpoint(weights)
    step, judged = int(state["step"]), int(result["timing"]["steps"])
    if step > judged or (weights.name == LAST and step != judged):
        raise RunRefusedError(
            f"{weights} is of step {step} and {weights.parent}'s result of step {judged}: the run has gone on since. "
            "Let it end (the same command with --resume), which judges it anew"
        )
    return step, state


def load_run(folder: Path, device: torch.device, root: str | None = None) -> FinishedRun:
    """Load a finished run.

    Args:
        folder: of the run.
        device: where its network goes.
        root: folder of the data set; None for the recipe's.

    Raises:
        ReportError, CheckpointError: as `read_run` and `weights_step`.
        DataError: the data set is missing or broken; it says where to get it.
        RunRefusedError: the run does not fit this version of the package or its images.
    """
    from robustdml_ext.assemble import assemble

    result, recipe, weights = read_run(folder)
    step, state = weights_step(result, weights)
    # Whatever the network started from, its weights come from the run.
    asked: dict[str, Any] = {"weights": "none", "download": False} | ({} if root is None else {"root": root})
    try:
        parts = assemble(recipe.model_copy(update=asked))
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise RunRefusedError(str(error)) from error
    load_weights(parts.method, state["method"], str(weights))
    precision = Precision("float32", device)
    precision.place(parts.method)
    parts.method.eval()
    splits = parts.splits
    gallery = None if splits.gallery is None else _batches(splits.gallery, recipe, device)
    subject = Subject(parts.method.embedder, _batches(splits.test, recipe, device), gallery, device=device)
    return FinishedRun(result, recipe, step, splits, parts.method, subject)


def _batches(images: LabeledImages, recipe: Recipe, device: torch.device) -> data.EvaluationBatches:
    pinned = device.type == "cuda"
    return data.evaluation_batches(images, recipe.eval_batch_size, num_workers=recipe.workers, pin_memory=pinned)
