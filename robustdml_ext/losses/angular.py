"""Angular loss."""

from __future__ import annotations

import math

from torch import Tensor

from robustdml_ext.losses.angular_blocks import Settings, angular_blocks
from robustdml_ext.losses.referenced import ReferencedLoss
from robustdml_ext.ops.pair_loss import check_reference

_FORMS = ("npair", "triplet")


class AngularLoss(ReferencedLoss):
    """Angular loss (Wang et al. 2017), over all positive pairs of a batch with all their negatives.

    With P the ordered pairs (i, p) of one class (i ≠ p), N_i the embeddings of other classes than i's, and
    [x]₊ = max(x, 0):
        "npair": L = (1/|P|) Σ_{(i, p) ∈ P} log(1 + Σ_{n ∈ N_i} exp(4 tan²α (x_i + x_p)ᵀx_n − 2(1 + tan²α) x_iᵀx_p))
        "triplet": L = (1/|T|) Σ_{(i, p, n) ∈ T} [‖x_i − x_p‖² − 4 tan²α ‖x_n − (x_i + x_p)/2‖²]₊
    with T all triplets of such a pair and one of its negatives. A triplet costs nothing where the angle at the
    negative, under which it sees the radius of the circle around the pair's center that the pair is a diameter of, is
    at most α. For unit vectors ‖(x_i + x_p)/2‖² = (1 + x_iᵀx_p)/2, so that what a triplet's hinge holds is the N-pair
    form's exponent plus the constant 2 − 6 tan²α, which that form leaves out; and log(1 + Σ exp) is a smooth maximum
    of 0 and those exponents.

    An anchor without positives or without negatives adds 0; NaN embeddings give a loss that is NaN. Differentiable
    once. Computed in float32 even under autocast (in float64 for float64 embeddings). Neither form holds a tensor of
    pairs times embeddings. What they compute is a row of exponents (hinges) for each pair; in the N-pair form of unit
    vectors at an α of up to about 70°, where classes have more than three embeddings in the batch, a row for each
    embedding, whose products are the pairs' sums.

    Args:
        alpha: α, in degrees, between 0 and 90.
        form: "npair" or "triplet".
        reduction: "mean", over ordered positive pairs or, in the triplet form, triplets; or "sum".
        normalize: scale embeddings to unit length first; a row of zeros stays, with gradient 0.

    Raises:
        ValueError: α is not inside (0, 90), or form or reduction is another.
    """

    def __init__(
        self, alpha: float = 45.0, form: str = "npair", reduction: str = "mean", normalize: bool = True
    ) -> None:
        super().__init__()
        if not 0 < alpha < 90:
            raise ValueError(f"alpha: expected an angle between 0 and 90 degrees, got {alpha}")
        if form not in _FORMS:
            raise ValueError(f"form: expected one of {', '.join(_FORMS)}; got {form!r}")
        if reduction not in ("mean", "sum"):
            raise ValueError(f"reduction: expected mean or sum, got {reduction!r}")
        self.alpha, self.form, self.reduction, self.normalize = alpha, form, reduction, normalize

    def compute(
        self,
        embeddings: Tensor,
        labels: Tensor,
        reference: Tensor | None,
        reference_labels: Tensor | None,
        self_offset: int | None,
    ) -> Tensor:
        offset = -1
        if reference is not None or reference_labels is not None or self_offset is not None:
            offset = check_reference(embeddings, reference, reference_labels, self_offset)
        settings = Settings(
            math.tan(math.radians(self.alpha)) ** 2, self.form == "triplet", self.reduction == "mean", self.normalize
        )
        return angular_blocks(embeddings, labels, reference, reference_labels, offset, settings)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, form={self.form!r}, reduction={self.reduction!r}, normalize={self.normalize}"
