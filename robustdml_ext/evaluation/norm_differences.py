"""How far the norms of several distributions have grown apart: figure 2 of MDProp."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustdml_ext.models import Embedder

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(frozen=True)
class Spread:
    """Some numbers in short.

    Attributes:
        mean: their mean.
        std: their standard deviation (they are all there are, so n and not n − 1).
        mean_absolute: the mean of their sizes.
        quantiles: at `QUANTILES`.
    """

    mean: float
    std: float
    mean_absolute: float
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class NormDifferences:
    """Differences of γ and of β, channel by channel, for each pair of an embedder's distributions.

    Attributes:
        layers: names of the norm layers in the backbone, in the order in which it defines them, which is that of depth.
        pairs: P pairs (i, j) of distributions, i < j.
        layer: the place in `layers` of each of the S channels of all layers, int64 `[S]`.
        gamma: γ^i − γ^j, float32 `[P, S]`.
        beta: β^i − β^j, likewise.
    """

    layers: tuple[str, ...]
    pairs: tuple[tuple[int, int], ...]
    layer: Tensor
    gamma: Tensor
    beta: Tensor

    def spread(self, name: str, pair: int, layer: int | None = None) -> Spread:
        """The differences of one pair in short, of one layer's channels or of all layers'.

        Args:
            name: "gamma" or "beta".
            pair: place in `pairs`.
            layer: place in `layers`; None for all channels.

        Raises:
            ValueError: another name.
            IndexError: there is no such pair or layer.
        """
        if name not in ("gamma", "beta"):
            raise ValueError(f"name: expected 'gamma' or 'beta', got {name!r}")
        for what, place, count in (("pair", pair, len(self.pairs)), ("layer", layer or 0, len(self.layers))):
            if not 0 <= place < count:
                raise IndexError(f"{what}: expected 0 to {count - 1}, got {place}")
        values = (self.gamma if name == "gamma" else self.beta)[pair].double()
        if layer is not None:
            values = values[self.layer == layer]
        quantiles = torch.quantile(values, torch.tensor(QUANTILES, dtype=torch.float64))
        return Spread(
            float(values.mean()),
            float(values.std(correction=0)),
            float(values.abs().mean()),
            tuple(quantiles.tolist()),
        )


def norm_differences(embedder: nn.Module) -> NormDifferences:
    """Compares the learned parameters of an embedder's norms, layer by layer (MDProp, section 5 and figure 2).

    Layers without γ and β are left out.

    Raises:
        TypeError: no `Embedder`, whose layers have norms for several distributions.
        ValueError: it has one distribution, or no norm layer with γ and β.
    """
    if not isinstance(embedder, Embedder):
        raise TypeError(f"embedder: expected an Embedder, got {type(embedder).__name__}")
    if embedder.distributions < 2:
        raise ValueError("embedder: expected several distributions to compare the norms of, got one")
    known = {id(norm) for norm in embedder.norms()}
    names: list[str] = []
    gammas: list[Tensor] = []
    betas: list[Tensor] = []
    for name, module in embedder.backbone.named_modules():
        if id(module) in known and module.weight is not None and module.bias is not None:
            names.append(name)
            gammas.append(module.weight.detach().cpu().double())
            betas.append(module.bias.detach().cpu().double())
    if not names:
        raise ValueError("embedder: expected norm layers with γ and β, got none")
    pairs = tuple(itertools.combinations(range(embedder.distributions), 2))
    layer = torch.repeat_interleave(torch.arange(len(names)), torch.tensor([gamma.shape[1] for gamma in gammas]))
    gamma, beta = (
        torch.stack([torch.cat(values, 1)[i] - torch.cat(values, 1)[j] for i, j in pairs]).float()
        for values in (gammas, betas)
    )
    return NormDifferences(tuple(names), pairs, layer, gamma, beta)
