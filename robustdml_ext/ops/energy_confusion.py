"""Energy confusion between classes, energy distance and linear MMD, all from class means and scatters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._energy_confusion_reference import (
    backward_reference,
    confusion_reference,
    groups_size,
    moments_reference,
)
from robustdml_ext.ops._registration import below_autograd, define, register_autograd

_REDUCTIONS = ("sum", "mean")


def _accumulate_type(features: Tensor) -> torch.dtype:
    return torch.promote_types(features.dtype, torch.float32)


def _fake_confusion(
    features: Tensor, labels: Tensor, pairs: Tensor | None, logarithmic: bool, mean: bool, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    rows, dtype = features.shape[0], _accumulate_type(features)
    return (
        features.new_empty((), dtype=dtype),
        labels.new_empty(groups_size(rows)),
        features.new_empty(rows if gradient else 0, dtype=torch.float64),
        features.new_empty(rows if gradient else 0, features.shape[1], dtype=dtype),
    )


def _fake_moments(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    rows = features.shape[0]
    return (
        features.new_empty(features.shape, dtype=torch.float64),
        features.new_empty(rows, dtype=torch.float64),
        labels.new_empty(groups_size(rows)),
    )


_confusion = define(
    "energy_confusion(Tensor features, Tensor labels, Tensor? pairs, bool logarithmic, bool mean, bool gradient) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    confusion_reference,
    _fake_confusion,
)
_backward = define(
    "energy_confusion_backward(Tensor grad, Tensor features, Tensor groups, Tensor scales, Tensor shifts) -> Tensor",
    backward_reference,
    lambda grad, features, *_: torch.empty_like(features, memory_format=torch.contiguous_format),
)
_moments = define(
    "class_moments(Tensor features, Tensor labels) -> (Tensor, Tensor, Tensor)", moments_reference, _fake_moments
)


class _Confusion(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, features: Tensor, labels: Tensor, pairs: Tensor | None, logarithmic: bool, mean: bool, gradient: bool
    ) -> Any:
        loss, groups, scales, shifts = below_autograd(_confusion, features, labels, pairs, logarithmic, mean, gradient)
        ctx.save_for_backward(features, groups, scales, shifts)
        ctx.mark_non_differentiable(groups, scales, shifts)
        ctx.set_materialize_grads(False)
        return loss, groups, scales, shifts

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> Any:
        grad = gradients[0]
        return (None if grad is None else _backward(grad, *ctx.saved_tensors), *[None] * 5)


class _Backward(torch.autograd.Function):
    """The gradient, which is not differentiable itself: refused, rather than taken for a constant."""

    @staticmethod
    def forward(ctx: Any, *arguments: Tensor) -> Any:
        return below_autograd(_backward, *arguments)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise NotImplementedError("energy confusion is differentiable once: it has no second derivatives")


class _Moments(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, labels: Tensor) -> Any:
        means, scatters, groups = below_autograd(_moments, features, labels)
        ctx.save_for_backward(features, means, groups)
        ctx.mark_non_differentiable(groups)
        return means, scatters, groups

    @staticmethod
    def backward(ctx: Any, grad_means: Tensor, grad_scatters: Tensor, _: Tensor) -> Any:
        features, means, groups = ctx.saved_tensors
        rows, dtype = features.shape[0], _accumulate_type(features)
        if rows == 0:
            return torch.zeros_like(features), None
        begins = groups[rows : 2 * rows + 1]
        share = 1.0 / begins.diff().clamp(min=1).double()
        first = features[groups[begins[:-1].clamp(max=rows - 1)]].double() - features[0].double()
        scales = 2 * share * grad_scatters
        shifts = share[:, None] * grad_means - scales[:, None] * (means - first)
        one = features.new_ones((), dtype=dtype)
        # The gradient's operator returns zeros where there is no pair of classes; one class has moments all the same.
        groups = torch.cat([groups[:-1], groups[-2:-1]])
        return _backward(one, features, groups, scales, shifts.to(dtype)), None


register_autograd(_confusion, _Confusion)
register_autograd(_moments, _Moments)
register_autograd(_backward, _Backward)


def _check_batch(features: Tensor, labels: Tensor) -> None:
    _check.tensor("features", features, rank=2)
    _check.tensor("labels", labels, dtypes=(torch.int64,), rank=1)
    if labels.shape[0] != features.shape[0] or labels.device != features.device:
        raise ValueError(
            f"labels: expected [N] with N = {features.shape[0]} on {features.device}, got {_check.describe(labels)}"
        )


def _check_pairs(pairs: Tensor, labels: Tensor) -> None:
    _check.tensor("pairs", pairs, dtypes=(torch.int64,), rank=2)
    if pairs.shape[1] != 2 or pairs.device != labels.device:
        raise ValueError(f"pairs: expected [P, 2] on {labels.device}, got {_check.describe(pairs)}")
    # On CUDA the look would wait for the device; there the kernel asserts.
    if pairs.is_cpu and pairs.numel() and not torch.compiler.is_compiling():
        classes = len(labels.unique())
        lowest, highest = (int(bound) for bound in pairs.aminmax())
        if lowest < 0 or highest >= classes:
            raise IndexError(f"pairs: expected classes 0 to {classes - 1} of the batch, got {lowest} to {highest}")


def energy_confusion(
    features: Tensor,
    labels: Tensor,
    *,
    pairs: Tensor | None = None,
    logarithmic: bool = False,
    reduction: str = "sum",
) -> Tensor:
    """Energy confusion of ECAML: the expected squared distance between the features of two classes (equation 3).

    L_ec(I, J) = 1/(N_I·N_J) · Σ_{i ∈ I, j ∈ J} |x_i − x_j|², and of it, over pairs I ≠ J of the batch's classes,

        Σ L_ec(I, J)   (equation 7)   or, logarithmic,   Σ log(1 + L_ec(I, J))   (equation 11).

    The sums of the paper run over ordered pairs: (I, J) and (J, I) both count, C·(C−1) terms for C classes. A batch of
    one class, or an empty list of pairs, has loss 0 and gradient 0.

    L_ec = w_I + w_J + |μ_I − μ_J|² with class means μ and scatters w = (1/N) Σ |x − μ|², so no N×N matrix is made: the
    features are read once forwards; backwards they are read once and the gradient is written once, in O(N·D) for the
    plain form over all pairs, O(N·D + C²·D) for the logarithmic one and O(N·D + P·D) for P listed pairs. Differentiable
    once. On CUDA the number of classes never comes to the host.

    Args:
        features: x, `[N, D]`, of any length; the paper's are not normalized.
        labels: class of each row, int64 `[N]`, any values.
        pairs: ordered pairs of classes to sum instead of all, int64 `[P, 2]`, as often as they are listed. Classes are
            numbered 0 to C − 1 by rising label, as in `labels.unique()`. A class paired with itself adds nothing.
        logarithmic: equation 11 instead of equation 7.
        reduction: "sum", or "mean" over the pairs I ≠ J.

    Returns:
        A scalar, in float32 for half-precision features.

    Raises:
        TypeError: wrong dtypes.
        ValueError: shapes or devices do not fit, or another reduction.
        IndexError: a pair names no class of the batch (on CUDA: a device-side assertion).
    """
    _check_batch(features, labels)
    if pairs is not None:
        _check_pairs(pairs, labels)
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction: expected one of {', '.join(_REDUCTIONS)}, got {_check.describe(reduction)}")
    gradient = features.requires_grad and torch.is_grad_enabled()
    loss: Tensor = _confusion(features, labels, pairs, logarithmic, reduction == "mean", gradient)[0]
    return loss


def _class_moments(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Class means `[C, D]`, relative to the mean of them all, and scatters `[C]`; float64."""
    _check_batch(features, labels)
    means, scatters, groups = _moments(features, labels)
    classes = int(groups[-2])
    centered = means[:classes] - means[:classes].mean(0)
    return centered, scatters[:classes]


