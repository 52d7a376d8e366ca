"""How close is close: a kernel may err a small multiple of what plain PyTorch errs in the same precision."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_as_good_as(
    actual: Tensor, plain: Tensor, exact: Tensor, *, multiple: float = 3.0, terms: float = 0.0, what: str = ""
) -> None:
    """Asserts max|actual − exact| ≤ multiple · max|plain − exact| + a few roundings of the largest exact value.

    Args:
        actual: the kernel's result.
        plain: plain PyTorch's result in the same precision.
        exact: the float64 reference.
        multiple: how many times PyTorch's error is allowed.
        terms: size of the terms whose sum the result is, where they can cancel to almost nothing.
        what: named in the message.
    """
    assert actual.shape == exact.shape, f"{what}: shape {list(actual.shape)}, expected {list(exact.shape)}"
    if not exact.numel():
        return
    exact = exact.double().cpu()
    actual64, plain64 = actual.double().cpu(), plain.double().cpu()
    assert torch.equal(actual64.isnan(), exact.isnan()), f"{what}: NaN in other places than the reference"
    finite = exact.isfinite()
    assert torch.equal(actual64[~finite].nan_to_num(7.0), exact[~finite].nan_to_num(7.0)), f"{what}: infinities differ"
    if not finite.any():
        return
    error = (actual64 - exact)[finite].abs().max().item()
    plain_error = (plain64 - exact)[finite].abs().nan_to_num(torch.inf).max().item()
    # A plain result that happens to be exact must not ask the same luck of the kernel.
    # In float64 the reference is no more exact than the kernel: both lose what long sums cancel.
    roundings = 1000 if actual.dtype == torch.float64 else 4
    rounding = roundings * torch.finfo(actual.dtype).eps * max(exact[finite].abs().max().item(), terms)
    allowed = multiple * plain_error + rounding
    assert error <= allowed, f"{what}: error {error:.3e}, allowed {allowed:.3e} (PyTorch's own: {plain_error:.3e})"
