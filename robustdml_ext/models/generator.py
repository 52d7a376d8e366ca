"""The hard negative generator of deep adversarial metric learning (DAML)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Tuples(NamedTuple):
    """Which rows of a batch make up the generator's inputs, int64.

    anchor, positive: `[T]`; positive is the anchor itself for a pair of two classes.
    negatives: `[T, M]`, of other classes than the anchor's.
    valid: `[T, M]`, where fewer than M rows are of other classes; None: all are.
    """

    anchor: Tensor
    positive: Tensor
    negatives: Tensor
    valid: Tensor | None = None


class HardNegativeGenerator(nn.Module):
    """G(θ_g; x⁻, x, x⁺) of DAML, equation 5: three fully connected layers on the concatenated features.

    The first layer is linear in what is concatenated, so each of a batch's rows passes it once in each of the three
    roles, and the sums are made tuple by tuple: 3·B·F·H operations instead of 3·T·M·F·H, and no `[T, M, 3F]` tensor.

    Args:
        feature_dim: F, length of the features that come in and go out.
        hidden: H, width of the two hidden layers; F where None, as the paper does not say.

    Raises:
        ValueError: a size below 1.
    """

    def __init__(self, feature_dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = feature_dim if hidden is None else hidden
        if feature_dim < 1 or hidden < 1:
            raise ValueError(f"feature_dim, hidden: expected >= 1, got {feature_dim} and {hidden}")
        self.first = nn.Linear(3 * feature_dim, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, feature_dim)

    def forward(self, features: Tensor, tuples: Tuples) -> Tensor:
        """Synthetic negatives x̃⁻ `[T, M, F]` for features `[B, F]`; in the layers' own precision, even under autocast.

        Raises:
            ValueError: features of another length.
        """
        width = self.third.out_features
        if features.dim() != 2 or features.shape[1] != width:
            raise ValueError(f"features: expected [B, {width}], got {list(features.shape)}")
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.first.weight.dtype)
            of_negative, of_anchor, of_positive = (
                F.linear(features, part) for part in self.first.weight.split(width, dim=1)
            )
            of_pair = of_anchor[tuples.anchor] + of_positive[tuples.positive] + self.first.bias
            hidden = F.relu(of_negative[tuples.negatives] + of_pair[:, None])
            synthetic: Tensor = self.third(F.relu(self.second(hidden)))
        return synthetic
