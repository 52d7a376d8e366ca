"""`squared_norms`: squared length of every row, summed in float32 at least."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._registration import below_autograd, define, register_autograd


def squared_norms_reference(rows: Tensor) -> Tensor:
    """The meaning of the operator `robustdml::squared_norms`, in plain PyTorch."""
    return rows.to(torch.promote_types(rows.dtype, torch.float32)).square().sum(1)


def _fake(rows: Tensor) -> Tensor:
    return rows.new_empty(len(rows), dtype=torch.promote_types(rows.dtype, torch.float32))


_squared_norms = define("squared_norms(Tensor rows) -> Tensor", squared_norms_reference, _fake)


class _SquaredNorms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        values: Tensor = below_autograd(_squared_norms, rows)
        return values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (rows,) = ctx.saved_tensors
        return (2 * gradients[0][:, None] * rows).to(rows.dtype)


register_autograd(_squared_norms, _SquaredNorms)


def squared_norms(rows: Tensor) -> Tensor:
    """‖x_i‖² `[B]` of rows x `[B, D]`, in float32 for half-precision rows; differentiable.

    Raises:
        TypeError: no floating-point tensor.
        ValueError: not of two dimensions.
    """
    _check.tensor("rows", rows, rank=2)
    values: Tensor = _squared_norms(rows)
    return values
