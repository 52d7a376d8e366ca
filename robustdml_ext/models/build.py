"""Embedders by architecture name: `small`, or any torchvision classification network with batch norm."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import torch
import torchvision
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustdml_ext.models.embedder import Embedder
from robustdml_ext.models.small import SmallNet
from robustdml_ext.models.weights import load_file, load_named, named_weights

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
SMALL = "small"
# Auxiliary classifiers, which serve another training and would stay unused parameters here.
WITHOUT_AUXILIARY = ("googlenet", "inception_v3")


def build_embedder(
    arch: str,
    *,
    embedding_dim: int = 128,
    weights: str = "none",
    channels: int = 3,
    distributions: int = 1,
    norm_noise: float = 0.0,
    generator: torch.Generator | None = None,
    freeze_norm: bool = False,
    fuse: bool = True,
    unit_length: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    widths: Sequence[int] = (16, 32, 64),
) -> Embedder:
    """Builds an `Embedder` by the name of its backbone.

    Args:
        arch: `small` (for images of 8×8 to 64×64), or a torchvision classification network that has batch
            norm.
        embedding_dim: D.
        weights: `imagenet` (torchvision's IMAGENET1K_V1), another of torchvision's weights names, `none`, or
            a file with a state dict (or `{"state_dict": …}`) in the architecture's own keys. Classifier
            weights are dropped where their shape is not the head's.
        channels: of the images; other than 3 for `small` only.
        distributions: K, separate batch norms.
        norm_noise: standard deviation of the noise γ^k on the auxiliary norms' γ and β.
        generator: what that noise is drawn from. All other weights come from PyTorch's global generator.
        freeze_norm: normalize by the starting weights' running statistics in training too.
        fuse: fuse norm layers with what follows, where the backbone can be traced.
        unit_length: scale embeddings to length 1.
        mean, std: what images are normalized by; by default ImageNet's for torchvision networks, nothing for
            `small`.
        widths: channels of the stages of `small`.

    Raises:
        ValueError: an unknown architecture, one without batch norm, or weights that do not fit it.
        FileNotFoundError: the weights are not on this machine and cannot be downloaded.
    """
    small = arch == SMALL
    if small:
        network: nn.Module = SmallNet(channels, widths, num_classes=embedding_dim)
        default_mean: Sequence[float] = (0.0,) * channels
        default_std: Sequence[float] = (1.0,) * channels
    else:
        if channels != 3:
            raise ValueError(f"channels: {arch} takes images of 3 channels, got {channels}; small takes any")
        network = _torchvision_network(arch, weights)
        default_mean, default_std = IMAGENET_MEAN, IMAGENET_STD
    if not any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ValueError(f"arch: {arch} has no batch norm layers to keep distributions apart by; try resnet50")
    classifier = find_classifier(network, arch)
    feature_dim = network.get_submodule(classifier).in_features
    assert isinstance(feature_dim, int)
    network.set_submodule(classifier, nn.Identity())
    from_file = weights != "none" and (small or named_weights(arch, weights) is None)
    head_weights = load_file(network, weights, arch, classifier) if from_file else {}
    embedder = Embedder(
        network,
        feature_dim,
        embedding_dim,
        distributions=distributions,
        mean=default_mean if mean is None else mean,
        std=default_std if std is None else std,
        classifier=classifier,
        norm_noise=norm_noise,
        generator=generator,
        fuse=fuse,
        unit_length=unit_length,
    )
    if {name: value.shape for name, value in head_weights.items()} == {
        name: value.shape for name, value in embedder.head.state_dict().items()
    }:
        embedder.head.load_state_dict(head_weights)
    embedder.freeze_norms(freeze_norm)
    return embedder


def find_classifier(network: nn.Module, arch: str) -> str:
    """The name of the classifier's last linear layer.

    Raises:
        ValueError: the network has no linear layer.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(f"arch: {arch} has no linear classifier that an embedding head could replace")
    return str(names[-1])


def check_arch(arch: str) -> None:
    """Raises ValueError for an architecture that is neither `small` nor torchvision's, with what is near its name."""
    known = torchvision.models.list_models(module=torchvision.models)
    if arch != SMALL and arch not in known:
        close = difflib.get_close_matches(arch, [SMALL, *known], n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(f"arch: {arch!r} is neither small nor a torchvision classification network{hint}")


def _torchvision_network(arch: str, weights: str) -> nn.Module:
    check_arch(arch)
    options: dict[str, Any] = {"aux_logits": False} if arch in WITHOUT_AUXILIARY else {}
    named = None if weights == "none" else named_weights(arch, weights)
    if named is not None:
        return load_named(arch, named, options)
    if arch in WITHOUT_AUXILIARY:
        options["init_weights"] = True
    network: nn.Module = torchvision.models.get_model(arch, weights=None, **options)
    return network
