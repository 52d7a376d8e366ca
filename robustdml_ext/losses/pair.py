"""What the losses over pairs and triplets of a batch share: they are kinds of one operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.losses.embeddings import check_batch
from robustdml_ext.ops.pair_loss import check_kind, pair_loss


class PairLoss(nn.Module):
    """A loss that `ops.pair_loss` computes: no tensor of pairs or triplets in memory.

    A subclass sets its own numbers as attributes, and says by `numbers` how the operator takes them.

    Args:
        kind: the operator's name of the loss.
        normalize: scale embeddings to unit length first.
        squared: square the distances.
        reduction: "mean", "sum" or, where the loss is a hinge, "nonzero".

    Raises:
        ValueError: the kind has no such reduction or number.
    """

    def __init__(self, kind: str, normalize: bool, squared: bool, reduction: str) -> None:
        super().__init__()
        self.kind, self.normalize, self.squared, self.reduction = kind, normalize, squared, reduction

    def numbers(self) -> tuple[float, ...]:
        """The operator's parameters."""
        raise NotImplementedError

    def check(self) -> None:
        """Checks the loss's own settings; for the end of a subclass's `__init__`."""
        check_kind(self.kind, self.numbers(), self.squared, self.reduction)

    def forward(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None = None,
        reference_labels: Tensor | None = None,
        self_offset: int | None = None,
    ) -> Tensor:
        """Scalar loss of embeddings `[B, D]` with labels int64 `[B]`, float32 or, for float64 embeddings, float64.

        Without a reference each embedding, as the anchor, is compared with the others of its batch.

        Args:
            embeddings: `[B, D]`, B >= 1.
            labels: int64 `[B]`.
            reference: `[M, D]`, what anchors are compared with instead: a memory of earlier batches, or the gathered
                batches of all processes. Gradients reach it where it asks for them.
            reference_labels: int64 `[M]`.
            self_offset: anchor i is row `self_offset + i` of the reference, and is not compared with itself. None:
                anchors are not in the reference.

        Raises:
            TypeError, ValueError: an argument of another type or shape.
        """
        check_batch(embeddings, labels)
        if isinstance(reference, Tensor) and reference.dtype != embeddings.dtype:
            # A memory is often kept in float32 where autocast makes half-precision embeddings.
            common = torch.promote_types(embeddings.dtype, reference.dtype)
            embeddings, reference = embeddings.to(common), reference.to(common)
        return pair_loss(
            embeddings,
            labels,
            self.kind,
            parameters=self.numbers(),
            reference=reference,
            reference_labels=reference_labels,
            self_offset=self_offset,
            normalize=self.normalize,
            squared=self.squared,
            reduction=self.reduction,
        )

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: none."""
        return []


def check_above_zero(**numbers: float) -> None:
    """Raises ValueError, with its name, where a number is not above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
