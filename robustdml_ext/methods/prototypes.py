"""Learning Semantic Similarities for Prototypical Classifiers: Algorithm 1, and with adversarial training."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, CrossEntropyAscent
from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.embedded import join
from robustdml_ext.methods.feature_loss import check_number
from robustdml_ext.models import Embedder, PrototypicalClassifier, PrototypicalHeads
from robustdml_ext.models.prototypical import BOTH, DENSE, HEADS, SIMILARITY

ATTACKED = ("none", *HEADS, BOTH)
JOINT, ALONE = "joint", "alone"


def pair_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """L_pair, equation 3: binary cross-entropy of S over all target trials T⁺ and all non-target trials T⁻ of a batch.

    A trial is an ordered pair of two different examples, {x′, x″} and {x″, x′} both, as S is not symmetric. A batch
    without trials of a kind has no such term.

    Args:
        scores: S(E(x′), E(x″)) of all pairs, `[B, B]`.
        labels: int64 `[B]`.
    """
    target = labels[:, None] == labels[None]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    # −log σ(s) of target trials and −log(1 − σ(s)) of the others; each kind is averaged by itself.
    costs = F.softplus(torch.where(target, -scores, scores))
    shares = [
        kind.to(costs.dtype) / kind.sum().clamp(min=1).to(costs.dtype) for kind in (target & ~itself, ~target)
    ]  # fmt: skip
    return (costs * (shares[0] + shares[1])).sum()


class PrototypicalLoss(nn.Module):
    """L = L_class + L_pair + L_aux of embeddings, section 3.1.

    L_class (equation 2) is the cross-entropy of S(E(x), C), L_pair (equation 3) tells pairs of one class from others by
    S, and L_aux is the cross-entropy of the dense output layer. Prototypes are no parameters: call `heads.update` with
    the batch before the loss, as Algorithm 1 does.

    Args:
        heads: S, C, and the dense output layer.
        pair_weight, auxiliary_weight: of L_pair and of L_aux; 1 in the paper, and 0 leaves a term out.
        label_smoothing: of both cross-entropies, 0 to below 1. The paper has none; its published code has 0.2.

    Attributes:
        parts: the last call's terms, detached, for curves.

    Raises:
        TypeError, ValueError: a number that is none, or out of its range.
    """

    def __init__(
        self,
        heads: PrototypicalHeads,
        *,
        pair_weight: float = 1.0,
        auxiliary_weight: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.pair_weight = check_number("pair_weight", pair_weight)
        self.auxiliary_weight = check_number("auxiliary_weight", auxiliary_weight)
        self.label_smoothing = check_number("label_smoothing", label_smoothing)
        if label_smoothing >= 1:
            raise ValueError(f"label_smoothing: expected a number from 0 to below 1, got {label_smoothing}")
        self.parts: dict[str, Tensor] = {}

    def forward(self, embeddings: Tensor, labels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """The loss of embeddings `[B, d]` with labels int64 `[B]`.

        Args:
            embeddings, labels: of the whole batch.
            generator: what the seeds of S's dropout are drawn from; None for PyTorch's default one of the device.
        """
        seeds = self._seeds(embeddings, generator)
        terms = {"class": self._cross_entropy(self.heads.logits(embeddings, SIMILARITY, seeds[:1]), labels)}
        if self.pair_weight:
            trials = self.heads.similarity(embeddings, embeddings, seeds[1:])
            terms["pair"] = self.pair_weight * pair_loss(trials, labels)
        if self.auxiliary_weight:
            dense = self.heads.logits(embeddings, DENSE)
            terms["auxiliary"] = self.auxiliary_weight * self._cross_entropy(dense, labels)
        self.parts = {f"loss/{name}": term.detach() for name, term in terms.items()}
        return torch.stack(list(terms.values())).sum()

    def _cross_entropy(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def _seeds(self, embeddings: Tensor, generator: torch.Generator | None) -> Tensor:
        place = embeddings.device if generator is None else generator.device
        seeds = torch.randint(2**63 - 1, (2,), dtype=torch.int64, device=place, generator=generator)
        return seeds.to(embeddings.device)

    def parameter_groups(self, base_lr: float) -> list[dict[str, object]]:
        """Optimizer groups of S and the dense output layer, at the encoder's learning rate."""
        return [{"params": list(self.heads.parameters()), "lr": base_lr}]