def _squared_distances(means: Tensor) -> Tensor:
    """|μ_I − μ_J|² `[C, C]`, by differences and without a [C, C, D] tensor."""
    return torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()


def pairwise_energy_confusion(features: Tensor, labels: Tensor) -> Tensor:
    """L_ec(I, J) of every pair of classes (ECAML, equation 3), `[C, C]`.

    Classes by rising label. On the diagonal, where the equation is not meant to be used, stands the same expression for
    I = J: 2·w_I, the mean squared distance between two draws from the class. Differentiable; waits for the device once.

    Args, Raises: as `energy_confusion`.
    """
    means, scatters = _class_moments(features, labels)
    energies: Tensor = scatters[:, None] + scatters[None, :] + _squared_distances(means)
    return energies.to(_accumulate_type(features))


def energy_distance(features: Tensor, labels: Tensor) -> Tensor:
    """General energy distance of every pair of classes, of the squared Euclidean metric (ECAML, equation 4), `[C, C]`.

    D_E(I, J) = 2·E|X_I − X_J|² − E|X_I − X_I'|² − E|X_J − X_J'|² over the classes' own empirical distributions (so
    draws may repeat a row), which is 2·|μ_I − μ_J|². Lemma 2: L_ec ≥ D_E / 2.

    Classes by rising label. Differentiable; waits for the device once, for the number of classes.

    Args, Raises: as `energy_confusion`.
    """
    return 2 * maximum_mean_discrepancy(features, labels)


def maximum_mean_discrepancy(features: Tensor, labels: Tensor) -> Tensor:
    """Squared maximum mean discrepancy of every pair of classes, of the linear kernel (ECAML, equation 5), `[C, C]`.

    γ²(I, J) = |μ_I − μ_J|². Lemma 3: L_ec ≥ γ².

    Classes by rising label. Differentiable; waits for the device once, for the number of classes.

    Args, Raises: as `energy_confusion`.
    """
    means, _ = _class_moments(features, labels)
    return _squared_distances(means).to(_accumulate_type(features))
