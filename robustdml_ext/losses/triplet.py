"""Triplet loss, over all triplets of a batch or mined ones."""

from __future__ import annotations

from robustdml_ext.losses.pair import PairLoss

_MINING = ("all", "semihard", "hardest")


class TripletLoss(PairLoss):
    """Triplet loss (Schroff et al. 2015), as in equation 8 of ECAML and equation 9 of DAML, exact over all triplets.

    L = (1/|T|) Σ_{(i, p, n) ∈ T} [v_ip − v_in + m]₊
    with v the squared Euclidean distance (or the plain one), p of anchor i's class and not i, n of another class,
    [x]₊ = max(x, 0), and T by `mining`:
        "all": every triplet (batch all, Hermans et al. 2017);
        "semihard": those with v_ip < v_in < v_ip + m, every one of them, not one drawn for each pair;
        "hardest": for each anchor its farthest positive and its nearest negative (batch hard, Hermans et al. 2017).
    All triplets of a batch cost O(B² log B), not B³, and their number has no limit. A loss over no triplets is
    0, with gradient 0; NaN embeddings give a loss that is NaN. Computed in float32 even under autocast (in
    float64 for float64 embeddings).

    Defaults are ECAML's: unit vectors, squared distances, m = 0.1. DAML: `margin=1, normalize=False`.

    Args:
        margin: m.
        mining: "all", "semihard" or "hardest".
        squared: square the distances, which the margin is then compared with.
        normalize: scale embeddings to unit length first.
        reduction: "nonzero": over the number of triplets that add something (as pytorch-metric-learning does it: easy
            triplets, soon nearly all, do not dilute the gradient); "mean": over the number of triplets in T;
            "sum": over nothing (as the equations are printed).

    Raises:
        ValueError: mining or reduction is another, or the margin is not finite.
    """

    def __init__(
        self,
        margin: float = 0.1,
        mining: str = "all",
        squared: bool = True,
        normalize: bool = True,
        reduction: str = "nonzero",
    ) -> None:
        if mining not in _MINING:
            raise ValueError(f"mining: expected one of {', '.join(_MINING)}; got {mining!r}")
        super().__init__(f"triplet_{mining}", normalize=normalize, squared=squared, reduction=reduction)
        self.margin, self.mining = margin, mining
        self.check()

    def numbers(self) -> tuple[float, ...]:
        return (self.margin,)

    def extra_repr(self) -> str:
        return (
            f"margin={self.margin}, mining={self.mining!r}, squared={self.squared}, "
            f"normalize={self.normalize}, reduction={self.reduction!r}"
        )
