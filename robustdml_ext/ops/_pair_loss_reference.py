"""`pair_loss` in plain PyTorch: its equations over the [B, M] similarities that the kernels never hold at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def pair_loss_reference(
    embeddings: Tensor,
    labels: Tensor,
    reference: Tensor | None,
    reference_labels: Tensor | None,
    self_offset: int,
    kind: str,
    parameters: Sequence[float],
    normalize: bool,
    squared: bool,
    reduction: str,
) -> tuple[Tensor, Tensor]:
    """The loss, and statistics that this implementation has no use for (zeros `[4, B + M + 1]`)."""
    compute = torch.promote_types(embeddings.dtype, torch.float32)
    rows = len(embeddings) + (0 if reference is None else len(reference)) + 1
    saved = embeddings.new_zeros((4, rows), dtype=torch.float64)
    with torch.autocast(embeddings.device.type, enabled=False):
        x = embeddings.to(compute)
        y = x if reference is None else reference.to(compute)
        if normalize:
            x, y = (unit := _unit(x)), unit if y is x else _unit(y)
        if not len(x) or not len(y):
            return x.new_zeros(()), saved
        positive, negative = masks(labels, reference_labels, self_offset)
        s = x @ y.T
        if kind in ("binomial", "npair", "multi_similarity"):
            loss = of_similarities(s, positive, negative, kind, parameters, reduction)
        else:
            squares = F.relu(x.square().sum(1)[:, None] + y.square().sum(1) - 2 * s)
            v = squares if squared else _root(squares)
            loss = of_distances(v, positive, negative, kind, parameters, reduction, symmetric=reference is None)
        # A NaN compares with nothing, so mining and maxima may have lost it.
        unseen = torch.where(x.isnan().any() | y.isnan().any(), torch.nan, 0.0)
        return (loss + unseen).to(compute), saved


def pair_loss_backward_reference(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    reference: Tensor | None,
    reference_labels: Tensor | None,
    self_offset: int,
    kind: str,
    parameters: Sequence[float],
    normalize: bool,
    squared: bool,
    reduction: str,
    saved: Tensor,
    reference_gradient: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of the loss towards the embeddings and, where asked for, the reference: by PyTorch's autograd."""
    inputs = [embeddings] if reference is None or not reference_gradient else [embeddings, reference]
    # Kernels run below autograd, where nothing would be recorded for it.
    recording = torch._C._SetExcludeDispatchKeyGuard(torch._C.DispatchKey.AutogradFunctionality, False)
    with torch.enable_grad(), recording:
        leaves = [each.detach().requires_grad_() for each in inputs]
        y = leaves[1] if len(leaves) > 1 else reference
        loss, _ = pair_loss_reference(
            leaves[0], labels, y, reference_labels, self_offset, kind, parameters, normalize, squared, reduction
        )
        if loss.requires_grad:
            gradients = list(torch.autograd.grad(loss, leaves, grad, materialize_grads=True))
        else:
            gradients = [torch.zeros_like(leaf) for leaf in leaves]
    gradients.append(embeddings.new_empty((0, embeddings.shape[1])))
    return gradients[0].contiguous(), gradients[1].contiguous()


def _unit(x: Tensor) -> Tensor:
    """Rows at unit length; a zero row stays zero. In float64, where the squares of norms 1e-20 and 1e20 still fit."""
    wide = x.double()
    squares = wide.square().sum(1, keepdim=True)
    zero = squares == 0
    return (wide / squares.masked_fill(zero, 1).sqrt()).masked_fill(zero, 0).to(x.dtype)


def masks(labels: Tensor, reference_labels: Tensor | None, self_offset: int) -> tuple[Tensor, Tensor]:
    """Boolean `[B, M]`: the positives and the negatives of each anchor."""
    columns, offset = (labels, 0) if reference_labels is None else (reference_labels, self_offset)
    anchors = torch.arange(len(labels), device=labels.device)
    own = torch.arange(len(columns), device=labels.device) == anchors[:, None] + offset
    if offset < 0:
        own = torch.zeros_like(own)
    same = labels[:, None] == columns
    return same & ~own, ~same & ~own


def _root(v: Tensor) -> Tensor:
    """√v, with slope 0 at 0."""
    zero = v == 0
    return v.masked_fill(zero, 1).sqrt().masked_fill(zero, 0)


def _reduced(terms: Tensor, mask: Tensor, reduction: str) -> Tensor:
    """Sum of the terms in the mask, over their number, or over the number of those above 0; nothing gives 0."""
    total = terms.masked_fill(~mask, 0).sum(dtype=torch.float64)
    if reduction == "sum":
        return total
    counted = mask if reduction == "mean" else mask & (terms > 0)
    return total / counted.sum().clamp(min=1)


