"""The proxy losses, value and both gradients, against pytorch-metric-learning, the plain form and its compilation."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext.ops.proxy_loss import proxy_loss

CONSTANTS = {"arcface": (16.0, 0.5), "normalized_softmax": (20.0, 0.0), "proxy_anchor": (32.0, 0.1)}


def plain(embeddings: Tensor, proxies: Tensor, labels: Tensor, *, kind: str, scale: float, margin: float) -> Tensor:
    """The loss by its equation on the whole [B, C] matrix, differentiated by autograd."""
    cosines = F.normalize(embeddings) @ F.normalize(proxies).T
    if kind == "proxy_anchor":
        own = F.one_hot(labels, len(proxies)).bool()
        pull = torch.where(own, -scale * (cosines - margin), -torch.inf)
        push = torch.where(own, -torch.inf, scale * (cosines + margin))
        pulls, pushes = (F.pad(x, (0, 0, 1, 0)).logsumexp(0) for x in (pull, push))
        return pulls.sum() / own.any(0).sum() + pushes.mean()
    if kind == "arcface":
        own = cosines.gather(1, labels[:, None])
        sine = (1 - own.square()).clamp_min(1e-7).sqrt()
        widened = own * math.cos(margin) - sine * math.sin(margin)
        beyond = own - margin * math.sin(margin)
        cosines = cosines.scatter(1, labels[:, None], torch.where(own > -math.cos(margin), widened, beyond))
    return F.cross_entropy(scale * cosines, labels)


def peer_loss(kind: str, proxies: Tensor, scale: float, margin: float) -> torch.nn.Module:
    """pytorch-metric-learning's loss of the same meaning."""
    peers = pytest.importorskip("pytorch_metric_learning.losses")
    classes, width = proxies.shape
    if kind == "arcface":
        loss = peers.ArcFaceLoss(classes, width, margin=math.degrees(margin), scale=scale)
    elif kind == "normalized_softmax":
        loss = peers.NormalizedSoftmaxLoss(classes, width, temperature=1 / scale)
    else:
        loss = peers.ProxyAnchorLoss(classes, width, margin=margin, alpha=scale)
    return loss.to(proxies.device)  # type: ignore[no-any-return]


# On the CPU the forms that hold several [B, C] matrices are left out where a round would take a second or more.
SIZES = [(112, 11318, 128), (112, 11318, 512), (512, 11318, 128), (2048, 11318, 128), (112, 100_000, 128)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: "x".join(map(str, size)))
@pytest.mark.parametrize("kind", list(CONSTANTS))
@pytest.mark.parametrize("variant", ["ours", "plain", "compiled plain", "pytorch-metric-learning", "bare GEMMs"])
def test_proxy_loss(
    variant: str, kind: str, size: tuple[int, int, int], measure: Callable[..., None], device: str
) -> None:
    batch, classes, width = size
    if device == "cpu" and batch * classes > 2_000_000 and variant not in ("ours", "bare GEMMs"):
        pytest.skip("a second a round or more")
    torch.manual_seed(0)
    scale, margin = CONSTANTS[kind]
    embeddings = torch.randn(batch, width, device=device, requires_grad=True)
    proxies = torch.randn(classes, width, device=device, requires_grad=True)
    labels = torch.randint(classes, (batch,), device=device)
    group = f"{kind} forward and backward, B={batch} C={classes} D={width}"
    if variant == "bare GEMMs":
        x, w, weights = embeddings.detach(), proxies.detach(), torch.randn(batch, classes, device=device)
        measure(group, variant, lambda: (x @ w.T, weights @ w, weights.T @ x))
        return
    leaves = [embeddings, proxies]
    if variant == "pytorch-metric-learning":
        peer = peer_loss(kind, proxies, scale, margin)
        leaves = [embeddings, next(peer.parameters())]

        def loss() -> Tensor:
            return peer(embeddings, labels)  # type: ignore[no-any-return]

    else:
        functions: dict[str, Callable[..., Tensor]] = {
            "ours": proxy_loss,
            "plain": plain,
            "compiled plain": torch.compile(plain, dynamic=False),
        }
        function = functions[variant]

        def loss() -> Tensor:
            return function(embeddings, proxies, labels, kind=kind, scale=scale, margin=margin)

    measure(group, variant, lambda: torch.autograd.grad(loss(), leaves))
