"""Batch normalization with separate parameters and statistics for each of K distributions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from robustdml_ext import ops


class NormContext:
    """Which rows of the batch belong to which distribution; shared by all norm layers of a network.

    The owner of the network sets it around a pass (`use`); outside of one, every row belongs to distribution
    0.

    Attributes:
        distributions: how many there are, K.
        segments: the K sizes of the pass now running, or None.
        group: process group that training statistics span, or None for this process alone. Not copied, not
            pickled.
    """

    def __init__(self, distributions: int) -> None:
        if distributions < 1:
            raise ValueError(f"distributions: expected a number >= 1, got {distributions}")
        self.distributions = distributions
        self.segments: list[int] | None = None
        self.group: torch.distributed.ProcessGroup | None = None

    @contextmanager
    def use(self, segments: Sequence[int]) -> Iterator[None]:
        """Sets the segments of the passes inside the `with` block.

        Raises:
            ValueError: there are not K segments.
        """
        if len(segments) != self.distributions:
            raise ValueError(f"segments: expected {self.distributions} sizes, one a distribution, got {list(segments)}")
        before, self.segments = self.segments, list(segments)
        try:
            yield
        finally:
            self.segments = before

    def sizes(self, rows: int) -> list[int]:
        """The K segment sizes of a batch of `rows`."""
        return [rows] + [0] * (self.distributions - 1) if self.segments is None else self.segments

    def __getstate__(self) -> dict[str, Any]:
        return {"distributions": self.distributions, "segments": None, "group": None}


class DistributionNorm(nn.Module):
    """`torch.nn.BatchNorm` for K distributions: θ_b^1 … θ_b^K of MDProp's Algorithm 1, all in one pass.

    Each segment of the batch is normalized by its own distribution's statistics, γ and β; which rows are
    whose is in `context`. A distribution without rows in a pass keeps its statistics.

    Attributes:
        weight, bias: γ and β, `[K, C]`; None where `affine` is False.
        running_mean, running_var: `[K, C]`; None where the layer tracks none.
        num_batches_tracked: int64 `[K]`.
        frozen: normalize by the running statistics in training mode too ("frozen batch norm"); γ and β still
            train.
        track_running_stats: as in `torch.nn.BatchNorm2d`: False in training normalizes by the batch and
            updates nothing.

    Args:
        num_features: channels C.
        context: the network's shared `NormContext`.
        eps: added to the variance.
        momentum: weight of the new statistics; None for the mean over all batches, each distribution by its
            own count.
        affine, track_running_stats: as in `torch.nn.BatchNorm2d`.
        plain_type: the class that `plain` gives back.
    """

    weight: Tensor | None
    bias: Tensor | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None
    _unit_weight: Tensor | None
    _zero_bias: Tensor | None

    def __init__(
        self,
        num_features: int,
        context: NormContext,
        *,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        plain_type: type[nn.Module] = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        self.num_features = num_features
        self.context = context
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.plain_type = plain_type
        self.frozen = False
        shape = (context.distributions, num_features)
        self.register_parameter("weight", nn.Parameter(torch.ones(shape)) if affine else None)
        self.register_parameter("bias", nn.Parameter(torch.zeros(shape)) if affine else None)
        self.register_buffer("_unit_weight", None if affine else torch.ones(shape), persistent=False)
        self.register_buffer("_zero_bias", None if affine else torch.zeros(shape), persistent=False)
        tracked = track_running_stats
        self.register_buffer("running_mean", torch.zeros(shape) if tracked else None)
        self.register_buffer("running_var", torch.ones(shape) if tracked else None)
        counts = torch.zeros(context.distributions, dtype=torch.int64)
        self.register_buffer("num_batches_tracked", counts if tracked else None)

    @classmethod
    def from_plain(cls, norm: nn.modules.batchnorm._BatchNorm, context: NormContext) -> DistributionNorm:
        """A layer whose K distributions all start from `norm`: its γ, its β *and* its running statistics."""
        made = cls(
            norm.num_features, context, eps=norm.eps, momentum=norm.momentum, affine=norm.affine,
            track_running_stats=norm.track_running_stats, plain_type=type(norm),
        )  # fmt: skip
        reference = norm.weight if norm.affine else norm.running_mean
        if reference is not None:
            made.to(reference.device, reference.dtype)
        with torch.no_grad():
            for name, target in [*made.named_parameters(), *made.named_buffers()]:
                source = getattr(norm, name, None)
                if source is not None:
                    target.copy_(source)
                    target.requires_grad_(source.requires_grad)
        made.train(norm.training)
        return made

    @property
    def only_norm(self) -> bool:
        """Whether nothing follows the norm inside of the layer, so that a sum or a ReLU after it can be fused."""
        return True

    def plain(self, distribution: int = 0) -> nn.Module:
        """The plain batch norm layer of one distribution.

        Raises:
            IndexError: there is no such distribution.
        """
        check_distribution(distribution, self.context.distributions)
        made = self.plain_type(
            self.num_features, eps=self.eps, momentum=self.momentum, affine=self.affine,
            track_running_stats=self.track_running_stats,
        )  # fmt: skip
        reference = self.weight if self.affine else self.running_mean
        if reference is not None:
            made.to(reference.device, reference.dtype)
        with torch.no_grad():
            for name, target in [*made.named_parameters(), *made.named_buffers()]:
                source = getattr(self, name)
                target.copy_(source[distribution])
                target.requires_grad_(source.requires_grad)
        return made.train(self.training)

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """Normalizes `input` `[N, C, *]`; then adds `residual`, then cuts at 0, where asked.

        Raises:
            ValueError: the context's segments do not add up to N, or shapes do not fit.
        """
        if input.dim() == 5:
            shape = input.shape
            flat = self(input.flatten(2), None if residual is None else residual.flatten(2), relu)
            return flat.reshape(shape)  # type: ignore[no-any-return]
        sizes = self.context.sizes(input.shape[0])
        by_batch = self.running_mean is None or (self.training and not self.frozen)
        update = by_batch and self.training and self.track_running_stats and self.running_mean is not None
        mean, variance = self.running_mean, self.running_var
        momentum = 0.1 if self.momentum is None else self.momentum
        if by_batch and not update:
            mean = variance = None
        if update:
            assert mean is not None and variance is not None
            self._count(sizes)
            if self.momentum is None:
                # The batch's own statistics come out of the operator through scratch copies with a momentum
                # of 1.
                mean, variance, momentum = mean.clone(), variance.clone(), 1.0
        weight, bias = self.weight, self.bias
        if weight is None or bias is None:
            assert self._unit_weight is not None and self._zero_bias is not None
            # Constants have no precision of their own, and follow the input's.
            statistics_type = torch.promote_types(input.dtype, torch.float32)
            weight, bias = self._unit_weight.to(statistics_type), self._zero_bias.to(statistics_type)
        output = ops.distribution_norm(
            input,
            weight,
            bias,
            mean,
            variance,
            sizes,
            training=by_batch,
            momentum=momentum,
            eps=self.eps,
            residual=None if residual is None else residual.to(input.dtype),
            relu=relu,
            group=self.context.group if self.training and by_batch else None,
        )
        if update and self.momentum is None:
            self._average(mean, variance)  # type: ignore[arg-type]
        return output

    def _count(self, sizes: Sequence[int]) -> None:
        assert self.num_batches_tracked is not None
        if all(sizes):
            self.num_batches_tracked.add_(1)
            return
        for k, size in enumerate(sizes):
            if size:
                self.num_batches_tracked[k].add_(1)

    @torch.no_grad()
    def _average(self, mean: Tensor, variance: Tensor) -> None:
        """Running means over all batches so far, each distribution with its own number of them."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        share = 1.0 / self.num_batches_tracked.clamp(min=1).to(mean.dtype)[:, None]
        # A distribution without rows has mean equal to its running mean, and so stays.
        self.running_mean.add_((mean - self.running_mean) * share)
        self.running_var.add_((variance - self.running_var) * share)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, distributions={self.context.distributions}, eps={self.eps}, "
            f"momentum={self.momentum}, affine={self.affine}, track_running_stats={self.track_running_stats}"
        )


def check_distribution(distribution: int, distributions: int) -> None:
    """Raises IndexError where there is no such distribution."""
    if not 0 <= distribution < distributions:
        raise IndexError(f"distribution: expected one of 0 to {distributions - 1}, got {distribution}")
