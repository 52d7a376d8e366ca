"""Losses over all pairs of a batch (or of a batch and a reference set), without a tensor of pairs in memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._pair_loss_reference import pair_loss_backward_reference, pair_loss_reference
from robustdml_ext.ops._registration import below_autograd, define, register_autograd


class _Kind(NamedTuple):
    parameters: tuple[str, ...]
    squared: bool = False  # may the distances be squared?
    nonzero: bool = False  # may terms of 0 be left out of the mean?


_KINDS = {
    "contrastive": _Kind(("pos_margin", "neg_margin", "power"), squared=True, nonzero=True),
    "binomial": _Kind(("alpha", "beta", "eta")),
    "npair": _Kind(()),
    "lifted": _Kind(("neg_margin", "pos_margin")),
    "triplet_all": _Kind(("margin",), squared=True, nonzero=True),
    "triplet_semihard": _Kind(("margin",), squared=True, nonzero=True),
    "triplet_hardest": _Kind(("margin",), squared=True, nonzero=True),
    "multi_similarity": _Kind(("alpha", "beta", "base", "epsilon")),
}

_ARGUMENTS = (
    "Tensor embeddings, Tensor labels, Tensor? reference, Tensor? reference_labels, int self_offset, str kind, "
    "float[] parameters, bool normalize, bool squared, str reduction"
)


def _fake(embeddings: Tensor, labels: Tensor, reference: Tensor | None, *_: Any) -> tuple[Tensor, Tensor]:
    rows = embeddings.shape[0] + (0 if reference is None else reference.shape[0]) + 1
    loss = embeddings.new_empty((), dtype=torch.promote_types(embeddings.dtype, torch.float32))
    return loss, embeddings.new_empty((4, rows), dtype=torch.float64)


def _backward_fake(
    grad: Tensor, embeddings: Tensor, labels: Tensor, reference: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    grad_reference = embeddings.new_empty((0, embeddings.shape[1]))
    if reference is not None and rest[-1]:
        grad_reference = torch.empty_like(reference, memory_format=torch.contiguous_format)
    return torch.empty_like(embeddings, memory_format=torch.contiguous_format), grad_reference


_pair_loss = define(f"pair_loss({_ARGUMENTS}) -> (Tensor loss, Tensor saved)", pair_loss_reference, _fake)
_pair_loss_backward = define(
    f"pair_loss_backward(Tensor grad, {_ARGUMENTS}, Tensor saved, bool reference_gradient)"
    " -> (Tensor grad_embeddings, Tensor grad_reference)",
    pair_loss_backward_reference,
    _backward_fake,
)


class _PairLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        loss, saved = below_autograd(_pair_loss, *arguments)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(saved)
        ctx.save_for_backward(*arguments[:4], saved)
        ctx.settings = arguments[4:]
        return loss, saved

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> Any:
        of_embeddings, _, of_reference, *others = ctx.needs_input_grad
        nothing = (None,) * len(others)
        if grad is None:
            return None, None, None, *nothing
        *tensors, saved = ctx.saved_tensors
        arguments = (grad, *tensors, *ctx.settings, saved, of_reference)
        if torch.is_grad_enabled():  # create_graph=True
            grad_embeddings, grad_reference = _GradientOnce.apply(arguments, grad, tensors[0], tensors[2])
        else:
            grad_embeddings, grad_reference = _pair_loss_backward(*arguments)
        return grad_embeddings if of_embeddings else None, None, grad_reference if of_reference else None, *nothing


class _GradientOnce(torch.autograd.Function):
    """The gradient as a function whose own derivative is an error, not silently nothing."""

    @staticmethod
    def forward(ctx: Any, arguments: tuple[Any, ...], *_: Tensor | None) -> Any:
        return below_autograd(_pair_loss_backward, *arguments)

    @staticmethod
    def backward(ctx: Any, *_: Tensor | None) -> Any:
        raise RuntimeError("pair_loss: differentiable once; its gradient was differentiated")


register_autograd(_pair_loss, _PairLoss)


def pair_loss(
    embeddings: Tensor,
    labels: Tensor,
    kind: str,
    *,
    parameters: Sequence[float] = (),
    reference: Tensor | None = None,
    reference_labels: Tensor | None = None,
    self_offset: int | None = None,
    normalize: bool = False,
    squared: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """A metric loss over all pairs (or triplets) of a batch; memory O((B + M)·D), never B×M.

    Anchor i, an embedding x_i, is compared with all embeddings y_j of the batch but itself, or, where given, with a
    reference set: a memory of earlier batches, or the batches of all processes. With s_ij = ⟨x_i, y_j⟩,
    d_ij = ‖x_i − y_j‖, v_ij = d_ij² where `squared`, else d_ij; P_i the others of the anchor's label, N_i those of
    other labels; [x]₊ = max(x, 0):

    | kind | parameters | loss |
    |---|---|---|
    | contrastive | pos_margin, neg_margin, power 1 or 2 | Σ_i Σ_{p∈P_i} [v_ip − pos_margin]₊^power, and Σ_i Σ_{n∈N_i} [neg_margin − v_in]₊^power |
    | binomial | alpha, beta, eta | Σ_i Σ_{p∈P_i} log(1 + exp(−alpha(s_ip − beta))), and Σ_i Σ_{n∈N_i} log(1 + exp(alpha·eta(s_in − beta))) (ECAML, equation 10) |
    | npair | | Σ_i Σ_{p∈P_i} log(1 + Σ_{n∈N_i} exp(s_in − s_ip)) (ECAML, equation 9) |
    | lifted | neg_margin, pos_margin | Σ_i Σ_{p∈P_i} ½ [log(Σ_{n∈N_i} exp(neg_margin − d_in) + Σ_l exp(neg_margin − d_lp)) + d_ip − pos_margin]₊², l: anchors of other labels than p's (Song et al. 2016) |
    | triplet_all | margin | Σ_i Σ_{p∈P_i} Σ_{n∈N_i} [v_ip − v_in + margin]₊ |
    | triplet_semihard | margin | the same over triplets with v_ip < v_in < v_ip + margin (Schroff et al. 2015) |
    | triplet_hardest | margin | Σ_i [max_{p∈P_i} v_ip − min_{n∈N_i} v_in + margin]₊ over anchors with both (Hermans et al. 2017) |
    | multi_similarity | alpha, beta, base, epsilon | Σ_i (1/alpha) log(1 + Σ_p exp(−alpha(s_ip − base))) + (1/beta) log(1 + Σ_n exp(beta(s_in − base))), over p ∈ P_i with s_ip < max_{N_i} s + epsilon and n ∈ N_i with s_in > min_{P_i} s − epsilon (MDProp, equations 14 and 15) |

    `reduction="mean"` divides by the number of terms: ordered pairs (contrastive and binomial: positive and negative
    pairs each by their own number), (i, p) pairs (npair, lifted), triplets (all; semi-hard ones), anchors with both
    sides (triplet_hardest), all B anchors (multi_similarity). `"nonzero"` (contrastive and triplet) leaves terms of 0
    out of that number. `"sum"` divides by nothing. A loss over nothing is 0, with gradient 0; the slope of d at d = 0
    is taken as 0, ties of triplet_hardest go to the smallest index, and NaN embeddings give a loss that is NaN.
    Differentiable once, towards `embeddings` and `reference`. Computed in float32 even under autocast (in float64 for
    float64 embeddings).

    Args:
        embeddings: x, `[B, D]`, float32, float64, float16 or bfloat16.
        labels: int64 `[B]`.
        kind: which loss, from the table.
        parameters: its numbers, in the table's order.
        reference: y, `[M, D]`, dtype and device as `embeddings`. None: the embeddings themselves.
        reference_labels: int64 `[M]`, where there is a reference.
        self_offset: anchor i is row `self_offset + i` of the reference, of the same label, and not compared with it.
            None: anchors are not in the reference.
        normalize: scale rows to unit length first; a row of zeros stays, with gradient 0.
        squared: square the distances (contrastive and triplet).
        reduction: "mean", "sum" or "nonzero".

    Returns:
        The loss, a scalar: float32, for float64 embeddings float64.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes do not fit, kind or reduction is another, or parameters are not the kind's.
    """  # noqa: E501
    _check.tensor("embeddings", embeddings, rank=2)
    _check.tensor("labels", labels, dtypes=(torch.int64,))
    if labels.dim() != 1 or labels.shape[0] != embeddings.shape[0] or labels.device != embeddings.device:
        raise ValueError(
            f"labels: expected [B] with B = {embeddings.shape[0]} on {embeddings.device}, got {_check.describe(labels)}"
        )
    numbers = check_kind(kind, parameters, squared, reduction)
    offset = -1
    if reference is not None or reference_labels is not None or self_offset is not None:
        offset = check_reference(embeddings, reference, reference_labels, self_offset)
    result: Tensor = _pair_loss(
        embeddings, labels, reference, reference_labels, offset, kind, numbers, normalize, squared, reduction
    )[0]
    return result


def check_kind(kind: str, parameters: Sequence[float], squared: bool, reduction: str) -> list[float]:
    """Checks what of a loss does not depend on the batch, as `pair_loss` does; returns its parameters.

    Raises:
        ValueError: as in `pair_loss`.
    """
    facts = _KINDS.get(kind)
    if facts is None:
        raise ValueError(f"kind: expected one of {', '.join(_KINDS)}; got {kind!r}")
    numbers = [float(number) for number in parameters]
    if len(numbers) != len(facts.parameters) or not all(map(math.isfinite, numbers)):
        names = ", ".join(facts.parameters) or "none"
        raise ValueError(f"parameters: expected finite numbers for {kind}: {names}; got {parameters!r}")
    if kind == "contrastive" and numbers[2] not in (1, 2):
        raise ValueError(f"power: expected 1 or 2, got {numbers[2]}")
    if kind == "multi_similarity" and not (numbers[0] > 0 and numbers[1] > 0):
        raise ValueError(f"parameters: expected alpha and beta above 0, got {numbers[0]} and {numbers[1]}")
    if squared and not facts.squared:
        raise ValueError(f"squared: {kind} has no squared distances")
    if reduction not in ("mean", "sum") and not (reduction == "nonzero" and facts.nonzero):
        expected = "mean, sum or nonzero" if facts.nonzero else "mean or sum"
        raise ValueError(f"reduction: expected {expected} for {kind}, got {reduction!r}")
    return numbers


def check_reference(
    embeddings: Tensor, reference: Tensor | None, reference_labels: Tensor | None, self_offset: int | None
) -> int:
    """Checks the second set as `pair_loss` does; returns the operator's form of `self_offset`, -1 for None.

    Raises:
        TypeError, ValueError: as in `pair_loss`.
    """
    if reference is None or reference_labels is None:
        missing = "reference_labels" if reference is not None else "reference"
        raise ValueError(f"{missing}: expected with reference, reference_labels and self_offset; got None")
    _check.tensor("reference", reference, dtypes=(embeddings.dtype,), rank=2)
    _check.tensor("reference_labels", reference_labels, dtypes=(torch.int64,))
    if reference.shape[1] != embeddings.shape[1] or reference.device != embeddings.device:
        raise ValueError(
            f"reference: expected [M, D] with D = {embeddings.shape[1]} on {embeddings.device}, "
            f"got {_check.describe(reference)}"
        )
    of_rows = reference_labels.dim() == 1 and reference_labels.shape[0] == reference.shape[0]
    if not of_rows or reference_labels.device != reference.device:
        raise ValueError(
            f"reference_labels: expected [M] with M = {reference.shape[0]} on {reference.device}, "
            f"got {_check.describe(reference_labels)}"
        )
    if self_offset is None:
        return -1
    last = reference.shape[0] - embeddings.shape[0]
    if not 0 <= self_offset <= last:
        raise ValueError(f"self_offset: expected 0 to M − B = {last}, or None; got {self_offset}")
    return self_offset
