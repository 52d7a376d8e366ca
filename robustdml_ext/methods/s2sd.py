"""S2SD (Roth et al. 2021): simultaneous similarity-based self-distillation, of any metric loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.losses.embeddings import check_batch
from robustdml_ext.methods.embedded import Embedded
from robustdml_ext.methods.feature_loss import FeatureLoss, Progress, apply_loss, check_number

PUBLISHED_DIMS = (512, 1024, 1536, 2048)
"""Of the auxiliary heads, beside embeddings of 128 dimensions."""


class SelfDistillation(FeatureLoss):
    """S2SD with several auxiliary heads and, after a warm-up, the features themselves as teachers.

    Beside the embedding f of an image, auxiliary heads g_1 … g_m (two layers with a ReLU between them) embed the same
    features in more dimensions. All are trained by the metric loss, and the similarities S^g that the larger spaces
    find in a batch are distilled into those of f:

        L = ½ [L_m(f) + (1/m) Σ_k L_m(g_k)] + (γ/m) Σ_k D(S^f, S^{g_k}) + γ_φ·D(S^f, S^φ),
        D(S, S′) = (T²/B) Σ_i KL(σ(S′_i / T) ‖ σ(S_i / T)),

    S_ij the cosine similarity of images i and j, i = j included, σ the softmax of a row, and φ the features, whose
    term bridges the bottleneck between them and the embedding; it sets in after `feature_delay` steps. No gradient of D
    reaches a teacher: neither the heads nor, by way of φ, the backbone. The heads are for training alone; the network
    that is used afterwards has none of them. The direction of KL and the factor T² are the published code's.

    Args:
        metric: L_m of the embeddings; also what an attack climbs.
        feature_dim: F, of the network's features.
        dims: of the auxiliary heads.
        head_loss: dim → the metric loss of a head of so many dimensions. None: `metric` itself judges every head, which
            it can where it has no parameters.
        weight: γ.
        feature_weight: γ_φ; 0 leaves the features out.
        temperature: T.
        feature_delay: steps before the features teach, as the method's `step` counts them: set that in a training loop
            of your own.
        lr_scale: learning rate of the heads over the network's.

    Raises:
        TypeError: the metric loss is no module, or a number is none.
        ValueError: no heads, a number out of its range, or a metric loss with parameters and no `head_loss`.
    """

    def __init__(
        self,
        metric: nn.Module,
        feature_dim: int,
        dims: Sequence[int] = PUBLISHED_DIMS,
        *,
        head_loss: Callable[[int], nn.Module] | None = None,
        weight: float = 50.0,
        feature_weight: float = 50.0,
        temperature: float = 1.0,
        feature_delay: int = 1000,
        lr_scale: float = 1.0,
    ) -> None:
        super().__init__(metric)
        if not dims or any(dim < 1 for dim in dims):
            raise ValueError(f"dims: expected at least one number, each >= 1; got {list(dims)}")
        if feature_delay < 0:
            raise ValueError(f"feature_delay: expected >= 0, got {feature_delay}")
        if head_loss is None and any(True for _ in metric.parameters()):
            raise ValueError(
                "head_loss: expected what makes the loss of a head, as the metric loss has parameters of its own size"
            )
        self.dims = tuple(dims)
        self.first = nn.Linear(feature_dim, sum(dims))  # the first layers of all heads, side by side
        self.second = nn.ModuleList(nn.Linear(dim, dim) for dim in dims)
        self.head_losses = None if head_loss is None else nn.ModuleList(head_loss(dim) for dim in dims)
        self.weight, self.feature_weight = (
            check_number("weight", weight),
            check_number("feature_weight", feature_weight),
        )
        self.temperature = check_number("temperature", temperature, above=True)
        self.lr_scale = check_number("lr_scale", lr_scale, above=True)
        self.feature_delay = feature_delay

    def forward(self, embedded: Embedded, labels: Tensor, generator: torch.Generator, progress: Progress) -> Tensor:
        """L of a batch; see `FeatureLoss`."""
        check_batch(embedded.embeddings, labels)
        if embedded.features is None:
            raise ValueError("embedded: expected features, which the auxiliary heads embed; got None")
        features = embedded.features.to(self.first.weight.dtype)
        metric = apply_loss(self.metric, embedded, labels, generator, progress)
        heads = [embedded.head.finish(outputs) for outputs in self.outputs(features)]
        own_losses = [self.metric] * len(heads) if self.head_losses is None else self.head_losses
        taught = torch.stack([loss(head, labels) for loss, head in zip(own_losses, heads, strict=True)]).mean()

        student = self.similarities(embedded.embeddings)
        distilled = torch.stack([self.divergence(student, head) for head in heads]).mean()
        loss = (metric + taught) / 2 + self.weight * distilled
        self.parts = {} if not isinstance(self.metric, FeatureLoss) else dict(self.metric.parts)
        self.parts |= {"loss/metric": metric.detach(), "loss/heads": taught.detach()}
        self.parts["distillation/heads"] = distilled.detach()
        if self.feature_weight and progress.step >= self.feature_delay:
            bridged = self.divergence(student, features)
            loss = loss + self.feature_weight * bridged
            self.parts["distillation/features"] = bridged.detach()
        return loss

    def outputs(self, features: Tensor) -> list[Tensor]:
        """g_k before any normalization, `[B, dims[k]]` each, of features `[B, F]`."""
        hidden = self.first(features).relu().split(self.dims, dim=-1)
        return [second(rows) for second, rows in zip(self.second, hidden, strict=True)]

    def similarities(self, embeddings: Tensor) -> Tensor:
        """log σ(S / T) `[B, B]`, S the cosine similarities of embeddings `[B, D]`."""
        unit = F.normalize(embeddings, dim=-1)
        return F.log_softmax(unit @ unit.T / self.temperature, dim=-1)

    def divergence(self, student: Tensor, teacher: Tensor) -> Tensor:
        """D: from the student's `similarities` `[B, B]` to those of a teacher's embeddings `[B, D′]`, taken as data."""
        taught = self.similarities(teacher.detach()).to(student.dtype)
        whole = F.kl_div(student, taught, reduction="sum", log_target=True)
        return whole * self.temperature**2 / len(student)

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the heads' parameters, and those of their losses' and the metric loss's own."""
        heads = [*self.first.parameters(), *self.second.parameters()]
        groups = [*super().parameter_groups(base_lr), {"params": heads, "lr": base_lr * self.lr_scale}]
        for loss in self.head_losses or ():
            own_groups = getattr(loss, "parameter_groups", None)
            groups += [] if own_groups is None else own_groups(base_lr)
        return groups

    def extra_repr(self) -> str:
        return (
            f"dims={self.dims}, weight={self.weight}, feature_weight={self.feature_weight}, "
            f"temperature={self.temperature}, feature_delay={self.feature_delay}"
        )
