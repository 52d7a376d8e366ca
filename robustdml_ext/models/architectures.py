"""Networks by architecture name: our own (`small`, `lenet`, wide ResNets, …), and torchvision's for classification."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torchvision
from torch import nn

from robustdml_ext.models.bn_inception import BN_INCEPTION_MEAN, BN_INCEPTION_STD, BN_INCEPTION_URL, BNInception
from robustdml_ext.models.lenet import LeNet
from robustdml_ext.models.small import SmallNet
from robustdml_ext.models.wide_resnet import WideResNet, wide_resnet_size
from robustdml_ext.models.xvector import XVector

IMAGENET_CLASSES = 1000
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# They have auxiliary classifiers, which serve another training and would stay unused parameters here; and torchvision's
# weights of them are of images in [−1, 1], to which `transform_input` brings those of ImageNet's normalization.
_INCEPTIONS = ("googlenet", "inception_v3")
_TO_ONE = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class OwnArchitecture:
    """An architecture of this package.

    Attributes:
        make: (channels of the images, widths, outputs of the classifier) → the network.
        normalization: mean and std of each channel, in pixels of [0, 1]; None: none.
        url: of its published ImageNet weights, whose file name ends in the beginning of its SHA-256; None: none.
        any_channels: whether it takes images of other than 3 channels.
    """

    make: Callable[[int, Sequence[int] | None, int], nn.Module]
    normalization: tuple[Sequence[float], Sequence[float]] | None = None
    url: str | None = None
    any_channels: bool = False


def _small(channels: int, widths: Sequence[int] | None, outputs: int) -> nn.Module:
    options = {} if widths is None else {"widths": widths}
    return SmallNet(channels, num_classes=outputs, **options)


def _lenet(channels: int, widths: Sequence[int] | None, outputs: int) -> nn.Module:
    options = {} if widths is None else {"widths": widths}
    return LeNet(channels, num_classes=outputs, **options)


def _xvector(channels: int, widths: Sequence[int] | None, outputs: int, bins: int = 30) -> nn.Module:
    if channels != 1:
        raise ValueError(f"channels: xvector takes sound, of 1 channel, got {channels}")
    return XVector(bins, outputs) if widths is None else XVector(bins, outputs, widths)


OWN = {
    "small": OwnArchitecture(_small, any_channels=True),
    "lenet": OwnArchitecture(_lenet, any_channels=True),
    "bn_inception": OwnArchitecture(
        lambda channels, widths, outputs: BNInception(outputs),
        normalization=(BN_INCEPTION_MEAN, BN_INCEPTION_STD),
        url=BN_INCEPTION_URL,
    ),
    "xvector": OwnArchitecture(_xvector, any_channels=True),
}


WIDE_RESNET = "wide_resnetDEPTH_WIDTH"


def own_architecture(arch: str) -> OwnArchitecture | None:
    """The architecture of this package by that name, or None: one of `OWN`, or a wide ResNet as wide_resnet34_10."""
    size = wide_resnet_size(arch)
    if size is None:
        return OWN.get(arch)
    depth, width = size
    return OwnArchitecture(
        lambda channels, widths, outputs: WideResNet(depth, width, outputs, channels), any_channels=True
    )


def check_arch(arch: str, channels: int = 3) -> None:
    """Checks an architecture's name, and that it takes images of so many channels.

    Raises:
        ValueError: it is neither ours nor torchvision's (the message says what is near the name), or is for images of 3
            channels.
    """
    known = torchvision.models.list_models(module=torchvision.models)
    own = own_architecture(arch)
    if own is None and arch not in known:
        close = difflib.get_close_matches(arch, [*OWN, "wide_resnet34_10", *known], n=3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        ours = ", ".join([*OWN, WIDE_RESNET])
        raise ValueError(
            f"arch: {arch!r} is neither one of ours ({ours}) nor a torchvision classification network{hint}"
        )
    if channels != 3 and not (own is not None and own.any_channels):
        raise ValueError(
            f"channels: {arch} takes images of 3 channels, got {channels}; ask for 3 of gray images, or for small"
        )


def make_network(
    arch: str, channels: int, outputs: int, widths: Sequence[int] | None = None, bins: int | None = None
) -> nn.Module:
    """The network of a checked name, with weights drawn from PyTorch's global generator.

    Args:
        arch: its name.
        channels: of the images.
        outputs: of the classifier.
        widths: channels of the stages of `small`, or of the layers of `lenet` or `xvector`; None: its own.
        bins: filter banks a frame, of `xvector`; None: its own.
    """
    own = own_architecture(arch)
    if arch == "xvector" and bins is not None:
        return _xvector(channels, widths, outputs, bins)
    if own is not None:
        return own.make(channels, widths, outputs)
    options = torchvision_options(arch)
    if options:
        options["init_weights"] = True
    network: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=outputs, **options)
    return network


def torchvision_options(arch: str) -> dict[str, Any]:
    """What torchvision's constructor is to be given, where it has the choice: no auxiliary classifiers, and images as
    they are, which `normalization` brings to [−1, 1] at once. A network of the same keys then does the same whether its
    weights are torchvision's, from a file or drawn, as `transform_input` is in no file.
    """
    return {"aux_logits": False, "transform_input": False} if arch in _INCEPTIONS else {}


def normalization(arch: str, channels: int = 3) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and std per channel, RGB in pixels of [0, 1], that an architecture's images are normalized by.

    They are ImageNet's for torchvision's networks, but for googlenet and inception_v3 0.5 and 0.5; those of the
    published weights for `bn_inception`; and for all others of ours (0, …) and (1, …).
    """
    if arch in _INCEPTIONS:
        return _TO_ONE, _TO_ONE
    own = own_architecture(arch)
    if own is None:
        return IMAGENET_MEAN, IMAGENET_STD
    return own.normalization or ((0.0,) * channels, (1.0,) * channels)


def find_classifier(network: nn.Module, arch: str) -> str:
    """The name of the classifier's last linear layer.

    Raises:
        ValueError: the network has no linear layer.
    """
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise ValueError(f"arch: {arch} has no linear classifier that an embedding head could replace")
    return str(names[-1])
