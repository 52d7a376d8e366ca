"""N-pair loss."""

from __future__ import annotations

from robustdml_ext.losses.pair import PairLoss


class NPairLoss(PairLoss):
    """N-pair loss (Sohn 2016) with all negatives of the batch, as in equation 9 of ECAML.

    L = (1/|P|) Σ_{(i, p) ∈ P} log(1 + Σ_{n: y_n ≠ y_i} exp(x_iᵀx_n − x_iᵀx_p))
    with P the ordered pairs of one class (i ≠ p). Where a batch holds two embeddings of each class, as in the papers,
    that is one positive an anchor. The equation as printed sums: `reduction="sum"`.
    Similarities are inner products of the embeddings as they are: Sohn bounds their length by a penalty (add one
    where it is wanted), as unit vectors leave the exponents too narrow a range.
    An anchor without positives or without negatives adds 0; NaN embeddings give a loss that is NaN. Computed
    in float32 even under autocast (in float64 for float64 embeddings).

    Args:
        reduction: "mean" or "sum".
        normalize: scale embeddings to unit length first.

    Raises:
        ValueError: the reduction is another.
    """

    def __init__(self, reduction: str = "mean", normalize: bool = False) -> None:
        super().__init__("npair", normalize=normalize, squared=False, reduction=reduction)
        self.check()

    def numbers(self) -> tuple[float, ...]:
        return ()

    def extra_repr(self) -> str:
        return f"reduction={self.reduction!r}, normalize={self.normalize}"
