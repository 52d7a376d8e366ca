"""What a training pass makes of a batch: embeddings, and for losses that look behind them features and head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.methods.context import Context
from robustdml_ext.models import Embedder


class SharedHead:
    """The embedder's head, for features that it has not made itself, or not with these gradients.

    Every process computes the loss of the whole batch, so the gradient that comes to the head's parameters this way is
    whole in each of them; it is divided by their number, as the gradients of the network are summed.

    Args:
        embedder: whose head it is.
        context: this process among those that share the batch.
    """

    def __init__(self, embedder: Embedder, context: Context) -> None:
        self._embedder, self._share = embedder, 1 / context.world_size

    def outputs(self, features: Tensor, *, fixed: bool = False) -> Tensor:
        """The head's output `[…, D]` before any normalization, for features `[…, F]` of the whole batch.

        Args:
            features: `[…, F]`.
            fixed: gradients reach the features alone, not the head's parameters.
        """
        head = self._embedder.head
        weight, bias = (self._parameter(parameter, fixed) for parameter in (head.weight, head.bias))
        # In the head's own precision even under autocast, as the embedder does it.
        with torch.autocast(features.device.type, enabled=False):
            return F.linear(features.to(weight.dtype), weight, bias)

    def embeddings(self, features: Tensor, *, fixed: bool = False) -> Tensor:
        """Embeddings `[…, D]`, as `outputs`, of unit length where the embedder's are."""
        return self.finish(self.outputs(features, fixed=fixed))

    def finish(self, outputs: Tensor) -> Tensor:
        """Outputs `[…, D]` of this head, or of another beside it, scaled to unit length where the embedder's are."""
        return self._embedder.finish(outputs)

    def _parameter(self, parameter: Tensor, fixed: bool) -> Tensor:
        if fixed:
            return parameter.detach()
        return parameter if self._share == 1 else _ScaleGradient.apply(parameter, self._share)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return gradients[0] * ctx.factor, None


@dataclass(frozen=True)
class Embedded:
    """A batch as the network sees it.

    Attributes:
        embeddings: of all processes, `[B, D]`.
        own: of this process's images, `[b, D]`.
        features: of all processes, before the head, `[B, F]`; None where no loss asks for them.
        head: the network's.
    """

    embeddings: Tensor
    own: Tensor
    features: Tensor | None
    head: SharedHead


def embed_streams(
    embedder: Embedder,
    images: Tensor,
    count: int,
    context: Context,
    *,
    segments: Sequence[int] | None = None,
    features: bool = False,
) -> list[Embedded]:
    """One joint training pass over `count` streams, `[count·b, C, H, W]`, stream after stream.

    Args:
        images: this process's, `b` of each stream.
        count: how many streams.
        context: this process among those that share the batch.
        segments: the images' sizes over the embedder's distributions; None: all of the clean one.
        features: whether a loss will ask for the features.
    """
    found = None
    if features:
        embeddings, found = embedder(images, segments=segments, with_features=True)
    else:
        embeddings = embedder(images, segments=segments)
    head = SharedHead(embedder, context)
    whole = split_streams(embeddings, count, context)
    behind = [None] * count if found is None else split_streams(found, count, context)
    return [
        Embedded(rows, own, below, head)
        for rows, own, below in zip(whole, embeddings.chunk(count), behind, strict=True)
    ]


def join(streams: Sequence[Embedded]) -> Embedded:
    """Several streams of one pass as one batch, one after the other."""
    features = [stream.features for stream in streams if stream.features is not None]
    return Embedded(
        torch.cat([stream.embeddings for stream in streams]),
        torch.cat([stream.own for stream in streams]),
        torch.cat(features) if features else None,
        streams[0].head,
    )


def split_streams(rows: Tensor, count: int, context: Context) -> list[Tensor]:
    """Rows `[count·b, D]` of a joint pass → those of each stream over all processes, `[B, D]` each.

    Raises:
        ValueError: there are none.
    """
    own = len(rows) // count
    if not own:
        raise ValueError("batch: expected at least one image, got none")
    by_image = rows.reshape(count, own, -1).transpose(0, 1)
    return list(context.gather(by_image).unbind(1))