class Prototypes(Method):
    """Algorithm 1: an encoder, a learned similarity and prototypes, trained together; one model for four tasks.

    With adversarial training each step attacks its images by the cross-entropy of one head, or of both, and trains on
    what comes out, alone (Madry et al. 2018) or in one batch with the clean images.

    Args:
        embedder: E.
        loss: L, with S, C and the dense output layer.
        adversarial: what is attacked in training: `"none"`, `"similarity"`, `"dense"`, or `"both"`.
        attack: ε, steps, step size and start of that attack.
        adversarial_batch: `"alone"`, as the published code trains on CIFAR-10, or `"joint"`, as it does on MNIST.

    Raises:
        TypeError: the loss is no `PrototypicalLoss`.
        ValueError: an unknown name, or an attack on the dense output layer, which L_aux does not train.
    """

    name = "prototypes"
    embedder: Embedder
    loss: PrototypicalLoss

    def __init__(
        self,
        embedder: Embedder,
        loss: PrototypicalLoss,
        adversarial: str = "none",
        attack: PGD | None = None,
        *,
        adversarial_batch: str = ALONE,
    ) -> None:
        super().__init__(embedder, loss)
        if not isinstance(loss, PrototypicalLoss):
            raise TypeError(f"loss: expected a PrototypicalLoss, got {type(loss).__name__}")
        if adversarial not in ATTACKED:
            raise ValueError(f"adversarial: expected one of {', '.join(ATTACKED)}, got {adversarial!r}")
        if adversarial_batch not in (JOINT, ALONE):
            raise ValueError(f"adversarial_batch: expected {JOINT!r} or {ALONE!r}, got {adversarial_batch!r}")
        if adversarial in (DENSE, BOTH) and not loss.auxiliary_weight:
            raise ValueError(f"adversarial: {adversarial} attacks the dense output layer, which needs auxiliary_weight")
        self.adversarial, self.adversarial_batch = adversarial, adversarial_batch
        # "Towards Deep Learning Models Resistant to Adversarial Attacks", CIFAR-10.
        self.attack = PGD(8 / 255, 7, 2 / 255, random_start=8 / 255) if attack is None else attack

    def classifier(self, class_names: list[str] | None = None) -> PrototypicalClassifier:
        """E, S and C as one model; it shares this method's weights."""
        return PrototypicalClassifier(self.embedder, self.loss.heads, class_names)

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """One iteration of Algorithm 1."""
        images, labels = batch.images, context.gather(batch.labels)
        if self.adversarial != "none":
            with self.measure("attack"):
                adversarial = self.perturb(batch, generator, context)
            images = torch.cat([images, adversarial]) if self.adversarial_batch == JOINT else adversarial
        # z = E(x)
        streams = self.embed_streams(images, len(images) // max(len(batch.images), 1) or 1, context)
        embeddings, labels = join(streams).embeddings, labels.repeat(len(streams))
        # C = UpdatePrototypes(z, y, C)
        self.loss.heads.update(embeddings.detach(), labels)
        # L = L_class + L_pair + L_aux
        loss: Tensor = self.loss(embeddings, labels, generator)
        return StepOutput(loss, dict(self.loss.parts))

    def perturb(self, batch: Batch, generator: torch.Generator, context: Context) -> Tensor:
        """Images `[b, C, H, W]` up the cross-entropy of the attacked heads; noise is drawn for the whole batch."""
        noise = self.attack.draw_noise(batch.images, generator, rows=context.world_size * len(batch.images))
        victim = self.classifier().through(self.adversarial)
        objective = CrossEntropyAscent(batch.labels, heads=2 if self.adversarial == BOTH else 1)
        own = None if noise is None else context.slice(noise)
        return self.attack.perturb(victim, batch.images, objective, generator=generator, noise=own)
