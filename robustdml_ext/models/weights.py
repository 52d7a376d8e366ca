"""Starting weights: torchvision's by name, or a file."""

from __future__ import annotations

import pickle
import re
import urllib.error
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

IMAGENET = "IMAGENET1K_V1"


def named_weights(arch: str, weights: str) -> torchvision.models.WeightsEnum | None:
    """torchvision's weights of that name (`imagenet`: IMAGENET1K_V1), or None where it has none of the name.

    Raises:
        ValueError: `imagenet` is asked for and the architecture has no such weights.
    """
    if arch not in torchvision.models.list_models(module=torchvision.models):
        return None
    members = torchvision.models.get_model_weights(arch).__members__
    name = IMAGENET if weights == "imagenet" else weights.rpartition(".")[2]
    found = members.get(name)
    if found is None and weights == "imagenet":
        raise ValueError(f"weights: torchvision has no {IMAGENET} for {arch}; it has {', '.join(members)}")
    return found


def load_named(arch: str, weights: torchvision.models.WeightsEnum, options: dict[str, Any]) -> nn.Module:
    """A torchvision network with torchvision's weights, which are downloaded where they are not yet there.

    Raises:
        FileNotFoundError: they cannot be downloaded.
    """
    try:
        network: nn.Module = torchvision.models.get_model(arch, weights=weights, **options)
    except (urllib.error.URLError, OSError) as error:
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise FileNotFoundError(
            f"weights: {weights} of {arch} cannot be downloaded ({error}). Get {weights.url} on a machine "
            f"that can, and put the file in {folder} (or pass the file itself as weights)"
        ) from error
    return network


def load_file(network: nn.Module, path: str, arch: str, classifier: str) -> dict[str, Tensor]:
    """Loads a state dict file into `network`, whose classifier is removed; returns what is the classifier's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict, or one that does not fit the network.
    """
    loaded = read_state(path, arch)
    # The keys of torchvision's oldest DenseNet files: `norm.1` for what is `norm1` today.
    loaded = {re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", key): value for key, value in loaded.items()}
    prefix = f"{classifier}."
    head = {key.removeprefix(prefix): value for key, value in loaded.items() if key.startswith(prefix)}
    expected = network.state_dict()
    rest = {
        key: value
        for key, value in loaded.items()
        if not key.startswith(prefix) and not re.match(r"(aux\d|AuxLogits)\.", key)
    }
    # Files older than the counter do not have it.
    missing = [key for key in expected if key not in rest and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in rest if key not in expected]
    misshaped = [
        f"{key} {list(rest[key].shape)} instead of {list(expected[key].shape)}"
        for key in expected
        if key in rest and rest[key].shape != expected[key].shape
    ]
    found = {"missing": missing, "not of this network": unexpected, "of another shape": misshaped}
    problems = [f"{what}: {_some(keys)}" for what, keys in found.items() if keys]
    if problems:
        raise ValueError(f"weights: {path} does not fit {arch}; " + "; ".join(problems))
    network.load_state_dict(rest, strict=False)
    return head


def read_state(path: str, arch: str) -> dict[str, Tensor]:
    """The state dict in a file, read without running any code that it may carry.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict.
    """
    if not Path(path).is_file():
        known = ""
        if arch in torchvision.models.list_models(module=torchvision.models):
            names = torchvision.models.get_model_weights(arch).__members__
            known = f", and torchvision's weights of {arch} are {', '.join(names)}"
        raise FileNotFoundError(f"weights: there is no file {path!r}{known}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"weights: {path} cannot be read as a file of tensors: {error}") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    tensors = isinstance(content, dict) and all(isinstance(value, Tensor) for value in content.values())
    if not tensors or not content:
        raise ValueError(f"weights: {path} holds no state dict, which maps names to tensors")
    return {str(key).removeprefix("module."): value for key, value in content.items()}


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
