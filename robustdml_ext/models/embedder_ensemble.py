"""An ensemble of embedders that is trained, saved and judged as one network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from robustdml_ext.models.embedder import Embedder
from robustdml_ext.models.ensemble import Ensemble
from robustdml_ext.models.norm import DistributionNorm


class EmbedderEnsemble(Ensemble):
    """N `Embedder`s as one; see `Ensemble` for its inference.

    Args:
        members: the embedders; all take the same images.
        inference: as `Ensemble`.

    Raises:
        TypeError: a member is no `Embedder`.
        ValueError: no member, members that normalize differently, or an unknown inference.
    """

    def __init__(self, members: Iterable[Embedder], inference: str = "vote") -> None:
        found = list(members)
        for member in found:
            if not isinstance(member, Embedder):
                raise TypeError(f"members: expected Embedders, got {type(member).__name__}")
        if len({tuple(torch.cat([member.mean, member.std]).flatten().tolist()) for member in found}) > 1:
            raise ValueError("members: expected the same mean and std of all, as they take the same images")
        super().__init__(found, inference)

    @property
    def embedders(self) -> list[Embedder]:
        """The members."""
        return [member for member in self.members if isinstance(member, Embedder)]

    @property
    def mean(self) -> Tensor:
        """What images are normalized by, as `Embedder.mean`."""
        return self.embedders[0].mean

    @property
    def std(self) -> Tensor:
        """As `Embedder.std`."""
        return self.embedders[0].std

    @property
    def embedding_dim(self) -> int:
        """D of one member."""
        return self.embedders[0].embedding_dim

    def norms(self) -> Iterator[DistributionNorm]:
        """The norm layers of all members."""
        return (norm for member in self.embedders for norm in member.norms())

    def export(self) -> list[nn.Module]:
        """The plain network of each member, as `Embedder.export`."""
        return [member.export() for member in self.embedders]
