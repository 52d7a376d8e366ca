"""Contrastive loss."""

from __future__ import annotations

from robustdml_ext.losses.pair import PairLoss


class ContrastiveLoss(PairLoss):
    """Contrastive loss (Hadsell et al. 2006): positives pulled within one margin, negatives pushed beyond another.

    L = (1/|P|) Σ_{(i, p) ∈ P} [v_ip − m₊]₊^q + (1/|N|) Σ_{(i, n) ∈ N} [m₋ − v_in]₊^q
    with v the Euclidean distance of two embeddings, or its square, P the ordered pairs of one class, N those of two,
    [x]₊ = max(x, 0). A side without pairs adds 0; NaN embeddings give a loss that is NaN. Computed in float32
    even under autocast (in float64 for float64 embeddings).

    The defaults are those of pytorch-metric-learning: plain distances of unit vectors, and means over the pairs that
    are still inside of their margin (its AvgNonZeroReducer). Hadsell et al. square the hinge: `power=2`, with
    `normalize=False`, up to their factor ½. Equation 8 of DAML squares the distance instead, and sums:
    `squared=True, normalize=False, reduction="sum"`, of ordered pairs (it prints D² − γ for negatives, which would
    pull them closer; γ − D² is meant).

    Args:
        pos_margin: m₊, positives closer than this add nothing.
        neg_margin: m₋, negatives farther than this add nothing.
        power: q, 1 or 2.
        squared: square the distances, which the margins are then compared with.
        normalize: scale embeddings to unit length first.
        reduction: "nonzero": each side over its number of pairs that add something; "mean": each over its number of
            pairs; "sum": over nothing.

    Raises:
        ValueError: power or reduction is another, or a margin is not finite.
    """

    def __init__(
        self,
        pos_margin: float = 0.0,
        neg_margin: float = 1.0,
        power: int = 1,
        squared: bool = False,
        normalize: bool = True,
        reduction: str = "nonzero",
    ) -> None:
        super().__init__("contrastive", normalize=normalize, squared=squared, reduction=reduction)
        self.pos_margin, self.neg_margin, self.power = pos_margin, neg_margin, power
        self.check()

    def numbers(self) -> tuple[float, ...]:
        return self.pos_margin, self.neg_margin, self.power

    def extra_repr(self) -> str:
        return (
            f"pos_margin={self.pos_margin}, neg_margin={self.neg_margin}, power={self.power}, "
            f"squared={self.squared}, normalize={self.normalize}, reduction={self.reduction!r}"
        )
