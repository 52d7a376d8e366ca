"""Multi-similarity loss."""

from __future__ import annotations

from robustdml_ext.losses.pair import PairLoss, check_above_zero


class MultiSimilarityLoss(PairLoss):
    """Multi-similarity loss (Wang et al. 2019), as in equations 14 and 15 of MDProp, appendix C.1.1.

    With s_ij the cosine similarity, positives P_i (same class, j ≠ i) and negatives N_i of anchor i, pairs
    are mined:
        a negative k counts where s_ik > min_{j ∈ P_i} s_ij − ε,
        a positive j counts where s_ij < max_{k ∈ N_i} s_ik + ε,
    and over the pairs that count
        L = (1/B) Σ_i [ (1/α) log(1 + Σ_j exp(−α(s_ij − λ))) + (1/β) log(1 + Σ_k exp(β(s_ik − λ))) ].
    The paper prints 1/B before the first sum alone and calls a pair that does not count 0; as in Wang et al., whom it
    cites, both sums are means over the anchors, and such pairs are left out.
    An anchor without positives or without negatives has no pair that counts, and adds 0; a batch of such
    anchors has loss 0, with gradient 0. Embeddings that are NaN give a loss that is NaN. Computed in float32
    even under autocast (in float64 for float64 embeddings).

    With a reference set (see `forward`) P_i and N_i are its members instead of the batch's.

    Args:
        alpha: α, sharpness over positives.
        beta: β, sharpness over negatives.
        base: λ, the similarity that pairs are compared with.
        epsilon: ε, slack of the mining.

    Raises:
        ValueError: α or β is not above 0.
    """

    def __init__(self, alpha: float = 2.0, beta: float = 40.0, base: float = 0.5, epsilon: float = 0.1) -> None:
        super().__init__("multi_similarity", normalize=True, squared=False, reduction="mean")
        check_above_zero(alpha=alpha, beta=beta)
        self.alpha, self.beta, self.base, self.epsilon = alpha, beta, base, epsilon
        self.check()

    def numbers(self) -> tuple[float, ...]:
        return self.alpha, self.beta, self.base, self.epsilon

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, beta={self.beta}, base={self.base}, epsilon={self.epsilon}"
