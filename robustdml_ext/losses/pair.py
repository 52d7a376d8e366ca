"""What the losses over pairs and triplets of a batch share: they are kinds of one operator."""

from __future__ import annotations

from torch import Tensor

from robustdml_ext.losses.referenced import ReferencedLoss
from robustdml_ext.ops.pair_loss import check_kind, pair_loss


class PairLoss(ReferencedLoss):
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

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None,
        reference_labels: Tensor | None,
        self_offset: int | None,
    ) -> Tensor:
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


def check_above_zero(**numbers: float) -> None:
    """Raises ValueError, with its name, where a number is not above 0."""
    for name, value in numbers.items():
        if not value > 0:
            raise ValueError(f"{name}: expected a number above 0, got {value}")
