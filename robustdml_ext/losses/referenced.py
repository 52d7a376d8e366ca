"""What losses over a batch have in common where it may be compared with a reference set instead of itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.losses.embeddings import check_batch


class ReferencedLoss(nn.Module):
    """A loss of a batch, or of a batch against a memory of earlier ones; without parameters of its own."""

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
        return self.compute(embeddings, labels, reference, reference_labels, self_offset)

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None,
        reference_labels: Tensor | None,
        self_offset: int | None,
    ) -> Tensor:
        """The loss of a checked batch; the reference is checked here."""
        raise NotImplementedError

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the loss's own parameters: none."""
        return []
