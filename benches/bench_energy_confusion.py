"""`energy_confusion` with its gradient, against the form over all pairs of rows, and a copy of the features.

No library has the loss. The product of the [C, D] means that the logarithmic form over all classes cannot avoid is too
small to measure beside the features at these sizes (64 classes), so what bounds both forms is the copy of the features.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from robustdml_ext.ops.energy_confusion import energy_confusion

ROWS_OF_A_CLASS = 64


def pairwise(features: Tensor, labels: Tensor, logarithmic: bool) -> Tensor:
    """Equations 3, 7 and 11 by the matrix of all squared distances, as one writes them with `torch.cdist`'s product."""
    norms = features.square().sum(1)
    distances = norms[:, None] + norms[None, :] - 2 * features @ features.T
    member = (labels == labels.unique()[:, None]).to(features.dtype)
    member = member / member.sum(1, keepdim=True)
    energies = member @ distances @ member.T
    energies = energies.log1p() if logarithmic else energies
    return energies.sum() - energies.diagonal().sum()


def blocks(features: Tensor, classes: int, logarithmic: bool) -> Tensor:
    """The same where classes are known to be equal and contiguous: what a compiler can take."""
    norms = features.square().sum(1)
    distances = norms[:, None] + norms[None, :] - 2 * features @ features.T
    energies = distances.view(classes, len(features) // classes, classes, -1).mean((1, 3))
    energies = energies.log1p() if logarithmic else energies
    return energies.sum() - energies.diagonal().sum()


@pytest.mark.parametrize("logarithmic", [False, True], ids=["plain", "logarithmic"])
@pytest.mark.parametrize("rows", [512, 4096])
@pytest.mark.parametrize("width", [128, 512])
@pytest.mark.parametrize(
    "variant", ["ours", "ours, scattered", "pairwise", "compiled pairwise", "copy of the features"]
)
def test_energy_confusion(
    variant: str, width: int, rows: int, logarithmic: bool, measure: Callable[..., None], device: str
) -> None:
    classes = rows // ROWS_OF_A_CLASS
    features = torch.randn(rows, width, device=device, requires_grad=True)
    labels = torch.arange(rows, device=device) // ROWS_OF_A_CLASS
    scattered = labels[torch.randperm(rows, device=device)]
    compiled = torch.compile(blocks, dynamic=False)
    source, copy = features.detach(), torch.empty_like(features)
    losses: dict[str, Callable[[], Tensor]] = {
        "ours": lambda: energy_confusion(features, labels, logarithmic=logarithmic),
        "ours, scattered": lambda: energy_confusion(features, scattered, logarithmic=logarithmic),
        "pairwise": lambda: pairwise(features, labels, logarithmic),
        "compiled pairwise": lambda: compiled(features, classes, logarithmic),
    }

    def value_and_gradient() -> Tensor:
        if variant == "copy of the features":
            return copy.copy_(source)
        return torch.autograd.grad(losses[variant](), features)[0]

    form = "logarithmic" if logarithmic else "plain"
    group = f"energy_confusion ({form}) value and gradient, N={rows} D={width}"
    measure(group, variant, value_and_gradient, bytes=2 * features.nbytes)
