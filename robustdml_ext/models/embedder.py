"""Images → embeddings: normalization, backbone, head, unit length."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.models.convert import convert_norms, to_plain
from robustdml_ext.models.fusion import fused_forward
from robustdml_ext.models.norm import DistributionNorm, NormContext, check_distribution


class Embedder(nn.Module):
    """f: images `[B, C, H, W]` in [0, 1] → embeddings `[B, D]`, with separate batch norm for K distributions.

    normalize → backbone (pooling inside) → dropout (in training) → `features` `[B, F]` → linear head → unit length
    (float32 even under autocast). Distribution 0 is the clean one; the network that is used after training is that
    one's (`export`).

    Args:
        backbone: maps normalized images to features; its batch norm layers are converted in place.
        feature_dim: F.
        embedding_dim: D.
        distributions: K.
        mean, std: per channel, in pixels of [0, 1]; what the backbone's images are normalized by.
        classifier: where in the backbone the classifier was (now an identity); the place of the head in
            `export`.
        norm_noise: standard deviation of the noise γ^k on the auxiliary norms' γ and β.
        generator: what that noise is drawn from.
        fuse: run norm → ReLU and norm → add → ReLU as one, where the backbone can be traced.
        unit_length: scale embeddings to length 1.
        dropout: probability, 0 <= dropout < 1, with which a feature is set to 0 in training (the others are divided by
            1 − dropout): the regularizer that ECAML's table 2 compares with. Drawn from PyTorch's global generator.

    Raises:
        ValueError: several distributions of a backbone without batch norm layers, `mean` and `std` do not fit, or
            dropout is out of its range.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: nn.Module,
        feature_dim: int,
        embedding_dim: int = 128,
        *,
        distributions: int = 1,
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        classifier: str | None = None,
        norm_noise: float = 0.0,
        generator: torch.Generator | None = None,
        fuse: bool = True,
        unit_length: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout: expected a probability from 0 to below 1, got {dropout}")
        if len(mean) != len(std) or any(value <= 0 for value in std):
            raise ValueError(f"mean, std: expected one of each a channel, std > 0; got {mean} and {std}")
        norms = convert_norms(backbone, distributions, norm_noise, generator=generator)
        if not norms and distributions > 1:
            raise ValueError("backbone: has no batch norm layer to keep distributions apart by")
        self.norm_context = norms[0].context if norms else NormContext(distributions)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(feature_dim, embedding_dim)
        self.register_buffer("mean", torch.tensor(mean).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).reshape(1, -1, 1, 1))
        self.classifier = classifier
        self.fuse = fuse
        self.unit_length = unit_length
        self._forward: Callable[[Tensor], Tensor] | None = None
        self._prepare()

    @property
    def distributions(self) -> int:
        """K."""
        return self.norm_context.distributions

    @property
    def feature_dim(self) -> int:
        """F."""
        return self.head.in_features

    @property
    def embedding_dim(self) -> int:
        """D."""
        return self.head.out_features

    @property
    def fused(self) -> bool:
        """Whether norm layers run fused with what follows them."""
        return self._prepare() is not self.backbone

    def features(self, images: Tensor, segments: Sequence[int] | None = None, distribution: int = 0) -> Tensor:
        """Features `[B, F]`, as the head is given them: after dropout in training. Arguments as `forward`."""
        if segments is None:
            check_distribution(distribution, self.distributions)
            segments = [0] * self.distributions
            segments[distribution] = len(images)
        elif sum(segments) != len(images):
            raise ValueError(f"segments: expected sizes that add up to {len(images)} images; got {list(segments)}")
        with self.norm_context.use(segments):
            features: Tensor = self.dropout(self._prepare()((images - self.mean) / self.std))
            return features

    def forward(
        self,
        images: Tensor,
        segments: Sequence[int] | None = None,
        distribution: int = 0,
        *,
        with_features: bool = False,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Embeddings `[B, D]`; or, with features, those and the features `[B, F]` that they are made of.

        Args:
            images: `[B, C, H, W]`, pixels in [0, 1].
            segments: K sizes that add up to B: a joint pass over consecutive parts, part k under distribution
                k. It equals K separate passes to rounding.
            distribution: of the whole batch, where no segments are given.
            with_features: return them too.

        Raises:
            ValueError: segments do not fit.
            IndexError: there is no such distribution.
        """
        features = self.features(images, segments, distribution)
        # Neighbors are ranked by differences that half precision cannot hold.
        with torch.autocast(images.device.type, enabled=False):
            embeddings = self.finish(self.head(features.to(self.head.weight.dtype)))
        return (embeddings, features) if with_features else embeddings

    def finish(self, outputs: Tensor) -> Tensor:
        """From the head's output `[…, D]` to embeddings: scaled to unit length, where these embeddings are."""
        with torch.autocast(outputs.device.type, enabled=False):
            return F.normalize(outputs, dim=-1) if self.unit_length else outputs

    def norms(self) -> Iterator[DistributionNorm]:
        """The norm layers."""
        return (module for module in self.modules() if isinstance(module, DistributionNorm))

    def freeze_norms(self, frozen: bool = True) -> None:
        """Normalizes by the running statistics in training too, and leaves them ("frozen batch norm")."""
        for norm in self.norms():
            norm.frozen = frozen

    def synchronize(self, group: torch.distributed.ProcessGroup | None) -> None:
        """Computes training statistics over all processes of `group` (None: over this process alone)."""
        self.norm_context.group = group

    def export(self, distribution: int = 0) -> nn.Module:
        """The network to deploy: the plain backbone, with the head as its classifier.

        It has the batch norm of one distribution, the clean one by default. Its keys are the architecture's
        own, so for a torchvision backbone the state dict loads (strictly) in
        `torchvision.models.resnet18(num_classes=embedding_dim)`, or of a network with auxiliary classifiers in
        `googlenet(num_classes=embedding_dim, aux_logits=False, init_weights=False)`. It takes images normalized by
        `mean` and `std`, and its outputs are to be scaled to unit length.

        Raises:
            ValueError: where the classifier was is not known.
            IndexError: there is no such distribution.
        """
        if self.classifier is None:
            raise ValueError("classifier: name the backbone's module that the head replaces, to export")
        network = to_plain(self.backbone, distribution)
        network.set_submodule(self.classifier, copy.deepcopy(self.head))
        return network

    @contextmanager
    def backbone_run_by(self, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
        """Inside the `with` block, `function` stands in for the backbone: one that gives the same, in less time."""
        before = self._prepare()
        object.__setattr__(self, "_forward", function)
        try:
            yield
        finally:
            object.__setattr__(self, "_forward", before)

    def _prepare(self) -> Callable[[Tensor], Tensor]:
        """What runs the backbone; made anew in a copy, whose layers may have been replaced."""
        if self._forward is None:
            fused = fused_forward(self.backbone) if self.fuse else None
            # Not by plain assignment, which would list the backbone a second time among the modules.
            object.__setattr__(self, "_forward", self.backbone if fused is None else fused)
        assert self._forward is not None
        return self._forward

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_forward": None}
