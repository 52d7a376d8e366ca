"""A model to be judged, found by what its owner has: a checkpoint, an architecture's name, or Python code."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from robustdml_ext.models.prototypical import PrototypicalClassifier
from robustdml_ext.recipes import Recipe, RecipeError, make_recipe, read_recipe_file
from robustdml_ext.training import CheckpointError, RunRefusedError
from robustdml_ext.training.checkpoint import load_checkpoint
from robustdml_ext.training.folder import BACKBONE, BEST, CLASSIFIER, LAST, RECIPE

KINDS = (
    "a run's folder or checkpoint, a torchvision architecture or `small` (with weights), or package.module:factory, "
    "which is called without arguments and returns an nn.Module"
)


@dataclass(frozen=True)
class FoundModel:
    """A model by name, before it is built, as it may need to know its images' channels.

    Attributes:
        build: channels → the model, on the CPU, in eval mode; pixels of [0, 1] → embeddings `[B, D]`.
        facts: what a result says of it.
        recipe: of a checkpoint, what it was trained by.
        classifier: of a checkpoint of `prototypes`, channels → the whole classifier, on the CPU, in eval mode.
        names_classes: whether the classifier knows what its classes are called, and not just their order.
    """

    build: Callable[[int], nn.Module]
    facts: dict[str, Any]
    recipe: Recipe | None = None
    classifier: Callable[[int], PrototypicalClassifier] | None = None
    names_classes: bool = True


def find_model(
    name: str, weights: str | None = None, embedding: str = "auto", inference: str | None = None
) -> FoundModel:
    """Find out which kind of model `name` is: a path that exists, a `module:factory`, or an architecture.

    Args:
        name: see `KINDS`.
        weights: of an architecture, see `models.plain_embedder`; `imagenet` where None.
        embedding: likewise.
        inference: of an ensemble's checkpoint, in place of its own.

    Raises:
        RunRefusedError: it is none of these, or does not go with the other options.
        CheckpointError: a checkpoint that is broken or has another version's recipe.
    """
    path = Path(name)
    if path.exists():
        if weights is not None:
            raise RunRefusedError(f"weights are for architectures; {name} is a checkpoint and brings its own")
        return _from_checkpoint(path, inference)
    if ":" in name:
        if weights is not None:
            raise RunRefusedError(f"weights are for architectures; {name} must load its own")
        return FoundModel(lambda channels: _call_factory(name), {"kind": "factory", "name": name})
    if os.sep in name or name.endswith(".pt"):
        raise RunRefusedError(f"there is no checkpoint or run at {name}")
    return _from_architecture(name, weights or ("none" if name == "small" else "imagenet"), embedding)


def together(found: Sequence[FoundModel], inference: str) -> FoundModel:
    """Several models as one `models.Ensemble`; images and attacks are what the first one's recipe says."""
    from robustdml_ext.models import Ensemble

    def build(channels: int) -> nn.Module:
        return Ensemble([one.build(channels) for one in found], inference).eval()

    facts = [one.facts for one in found]
    name = " + ".join(str(one["name"]) for one in facts)
    return FoundModel(
        build, {"kind": "ensemble", "name": name, "inference": inference, "members": facts}, found[0].recipe
    )


def _from_checkpoint(path: Path, inference: str | None = None) -> FoundModel:
    if path.is_dir():
        inference = inference or _last_inference(path)
        path = _judged_weights(path)
    try:
        state = load_checkpoint(path)
    except CheckpointError as error:
        raise RunRefusedError(
            f"{error} Where it holds weights alone, as {BACKBONE} does, name the architecture and give it as --weights"
        ) from None
    recipe = _recipe_of(path, state)
    if inference is not None:
        recipe = recipe.model_copy(update={"inference": inference})
    prefix = "embedder."
    weights = {key.removeprefix(prefix): value for key, value in state["method"].items() if key.startswith(prefix)}
    means = [value for key, value in weights.items() if key == "mean" or key.endswith(".mean")]
    if not means:
        raise RunRefusedError(f"{path} holds no embedder, as the checkpoints of `run METHOD` do")

    def check(channels: int) -> None:
        own = means[0].shape[1]
        if channels != own:
            raise RunRefusedError(f"{path} was trained on images of {_channels(own)}, and these have {channels}")

    def build(channels: int) -> nn.Module:
        from robustdml_ext.assemble import build_network

        check(channels)
        network = build_network(recipe.model_copy(update={"weights": "none"}), channels)
        network.load_state_dict(weights)
        return network.eval()

    def build_whole(channels: int) -> PrototypicalClassifier:
        from robustdml_ext.assemble import build_classifier

        check(channels)
        return build_classifier(recipe, channels, state["method"], state.get("class_names"))

    facts = {"kind": "checkpoint", "name": str(path), "step": state["step"], "arch": recipe.arch}
    facts["channels"] = int(means[0].shape[1])
    whole = build_whole if recipe.method == "prototypes" else None
    return FoundModel(build, facts, recipe, whole, names_classes=state.get("class_names") is not None)


def _last_inference(folder: Path) -> str | None:
    """How the run's ensemble answers by its recipe file, which a later judgment may have changed."""
    file = folder / RECIPE
    if not file.is_file():
        return None
    return read_recipe_file(file).fields.get("inference")


def _channels(count: int) -> str:
    return "1 channel" if count == 1 else f"{count} channels"


def _recipe_of(path: Path, state: Mapping[str, Any]) -> Recipe:
    try:
        return make_recipe(state["recipe"])
    except RecipeError as error:
        raise RunRefusedError(f"{path} was written by another version of this package: {error}") from None


def _judged_weights(folder: Path) -> Path:
    """The checkpoint of a run that its own result judges: the best one where it selects, and else the last.

    Of prototypes the classifier that was made of it, which may have classes that were added since.
    """
    classifier = folder / CLASSIFIER
    if classifier.is_file() and (
        not (folder / LAST).is_file() or load_checkpoint(classifier)["step"] == load_checkpoint(folder / LAST)["step"]
    ):
        return classifier  # and not where training has gone on since
    last, best = folder / LAST, folder / BEST
    if not last.is_file() and not best.is_file():
        raise RunRefusedError(f"{folder} holds no {BEST} or {LAST}; expected the folder of a run")
    if not best.is_file() or (last.is_file() and not _recipe_of(last, load_checkpoint(last)).selects):
        return last
    return best


def _from_architecture(name: str, weights: str, embedding: str) -> FoundModel:
    from robustdml_ext.models import plain_embedder
    from robustdml_ext.models.build import check_arch

    try:
        check_arch(name)
    except ValueError as error:
        raise RunRefusedError(f"model {name!r} was not found: {error}. A model is {KINDS}") from None

    def build(channels: int) -> nn.Module:
        # Where there are no weights, they are drawn; alike every time.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(0)  # torch.manual_seed would reach the GPU's generator as well
            return plain_embedder(name, weights, embedding=embedding, channels=channels)

    return FoundModel(build, {"kind": "architecture", "name": name, "weights": weights, "embedding": embedding})


def _call_factory(name: str) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    # As `python -m` does: what lies in the working directory can be named.
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RunRefusedError(f"model {name}: {module_name} cannot be imported: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise RunRefusedError(f"model {name}: {module_name} has no function {attribute!r}")
    try:
        model = factory()
    except Exception as error:
        raise RunRefusedError(f"model {name}: calling it failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise RunRefusedError(f"model {name}: expected an nn.Module from it, got {type(model).__name__}")
    return model.eval()
