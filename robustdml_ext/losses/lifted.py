"""Lifted structure loss."""

from __future__ import annotations

from robustdml_ext.losses.pair import PairLoss


class LiftedStructureLoss(PairLoss):
    """Lifted structured feature embedding (Song et al. 2016), their smooth bound.

    L = 1/(2|P|) Σ_{(i, p) ∈ P} [ J_ip ]₊²
    J_ip = log( Σ_{n: y_n ≠ y_i} exp(m₋ − d_in) + Σ_{l: y_l ≠ y_p} exp(m₋ − d_lp) ) + d_ip − m₊
    with d the Euclidean distance, P the pairs of one class, [x]₊ = max(x, 0). Both sums together being empty, the
    pair adds 0. With a reference set l runs over the anchors.
    DAML (equations 10 and 11) prints the bound that this one smooths, with the maximum in place of the logarithm.
    NaN embeddings give a loss that is NaN. Computed in float32 even under autocast (in float64 for float64
    embeddings).

    Embeddings are scaled to unit length first, as pytorch-metric-learning does it; Song et al. leave them as they are:
    `normalize=False`.

    Args:
        neg_margin: m₋ (α in Song et al.).
        pos_margin: m₊; 0 in Song et al.
        normalize: scale embeddings to unit length first.
        reduction: "mean" over ordered pairs (the same mean as over unordered ones), or "sum" over them.

    Raises:
        ValueError: the reduction is another, or a margin is not finite.
    """

    def __init__(
        self, neg_margin: float = 1.0, pos_margin: float = 0.0, normalize: bool = True, reduction: str = "mean"
    ) -> None:
        super().__init__("lifted", normalize=normalize, squared=False, reduction=reduction)
        self.neg_margin, self.pos_margin = neg_margin, pos_margin
        self.check()

    def numbers(self) -> tuple[float, ...]:
        return self.neg_margin, self.pos_margin

    def extra_repr(self) -> str:
        return (
            f"neg_margin={self.neg_margin}, pos_margin={self.pos_margin}, "
            f"normalize={self.normalize}, reduction={self.reduction!r}"
        )
