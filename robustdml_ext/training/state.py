"""What a checkpoint holds, and how a run goes on from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from robustdml_ext.recipes import Recipe, RecipeError, make_recipe
from robustdml_ext.training.batches import epochs_of
from robustdml_ext.training.errors import CheckpointError, RunRefusedError
from robustdml_ext.training.precision import Precision


def random_state(generator: torch.Generator, device: torch.device) -> dict[str, Any]:
    """Return the states of all that draws: PyTorch on the CPU and the GPU, and the method's generator."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "method": generator.get_state(),
        "device": device.type,
    }


def restore_random_state(state: Mapping[str, Any], generator: torch.Generator, device: torch.device) -> None:
    """Set the states back. A run that moves between CPU and GPU keeps what the new device can take."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    if state["device"] == device.type:
        generator.set_state(state["method"])


def describe_recipe(recipe: Recipe, precision: Precision) -> dict[str, Any]:
    """Return the recipe as a checkpoint stores it, with the precision that ``auto`` came to."""
    return {**recipe.model_dump(mode="json"), "precision": precision.name}


def check_same_recipe(stored: Mapping[str, Any], recipe: Recipe, precision: Precision, steps_per_epoch: int) -> None:
    """Refuse to go on with a run under other conditions than it began with.

    Args:
        stored: the recipe of the checkpoint.
        recipe: the one asked for.
        precision: what its ``precision`` came to.
        steps_per_epoch: by which a cosine schedule over a number of iterations knows its last epoch.

    Raises:
        RunRefusedError: names every option that differs, the checkpoint's value and the one asked for.
    """
    try:
        before = make_recipe(stored)
    except RecipeError as error:
        raise CheckpointError(f"the checkpoint's recipe does not fit this version of the package: {error}") from None
    now = make_recipe(describe_recipe(recipe, precision))
    names = before.differences(now)
    # The schedule's end, which every step so far was taken by.
    stretched = now.schedule == "cosine" and len({_epochs(each, steps_per_epoch) for each in (before, now)}) > 1
    if stretched:
        names += [name for name in ("epochs", "iterations") if getattr(before, name) != getattr(now, name)]
    if names:
        differences = "\n".join(
            f"  {name}: the run has {getattr(before, name)!r}, asked for {getattr(now, name)!r}" for name in names
        )
        raise RunRefusedError(
            f"--resume goes on with the same recipe, but these differ:\n{differences}\n"
            + ("A cosine schedule ends with the epochs, so they cannot change.\n" if stretched else "")
            + "Give the run's own values, or start another run with another --out."
        )


def _epochs(recipe: Recipe, steps_per_epoch: int) -> int:
    return recipe.epochs if recipe.iterations is None else epochs_of(recipe.iterations, steps_per_epoch)


def load_weights(module: nn.Module, state: Mapping[str, Any], where: str) -> None:
    """Load a state dict, whole.

    Raises:
        CheckpointError: a name or a shape does not fit.
    """
    try:
        module.load_state_dict(dict(state))
    except RuntimeError as error:
        raise CheckpointError(f"the weights in {where} do not fit this network: {error}") from None
