"""N-pair loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.losses.embeddings import full_precision
from robustdml_ext.losses.pair import PairLoss, check_above_zero


class NPairLoss(PairLoss):
    """N-pair loss (Sohn 2016) with all negatives of the batch, as in equation 9 of ECAML.

    L = (1/|P|) Σ_{(i, p) ∈ P} log(1 + Σ_{n: y_n ≠ y_i} exp(x_iᵀx_n − x_iᵀx_p))
    with P the ordered pairs of one class (i ≠ p). Where a batch holds two embeddings of each class, as in the papers,
    that is one positive an anchor. The equation as printed sums: `reduction="sum"`.
    Similarities are inner products of the embeddings as they are: Sohn bounds their length by a penalty (add one
    where it is wanted), as unit vectors leave the exponents too narrow a range. ECAML's published code scales all of
    them to the length 10 (`scale=10`): energy confusion, which shortens the head's output, then leaves the exponents
    alone.
    An anchor without positives or without negatives adds 0; NaN embeddings give a loss that is NaN. Computed
    in float32 even under autocast (in float64 for float64 embeddings).

    Args:
        reduction: "mean" or "sum".
        normalize: scale embeddings to unit length first.
        scale: scale embeddings to this length first; None: no other than `normalize` says.

    Raises:
        ValueError: the reduction is another, or the scale is not above 0.
    """

    def __init__(self, reduction: str = "mean", normalize: bool = False, scale: float | None = None) -> None:
        super().__init__("npair", normalize=normalize and scale is None, squared=False, reduction=reduction)
        if scale is not None:
            check_above_zero(scale=scale)
        self.scale = scale
        self.check()

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None,
        reference_labels: Tensor | None,
        self_offset: int | None,
    ) -> Tensor:
        if self.scale is not None:
            embeddings = self.scale * F.normalize(full_precision(embeddings), dim=1)
            reference = None if reference is None else self.scale * F.normalize(full_precision(reference), dim=1)
        return super().compute(embeddings, labels, reference, reference_labels, self_offset)

    def numbers(self) -> tuple[float, ...]:
        return ()

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, normalize={self.normalize}, scale={self.scale}"
