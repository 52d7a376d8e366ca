"""Binomial deviance loss."""

from __future__ import annotations

from robustdml_ext.losses.pair import PairLoss, check_above_zero


class BinomialDevianceLoss(PairLoss):
    """Binomial deviance (Yi et al. 2014), as in equation 10 of ECAML.

    L = (1/|P|) Σ_{(i, p) ∈ P} log(1 + exp(−α(s_ip − β))) + (1/|N|) Σ_{(i, n) ∈ N} log(1 + exp(αη(s_in − β)))
    with s the cosine similarity, P the ordered pairs of one class (i ≠ p), N those of two. The equation as printed
    sums: `reduction="sum"`. The default weighs each side by its number of pairs, as Yi et al. do, so that the many
    negatives of a batch do not drown its positives, and the loss does not grow with the batch.
    A side without pairs adds 0; NaN embeddings give a loss that is NaN. Computed in float32 even under
    autocast (in float64 for float64 embeddings).

    Args:
        alpha: α, sharpness.
        beta: β, the similarity that pairs are compared with.
        eta: η, the penalty of negatives (of positives it is 1).
        reduction: "mean" or "sum".

    Raises:
        ValueError: α or η is not above 0, or the reduction is another.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 0.5, eta: float = 25.0, reduction: str = "mean") -> None:
        super().__init__("binomial", normalize=True, squared=False, reduction=reduction)
        check_above_zero(alpha=alpha, eta=eta)
        self.alpha, self.beta, self.eta = alpha, beta, eta
        self.check()

    def numbers(self) -> tuple[float, ...]:
        return self.alpha, self.beta, self.eta

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, eta={self.eta}, reduction={self.reduction!r}"
