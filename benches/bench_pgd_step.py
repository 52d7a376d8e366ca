"""`pgd_step` against the same step in plain PyTorch, its `torch.compile`, and torchattacks' own lines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustdml_ext import ops
from robustdml_ext.ops.pgd_step import pgd_step_reference

EPSILON, STEP = 8 / 255, 2 / 255
SHAPES = {"images 112x3x224x224": (112, 3, 224, 224), "images 112x1x28x28": (112, 1, 28, 28)}


def as_torchattacks(x: Tensor, gradient: Tensor, clean: Tensor) -> Tensor:
    """The update that attack libraries write: step, clamp the perturbation, clamp the pixels."""
    moved = x - STEP * gradient.sign()
    delta = torch.clamp(moved - clean, min=-EPSILON, max=EPSILON)
    return torch.clamp(clean + delta, min=0, max=1)


def reference(x: Tensor, gradient: Tensor, clean: Tensor, norm: str) -> Tensor:
    return pgd_step_reference(x, gradient, clean, None, None, EPSILON, -STEP, norm, 0.0, 1.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize(
    "variant", ["ours", "ours, new tensor", "reference", "compiled reference", "torchattacks' lines"]
)
def test_pgd_step(variant: str, shape: str, norm: str, measure: Callable[..., None], device: str) -> None:
    clean = torch.rand(SHAPES[shape], device=device)
    x, gradient = clean.clone(), torch.randn_like(clean)
    compiled = torch.compile(reference, dynamic=False)
    if variant == "torchattacks' lines" and norm == "l2":
        pytest.skip("their l2 step is the reference's")
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.pgd_step_(x, gradient, clean, epsilon=EPSILON, step_size=STEP, norm=norm),
        "ours, new tensor": lambda: ops.pgd_step(x, gradient, clean, epsilon=EPSILON, step_size=STEP, norm=norm),
        "reference": lambda: reference(x, gradient, clean, norm),
        "compiled reference": lambda: compiled(x, gradient, clean, norm),
        "torchattacks' lines": lambda: as_torchattacks(x, gradient, clean),
    }
    measure(f"pgd_step {norm}, {shape}", variant, variants[variant], bytes=4 * clean.nbytes)
