"""Starting weights: torchvision's by name, those published for our own architectures, or a file."""

from __future__ import annotations

import http.client
import pickle
import re
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from robustdml_ext.models.architectures import own_architecture, torchvision_options

IMAGENET = "IMAGENET1K_V1"
# The modules of googlenet and inception_v3 that serve another training.
_AUXILIARY = r"(aux\d|AuxLogits)"


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


def load_named(arch: str, weights: torchvision.models.WeightsEnum) -> nn.Module:
    """A torchvision network with torchvision's weights, which are downloaded where they are not yet there.

    Raises:
        FileNotFoundError: they cannot be downloaded.
    """
    # With weights torchvision's constructors take no word against auxiliary classifiers, which the file has.
    options = {name: value for name, value in torchvision_options(arch).items() if name != "aux_logits"}
    try:
        network: nn.Module = torchvision.models.get_model(arch, weights=weights, **options)
    except (OSError, http.client.HTTPException) as error:
        raise _not_downloaded(str(weights), arch, weights.url, error) from error
    for name, _ in list(network.named_children()):
        if re.fullmatch(_AUXILIARY, name):
            setattr(network, name, None)
    if hasattr(network, "aux_logits"):
        network.aux_logits = False  # type: ignore[assignment]
    return network


def local_weights(arch: str, weights: str) -> str:
    """`weights`, or for `imagenet` the file published for one of our own architectures.

    That file is looked for in torch hub's folder of checkpoints, and downloaded to it where it is not yet there. Other
    weights, and architectures without such a file, come back as they are.

    Raises:
        FileNotFoundError: it cannot be downloaded, or what comes is not what its name says (the beginning of its
            SHA-256).
    """
    own = own_architecture(arch)
    url = None if own is None else own.url
    if weights != "imagenet" or url is None:
        return weights
    name = url.rpartition("/")[2]
    path = _checkpoints() / name
    if not path.is_file():
        digest = name.rpartition("-")[2].partition(".")[0]
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest)
        # A wrong hash is a RuntimeError.
        except (OSError, http.client.HTTPException, RuntimeError) as error:
            raise _not_downloaded("imagenet", arch, url, error) from error
    return str(path)


def _checkpoints() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _not_downloaded(weights: str, arch: str, url: str, error: Exception) -> FileNotFoundError:
    return FileNotFoundError(
        f"weights: {weights} of {arch} cannot be downloaded ({error}). Get {url} on a machine "
        f"that can, and put the file in {_checkpoints()} (or pass the file itself as weights)"
    )


def load_file(network: nn.Module, path: str, arch: str, classifier: str) -> dict[str, Tensor]:
    """Loads a state dict file into `network`, whose classifier is removed; returns what is the classifier's.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict, or one that does not fit the network.
    """
    loaded = read_state(path, arch)
    prefix = f"{classifier}."
    head = {key.removeprefix(prefix): value for key, value in loaded.items() if key.startswith(prefix)}
    expected = network.state_dict()
    rest = {
        key: value
        for key, value in loaded.items()
        if not key.startswith(prefix) and not re.match(rf"{_AUXILIARY}\.", key)
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
    """The state dict in a file, read without running any code that it may carry; old files' keys as they are today.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no state dict.
    """
    if not Path(path).is_file():
        known = ""
        if arch in torchvision.models.list_models(module=torchvision.models):
            names = torchvision.models.get_model_weights(arch).__members__
            known = f", and torchvision's weights of {arch} are {', '.join(names)}"
        elif (own := own_architecture(arch)) is not None and own.url is not None:
            known = f"; imagenet stands for the weights published for {arch}"
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
    return dict(_today(str(key).removeprefix("module."), value, arch) for key, value in content.items())


def _today(key: str, value: Tensor, arch: str) -> tuple[str, Tensor]:
    """A key and tensor of the architecture's old files, as its new ones have them."""
    if arch == "bn_inception":
        key = re.sub(r"^fc\.", "last_linear.", key)
        if re.search(r"_bn\.\w+$", key) and value.dim() == 2 and len(value) == 1:
            value = value[0]
    # The keys of torchvision's oldest DenseNet files: `norm.1` for what is `norm1` today.
    return re.sub(r"\.(norm|conv)\.(\d)\.", r".\1\2.", key), value


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3])
    return shown if len(keys) <= 3 else f"{shown} and {len(keys) - 3} more"
