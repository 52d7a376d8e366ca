"""Embedders by architecture name: one of ours, or any torchvision classification network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustdml_ext.models.architectures import (
    IMAGENET_CLASSES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    check_arch,
    find_classifier,
    make_network,
    normalization,
    own_architecture,
)
from robustdml_ext.models.embedder import Embedder
from robustdml_ext.models.weights import load_file, load_named, local_weights, named_weights

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "build_embedder", "check_arch", "find_classifier"]


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
    dropout: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    widths: Sequence[int] | None = None,
    bins: int | None = None,
) -> Embedder:
    """Builds an `Embedder` by the name of its backbone.

    Args:
        arch: `small` (for images of 8×8 to 64×64), `lenet` (see `LeNet`), a wide ResNet as `wide_resnet34_10` (see
            `WideResNet`), `bn_inception` (see `BNInception`), or a torchvision classification network; one with batch
            norm for several distributions.
        embedding_dim: D.
        weights: `imagenet` (torchvision's IMAGENET1K_V1; for `bn_inception` its published file), another of
            torchvision's weights names, `none`, or a file with a state dict (or `{"state_dict": …}`) in the
            architecture's own keys. Classifier weights are dropped where their shape is not the head's.
        channels: of the images; other than 3 for `small`, `lenet` and wide ResNets only.
        distributions: K, separate batch norms.
        norm_noise: standard deviation of the noise γ^k on the auxiliary norms' γ and β.
        generator: what that noise is drawn from. All other weights come from PyTorch's global generator.
        freeze_norm: normalize by the starting weights' running statistics in training too.
        fuse: fuse norm layers with what follows, where the backbone can be traced.
        unit_length: scale embeddings to length 1.
        dropout: probability with which a feature is dropped in training, as the only dropout: the architecture's own
            layers (of googlenet, mobilenet_v2, ...) then drop nothing. None: the architecture as it is.
        mean, std: what images are normalized by; by default ImageNet's for torchvision networks (for googlenet and
            inception_v3 0.5 and 0.5, which is what torchvision's `transform_input` makes of ImageNet's), those of
            the published weights for `bn_inception`, nothing for all others of ours.
        widths: channels of the stages of `small`, or of the layers of `lenet` or `xvector`; None: its own.
        bins: filter banks a frame, of `xvector`; None: its own.

    Raises:
        ValueError: an unknown architecture, several distributions of one without batch norm, weights that do not
            fit it, or dropout that is not from 0 to below 1.
        FileNotFoundError: the weights are not on this machine and cannot be downloaded.
    """
    check_arch(arch, channels)
    weights = local_weights(arch, weights)
    named = None if weights == "none" else named_weights(arch, weights)
    # torchvision's networks are drawn as they are by themselves, whatever the head's size.
    outputs = embedding_dim if own_architecture(arch) is not None else IMAGENET_CLASSES
    network = load_named(arch, named) if named is not None else make_network(arch, channels, outputs, widths, bins)
    if distributions > 1 and not any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ValueError(f"arch: {arch} has no batch norm layers to keep distributions apart by; try resnet50")
    classifier = find_classifier(network, arch)
    feature_dim = network.get_submodule(classifier).in_features
    assert isinstance(feature_dim, int)
    network.set_submodule(classifier, nn.Identity())
    from_file = weights != "none" and named is None
    head_weights = load_file(network, weights, arch, classifier) if from_file else {}
    default_mean, default_std = normalization(arch, channels)
    if dropout is not None:
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
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
        dropout=0.0 if dropout is None else dropout,
    )
    if {name: value.shape for name, value in head_weights.items()} == {
        name: value.shape for name, value in embedder.head.state_dict().items()
    }:
        embedder.head.load_state_dict(head_weights)
    embedder.freeze_norms(freeze_norm)
    return embedder