def _log_sum_exp(exponents: Tensor, mask: Tensor, dim: int) -> Tensor:
    return torch.logsumexp(exponents.masked_fill(~mask, -torch.inf), dim)


def of_similarities(
    s: Tensor, positive: Tensor, negative: Tensor, kind: str, parameters: Sequence[float], reduction: str
) -> Tensor:
    """The loss by the inner products `[B, M]`."""
    if kind == "binomial":
        alpha, beta, eta = parameters
        pull = F.softplus(-alpha * (s - beta), threshold=40)  # beyond, log(1 + eˣ) = x in float64 too
        push = F.softplus(alpha * eta * (s - beta), threshold=40)
        return _reduced(pull, positive, reduction) + _reduced(push, negative, reduction)
    if kind == "npair":
        terms = F.softplus(_log_sum_exp(s, negative, 1)[:, None] - s, threshold=40)
        return _reduced(terms, positive, reduction)

    alpha, beta, base, epsilon = parameters
    mined = s.detach()
    weakest_positive = mined.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
    strongest_negative = mined.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
    # By what is left out, so that a NaN, which compares with nothing, stays in.
    positive = positive & ~(mined >= strongest_negative + epsilon)
    negative = negative & ~(mined <= weakest_positive - epsilon)
    pull = F.softplus(_log_sum_exp(-alpha * (s - base), positive, 1), threshold=40) / alpha
    push = F.softplus(_log_sum_exp(beta * (s - base), negative, 1), threshold=40) / beta
    terms = pull + push
    return _reduced(terms, torch.ones_like(terms, dtype=torch.bool), reduction)


def of_distances(
    v: Tensor,
    positive: Tensor,
    negative: Tensor,
    kind: str,
    parameters: Sequence[float],
    reduction: str,
    symmetric: bool,
) -> Tensor:
    """The loss by the distances or squared distances `[B, M]`; symmetric: of the batch to itself."""
    if kind == "contrastive":
        return _contrastive(v, positive, negative, parameters, reduction)
    if kind == "lifted":
        return _lifted(v, positive, negative, parameters, reduction, symmetric)
    return _triplet(v, positive, negative, kind, parameters[0], reduction)


def _contrastive(v: Tensor, positive: Tensor, negative: Tensor, parameters: Sequence[float], reduction: str) -> Tensor:
    pos_margin, neg_margin, power = parameters
    pull, push = F.relu(v - pos_margin), F.relu(neg_margin - v)
    if power == 2:
        pull, push = pull.square(), push.square()
    return _reduced(pull, positive, reduction) + _reduced(push, negative, reduction)


def _lifted(
    d: Tensor, positive: Tensor, negative: Tensor, parameters: Sequence[float], reduction: str, symmetric: bool
) -> Tensor:
    neg_margin, pos_margin = parameters
    of_anchor = _log_sum_exp(neg_margin - d, negative, 1)
    of_positive = of_anchor if symmetric else _log_sum_exp(neg_margin - d, negative, 0)
    pushed = torch.logaddexp(of_anchor[:, None], of_positive[None, :])
    return _reduced(F.relu(pushed + d - pos_margin).square() / 2, positive, reduction)


def _triplet(v: Tensor, positive: Tensor, negative: Tensor, kind: str, margin: float, reduction: str) -> Tensor:
    if kind == "triplet_hardest":
        farthest = v.masked_fill(~positive, -torch.inf).argmax(1, keepdim=True)
        nearest = v.masked_fill(~negative, torch.inf).argmin(1, keepdim=True)
        terms = F.relu(v.gather(1, farthest) - v.gather(1, nearest) + margin)
        return _reduced(terms, (positive.any(1) & negative.any(1))[:, None], reduction)

    total = count = v.new_zeros((), dtype=torch.float64)
    for i in range(len(v)):  # one anchor at a time: [P, N], not [B, P, N]
        to_positives, to_negatives = v[i, positive[i]][:, None], v[i, negative[i]]
        excess = to_positives - to_negatives + margin
        mask = torch.ones_like(excess, dtype=torch.bool)
        if kind == "triplet_semihard":
            mask = (to_positives < to_negatives) & (to_negatives < to_positives + margin)
        terms = F.relu(excess)
        total = total + _reduced(terms, mask, "sum")
        if kind == "triplet_all" and reduction == "nonzero":
            mask = terms > 0
        count = count + mask.sum()
    return total if reduction == "sum" else total / count.clamp(min=1)
