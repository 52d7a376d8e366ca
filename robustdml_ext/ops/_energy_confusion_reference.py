"""The operators behind energy confusion in plain PyTorch: their meaning, and what runs where no kernel does.

`groups`, int64 `[2N + 3]`: the rows class by class `[N]`; where each class begins among them, N past the last class
`[N + 1]`; the number of classes C; the number of ordered pairs I ≠ J that are summed. Classes are numbered by rising
label. Tensors "of classes" have N rows, of which the first C are set.

Everything between the features and the results is float64, as in the kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def groups_size(rows: int) -> int:
    """Elements of `groups` for a batch of N rows."""
    return 2 * rows + 3


def _moments(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts, means relative to row 0, scatters of the C classes, and `groups` for all pairs."""
    rows = features.shape[0]
    order = torch.argsort(labels, stable=True)
    _, counts = torch.unique_consecutive(labels[order], return_counts=True)
    classes = len(counts)
    begins = torch.cat([counts.new_zeros(1), counts.cumsum(0), counts.new_full((rows - classes,), rows)])
    sizes = counts.new_tensor([classes, classes * max(classes - 1, 0)])
    groups = torch.cat([order, begins, sizes])
    ordered = features[order].double()
    origin = ordered.new_zeros(features.shape[1]) if rows == 0 else features[0].double()
    of_row = torch.repeat_interleave(torch.arange(classes, device=features.device), counts)
    # Summed relative to the class's own first row, then to the mean: neither a common offset nor the distance between
    # classes costs digits.
    first = ordered[begins[:classes]]
    means = torch.zeros_like(first).index_add(0, of_row, ordered - first[of_row]) / counts[:, None]
    squares = (ordered - first[of_row] - means[of_row]).square().sum(1)
    scatters = squares.new_zeros(classes).index_add(0, of_row, squares) / counts
    return counts, means + (first - origin), scatters, groups


def moments_reference(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Class means relative to row 0 `[N, D]`, scatters (1/N_k) Σ |x − μ_k|² `[N]`, groups."""
    counts, means, scatters, groups = _moments(features, labels)
    missing = features.shape[0] - len(counts)
    return (
        torch.cat([means, means.new_zeros(missing, means.shape[1])]),
        torch.cat([scatters, scatters.new_zeros(missing)]),
        groups,
    )


def confusion_reference(
    features: Tensor, labels: Tensor, pairs: Tensor | None, logarithmic: bool, mean: bool, gradient: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, and of each class what makes its rows' gradients: ∂loss/∂x_i = scale·(x_i − first row) + shift.

    The gradient of a pair is ∂L_ec(I, J)/∂x_i = (2/N_I)·(x_i − μ_J).

    Returns:
        Loss, groups, scales `[N]` and shifts `[N, D]` of classes (no rows where no gradient is wanted).
    """
    counts, means, scatters, groups = _moments(features, labels)
    classes, rows = len(counts), features.shape[0]
    distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist").square()
    energies = scatters[:, None] + scatters[None, :] + distances
    # How often each ordered pair is summed.
    times = torch.ones_like(energies)
    if pairs is not None:
        if pairs.numel() and not 0 <= int(pairs.min()) <= int(pairs.max()) < classes:
            raise IndexError(f"energy_confusion: pairs: expected classes 0 to {classes - 1} of the batch")
        times = torch.zeros_like(energies).index_put(tuple(pairs.T), energies.new_ones(()), accumulate=True)
    times.fill_diagonal_(0)
    count = int(times.sum())
    groups[-1] = count
    times = times / max(count, 1) if mean else times
    pair = times > 0
    values = energies.log1p() if logarithmic else energies
    dtype = torch.promote_types(features.dtype, torch.float32)
    loss = torch.where(pair, times * values, 0.0).sum().to(dtype)
    if not gradient:
        return loss, groups, means.new_empty(0), features.new_empty(0, features.shape[1], dtype=dtype)

    slopes = torch.where(pair, times / (1 + energies) if logarithmic else times, 0.0)
    slopes = slopes + slopes.T
    share = 2.0 / counts.double()
    scales = share * slopes.sum(1)
    first = features[groups[groups[rows : rows + classes]]].double() - (features[0].double() if rows else 0.0)
    pulls = slopes.sum(1, keepdim=True) * means - slopes @ means
    shifts = share[:, None] * pulls - scales[:, None] * (means - first)
    missing = rows - classes
    return (
        loss,
        groups,
        torch.cat([scales, scales.new_zeros(missing)]),
        torch.cat([shifts, shifts.new_zeros(missing, shifts.shape[1])]).to(dtype),
    )


def backward_reference(grad: Tensor, features: Tensor, groups: Tensor, scales: Tensor, shifts: Tensor) -> Tensor:
    """scale·(x_i − first row of its class) + shift, times the incoming gradient: `[N, D]`."""
    rows, dtype = features.shape[0], shifts.dtype
    result = torch.zeros_like(features, memory_format=torch.contiguous_format)
    if rows == 0 or int(groups[-1]) == 0:
        return result
    order, begins, classes = groups[:rows], groups[rows : 2 * rows + 1], int(groups[-2])
    of_row = torch.repeat_interleave(torch.arange(classes, device=features.device), begins.diff()[:classes])
    ordered = features[order].to(dtype)
    first = ordered[begins[:classes]]
    # In float64: a logarithm's slope can lie below the range of float32 where its product with the features does not.
    scaled = (grad.double() * scales[:classes])[of_row, None] * (ordered - first[of_row]).double()
    result[order] = (scaled + grad * shifts[of_row]).to(features.dtype)
    return result
