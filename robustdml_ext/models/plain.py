"""A plain network as an embedder: what somebody else has trained, to be judged as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.models.architectures import (
    IMAGENET_CLASSES,
    check_arch,
    find_classifier,
    make_network,
    normalization,
    own_architecture,
)
from robustdml_ext.models.weights import load_file, load_named, local_weights, named_weights, read_state

EMBEDDINGS = ("auto", "features", "output")


class PlainEmbedder(nn.Module):
    """Images `[B, C, H, W]` in [0, 1] → embeddings `[B, D]` by any network: normalize → network → unit length.

    Args:
        network: normalized images to vectors `[B, D]`; it stays as it is, norm layers and all.
        mean, std: per channel, in pixels of [0, 1].
        unit_length: scale embeddings to length 1 (float32 even under autocast).
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        unit_length: bool = True,
    ) -> None:
        super().__init__()
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f"mean, std: expected one of each a channel, std > 0; got {mean} and {std}")
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.unit_length = unit_length

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `[B, D]`."""
        vectors: Tensor = self.network((images - self.mean) / self.std)
        with torch.autocast(images.device.type, enabled=False):
            vectors = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            return F.normalize(vectors, dim=1) if self.unit_length else vectors


def plain_embedder(
    arch: str,
    weights: str = "imagenet",
    *,
    embedding: str = "auto",
    channels: int = 3,
    unit_length: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> PlainEmbedder:
    """An architecture's own network with trained weights, to be judged; batch norm is not needed.

    Args:
        arch: any torchvision classification network, `bn_inception` or `small`.
        weights: `imagenet`, another of torchvision's names, `none`, or a file with a state dict in the architecture's
            keys, for example the `backbone.pt` of a run.
        embedding: `output`, of the classifier; `features`, what it is given; `auto`: the features of a classifier of
            ImageNet's 1,000 classes or of no trained weights, and else the output, whose size the file tells.
        channels: of the images; other than 3 for `small` only.
        unit_length: scale embeddings to length 1.
        mean, std: by default ImageNet's (0.5 and 0.5 for googlenet and inception_v3, whose `transform_input` is off),
            those of the published weights for `bn_inception`, and for `small` none.

    Raises:
        ValueError: an unknown name, or weights that do not fit.
        FileNotFoundError: the weights are not on this machine and cannot be downloaded.
    """
    if embedding not in EMBEDDINGS:
        raise ValueError(f"embedding: expected one of {', '.join(EMBEDDINGS)}, got {embedding!r}")
    check_arch(arch, channels)
    if weights == "imagenet" and (own := own_architecture(arch)) is not None and own.url is None:
        raise ValueError(f"weights: {arch} has no ImageNet weights; expected a file, or none")
    weights = local_weights(arch, weights)
    named = None if weights == "none" else named_weights(arch, weights)
    from_file = weights != "none" and named is None
    outputs = IMAGENET_CLASSES
    if from_file:
        outputs = _outputs(read_state(weights, arch), make_network(arch, channels, IMAGENET_CLASSES), arch)
    network = load_named(arch, named) if named is not None else make_network(arch, channels, outputs)
    classifier = find_classifier(network, arch)
    head = network.get_submodule(classifier)
    if from_file:
        network.set_submodule(classifier, nn.Identity())
        head.load_state_dict(load_file(network, weights, arch, classifier))
    if embedding == "auto":
        embedding = "features" if outputs == IMAGENET_CLASSES else "output"
    network.set_submodule(classifier, head if embedding == "output" else nn.Identity())
    default_mean, default_std = normalization(arch, channels)
    model = PlainEmbedder(network, mean or default_mean, std or default_std, unit_length)
    return model.eval()


def _outputs(state: dict[str, Tensor], network: nn.Module, arch: str) -> int:
    """How many outputs the file's classifier has."""
    key = f"{find_classifier(network, arch)}.weight"
    if key not in state:
        raise ValueError(f"weights: the file holds no {key}, the classifier of {arch}, whose rows are the embedding")
    return len(state[key])
