"""Angular loss with its gradient, against pytorch-metric-learning and the form over all positive pairs at a time."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.losses import AngularLoss


def plain(embeddings: Tensor, labels: Tensor) -> Tensor:
    """The N-pair form at 45° on all [pairs, B] exponents, differentiated by autograd."""
    x = F.normalize(embeddings, dim=1)
    s, same = x @ x.T, labels[:, None] == labels
    i, p = (same & ~torch.eye(len(x), dtype=torch.bool, device=x.device)).nonzero(as_tuple=True)
    exponents = (4 * (s[i] + s[p]) - 4 * s[i, p][:, None]).masked_fill(same[i], -math.inf)
    return F.softplus(exponents.logsumexp(1)).mean()


def library() -> Callable[[Tensor, Tensor], Tensor]:
    """pytorch-metric-learning's loss, which wants negatives at unit length already."""
    pytest.importorskip("pytorch_metric_learning")
    loss = importlib.import_module("pytorch_metric_learning.losses").AngularLoss(alpha=45)
    return lambda embeddings, labels: loss(F.normalize(embeddings, dim=1), labels)  # type: ignore[no-any-return]


@pytest.mark.parametrize("of_class", [2, 8])
@pytest.mark.parametrize("batch", [128, 512])
@pytest.mark.parametrize("variant", ["ours", "plain", "pytorch-metric-learning"])
def test_angular(variant: str, batch: int, of_class: int, measure: Callable[..., None], device: str) -> None:
    torch.manual_seed(0)
    embeddings = torch.randn(batch, 512, device=device, requires_grad=True)
    labels = (torch.randperm(batch) // of_class).to(device)
    function = {"ours": AngularLoss, "plain": lambda: plain, "pytorch-metric-learning": library}[variant]()
    measure(
        f"angular forward and backward, B={batch} D=512, classes of {of_class}",
        variant,
        lambda: torch.autograd.grad(function(embeddings, labels), embeddings),
    )
