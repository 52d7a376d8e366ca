"""`squared_norms` against its reference and the compiled reference."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from robustdml_ext import ops
from robustdml_ext.ops.squared_norms import squared_norms_reference


@pytest.mark.parametrize("variant", ["ours", "reference", "compiled reference"])
def test_squared_norms(variant: str, measure: Callable[..., None], device: str) -> None:
    rows = torch.randn(4096, 512, device=device)
    compiled = torch.compile(squared_norms_reference, dynamic=False)
    variants: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.squared_norms(rows),
        "reference": lambda: squared_norms_reference(rows),
        "compiled reference": lambda: compiled(rows),
    }
    measure("squared_norms 4096x512", variant, variants[variant], bytes=rows.nbytes)
