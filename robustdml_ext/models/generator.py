"""The hard negative generator of deep adversarial metric learning (DAML)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


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
        TypeError: a size that is no whole number.
        ValueError: a size below 1.
    """

    def __init__(self, feature_dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = feature_dim if hidden is None else hidden
        for name, size in (("feature_dim", feature_dim), ("hidden", hidden)):
            if not isinstance(size, int):
                raise TypeError(f"{name}: expected a whole number, got {type(size).__name__}")
            if size < 1:
                raise ValueError(f"{name}: expected >= 1, got {size}")
        self.first = nn.Linear(3 * feature_dim, hidden)
        self.second = nn.Linear(hidden, hidden)
        self.third = nn.Linear(hidden, feature_dim)

    def forward(self, features: Tensor, tuples: Tuples) -> Tensor:
        """Synthetic negatives x̃⁻ `[T, M, F]` for features `[B, F]`; in the layers' own precision, even under autocast.

        Raises:
            ValueError: features of another length.
        """
        with torch.autocast(features.device.type, enabled=False):
            of_negative, of_anchor, of_positive = self._first_of_rows(self._checked(features))
            of_pair = of_anchor[tuples.anchor] + of_positive[tuples.positive]
            hidden = F.relu(of_negative[tuples.negatives] + of_pair[:, None])
            synthetic: Tensor = self.third(F.relu(self.second(hidden)))
        return synthetic

    def for_both_players(self, features: Tensor, tuples: Tuples) -> tuple[Tensor, Tensor]:
        """The same x̃⁻ `[T, M, F]` twice, by one pass: for the generator's loss and for the metric's.

        The gradient of the first reaches the generator's parameters alone, that of the second the features alone, as
        the chain rule leads through a generator that is held fixed. Differentiable once.

        Args, Raises: as `forward`.
        """
        with torch.autocast(features.device.type, enabled=False):
            rows = self._checked(features)
            # The first layer's own gradients: of its parameters for the one, of the features for the other.
            for_generator = self._first_of_rows(rows.detach())
            parts = self.first.weight.detach().split(self.third.out_features, dim=1)
            for_metric = [F.linear(rows, part) for part in parts] if rows.requires_grad else [None] * 3
            layers = (self.second.weight, self.second.bias, self.third.weight, self.third.bias)
            both: tuple[Tensor, Tensor] = _BothPlayers.apply(tuples, *for_generator, *for_metric, *layers)
        return both

    def _checked(self, features: Tensor) -> Tensor:
        width = self.third.out_features
        if features.dim() != 2 or features.shape[1] != width:
            raise ValueError(f"features: expected [B, {width}], got {list(features.shape)}")
        return features.to(self.first.weight.dtype)

    def _first_of_rows(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The first layer's shares `[B, H]` of each row as x⁻, x and x⁺; the bias is with the last."""
        as_negative, as_anchor, as_positive = self.first.weight.split(self.third.out_features, dim=1)
        return (
            F.linear(features, as_negative),
            F.linear(features, as_anchor),
            F.linear(features, as_positive, self.first.bias),
        )


class _BothPlayers(torch.autograd.Function):
    """The two layers after the first, forward once and backward once for each player."""

    @staticmethod
    def forward(
        ctx: Any, tuples: Tuples, of_negative: Tensor, of_anchor: Tensor, of_positive: Tensor, *rest: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        second, second_bias, third, third_bias = rest[3:]
        assert second is not None and third is not None
        of_pair = of_anchor[tuples.anchor] + of_positive[tuples.positive]
        below = (of_negative[tuples.negatives] + of_pair[:, None]).relu_()
        above = F.linear(below, second, second_bias).relu_()
        synthetic = F.linear(above, third, third_bias)
        ctx.tuples, ctx.rows = tuples, len(of_negative)
        ctx.save_for_backward(below, above, second, third)
        ctx.set_materialize_grads(False)
        return synthetic, synthetic.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, for_generator: Tensor | None, for_metric: Tensor | None) -> Any:
        below, above, second, third = ctx.saved_tensors
        found: list[Tensor | None] = [None] * 11
        if for_generator is not None:
            at_above = torch.where(above > 0, for_generator @ third, 0)
            at_below = torch.where(below > 0, at_above @ second, 0)
            found[1:4] = _to_rows(at_below, ctx.tuples, ctx.rows)
            found[7:] = [*_of_layer(at_above, below), *_of_layer(for_generator, above)]
        if for_metric is not None and any(ctx.needs_input_grad[4:7]):
            at_below = torch.where(below > 0, torch.where(above > 0, for_metric @ third, 0) @ second, 0)
            found[4:7] = _to_rows(at_below, ctx.tuples, ctx.rows)
        return tuple(found)


def _to_rows(gradient: Tensor, tuples: Tuples, rows: int) -> list[Tensor]:
    """From `[T, M, H]` to the rows `[B, H]` that were x⁻, x and x⁺."""
    width = gradient.shape[2]
    of_pair = gradient.sum(1)
    nothing = gradient.new_zeros(rows, width)
    return [
        nothing.index_add(0, tuples.negatives.reshape(-1), gradient.reshape(-1, width)),
        nothing.index_add(0, tuples.anchor, of_pair),
        nothing.index_add(0, tuples.positive, of_pair),
    ]


def _of_layer(gradient: Tensor, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of a linear layer's weight and bias."""
    flat = gradient.reshape(-1, gradient.shape[-1])
    return flat.T @ inputs.reshape(-1, inputs.shape[-1]), flat.sum(0)
