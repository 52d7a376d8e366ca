"""Deep Adversarial Metric Learning (DAML, Duan et al.): metric losses on generated hard negatives.

Algorithm 1: pre-train θ_f on the observed negatives; initialize θ_g; then, step by step, sample a batch, produce its
tuples, and optimize θ_g and θ_f jointly by equation 7, J = J_gen + λ J_m.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.losses.embeddings import check_batch
from robustdml_ext.methods.embedded import Embedded
from robustdml_ext.methods.feature_loss import FeatureLoss, Progress, apply_loss, check_number
from robustdml_ext.methods.synthetic_losses import FORMS, Synthetic, squared_distance
from robustdml_ext.models.generator import HardNegativeGenerator, Tuples

MINING = ("all", "semihard", "hardest")
GRADIENTS = ("players", "through", "literal")


class HardNegatives(FeatureLoss):
    """J = J_gen + λ J_m of DAML, equations 5 to 12, in the place of a metric loss.

    The generator makes synthetic negatives x̃⁻ = G(θ_g; x⁻, x, x⁺) of the network's features, which pass the network's
    own head. It minimizes (equation 6, a mean over the synthetic negatives)

        J_gen = ‖x̃⁻ − x‖² + λ₁ ‖x̃⁻ − x⁻‖² + λ₂ [D(x̃⁻, x)² − D(x⁺, x)² − γ]₊,

    J_hard + λ₁ J_reg + λ₂ J_adv: close to the anchor, close to the observed negative, and misclassified by the metric,
    D the Euclidean distance of embeddings. The metric minimizes J_m, the loss over x, x⁺ and the synthetic negatives in
    place of the observed ones; see `synthetic_losses`.

    The two play against each other, so each term's gradient reaches its own player alone (`gradients="players"`):
    J_gen's the generator's parameters θ_g, with the network as it is; λ J_m's the network's θ_f, by the embeddings of x
    and x⁺ and by the head of those of x̃⁻, which the metric takes as data. With "through" it goes on from x̃⁻ through
    the generator, as that is, to the features. With "literal" equation 7 is taken to the letter, the sum minimized over
    both: then J_adv also asks the network to draw negatives near, and J_m the generator to make them easy.

    Args:
        metric: the loss of observed embeddings: the pre-training's, and what an attack climbs.
        feature_dim: F, of the network's features.
        form: J_m: "contrastive" (equation 8), "triplet" (9), "lifted" (10, 11) or "npair" (12).
        margin: γ, of J_adv and of J_m.
        regularization: λ₁.
        adversary: λ₂.
        weight: λ. As the players share no parameter, it scales the metric's gradient against that of other terms.
        negatives: synthetic negatives of each anchor and positive, from observed ones drawn at random, at most all
            that there are; None: as the paper's tuples have them, one for contrastive and triplet, for lifted one of
            every image of another class, for N-pair one of every other class's positive (C − 1).
        mining: which of them J_m counts: "all"; "hardest", the nearest of each anchor; or "semihard", those farther
            than the positive by less than γ; by Euclidean distance, with N-pair too.
        pretrain_epochs: of the metric alone, on observed negatives. Epochs are those that the method is told: set its
            `epoch` in a training loop of your own.
        generator_epochs: then of the generator alone ("initialize the generator adversarial to the pre-trained
            metric"), before both are optimized.
        hidden: width of the generator's hidden layers; None: F.
        lr_scale: learning rate of the generator over the network's.
        gradients: "players", "through" or "literal"; see above.

    Raises:
        ValueError: a number out of its range, or an unknown name.
    """

    def __init__(
        self,
        metric: nn.Module,
        feature_dim: int,
        form: str,
        *,
        margin: float = 1.0,
        regularization: float = 1.0,
        adversary: float = 50.0,
        weight: float = 1.0,
        negatives: int | None = None,
        mining: str = "all",
        pretrain_epochs: int = 0,
        generator_epochs: int = 0,
        hidden: int | None = None,
        lr_scale: float = 1.0,
        gradients: str = "players",
    ) -> None:
        super().__init__(metric)
        if form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}; got {form!r}")
        if mining not in MINING:
            raise ValueError(f"mining: expected one of {', '.join(MINING)}; got {mining!r}")
        if gradients not in GRADIENTS:
            raise ValueError(f"gradients: expected one of {', '.join(GRADIENTS)}; got {gradients!r}")
        if negatives is not None and negatives < 1:
            raise ValueError(f"negatives: expected >= 1 or None, got {negatives}")
        if pretrain_epochs < 0 or generator_epochs < 0:
            raise ValueError(
                f"pretrain_epochs, generator_epochs: expected >= 0, got {pretrain_epochs} and {generator_epochs}"
            )
        self.generator = HardNegativeGenerator(feature_dim, hidden)
        self.form, self.negatives, self.mining = form, negatives, mining
        self.margin, self.weight = check_number("margin", margin), check_number("weight", weight)
        self.regularization = check_number("regularization", regularization)
        self.adversary = check_number("adversary", adversary)
        self.lr_scale = check_number("lr_scale", lr_scale, above=True)
        self.pretrain_epochs, self.generator_epochs, self.gradients = pretrain_epochs, generator_epochs, gradients

    def forward(self, embedded: Embedded, labels: Tensor, generator: torch.Generator, progress: Progress) -> Tensor:
        """Lines 1 to 6 of Algorithm 1, whichever the epoch calls for; see `FeatureLoss`."""
        check_batch(embedded.embeddings, labels)
        epoch = progress.epoch
        if epoch < self.pretrain_epochs:
            metric = apply_loss(self.metric, embedded, labels, generator, progress)
            self.parts = {"loss/metric": metric.detach()}
            return metric
        if embedded.features is None:
            raise ValueError("embedded: expected features, which the generator takes; got None")
        features, tuples = embedded.features, self.draw(labels, generator)
        if self.gradients == "players":
            for_generator = self.generator(features.detach(), tuples)
            for_metric = for_generator.detach()
        elif self.gradients == "through":
            for_generator, for_metric = self.generator.for_both_players(features, tuples)
        else:
            for_generator = for_metric = self.generator(features, tuples)
        generated = self.generator_loss(embedded, for_generator, tuples)
        if epoch < self.pretrain_epochs + self.generator_epochs:
            return generated
        metric = self.metric_loss(embedded, for_metric, tuples, labels)
        self.parts |= {"loss/metric": metric.detach()}
        return generated + self.weight * metric

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tuples:
        """Line 5 of Algorithm 1: the tuples of a batch with labels `[B]`."""
        form = FORMS[self.form]
        return form.draw(labels, form.negatives if self.negatives is None else self.negatives, generator)

    def generator_loss(self, embedded: Embedded, synthetic: Tensor, tuples: Tuples) -> Tensor:
        """J_gen, equation 6, of synthetic negatives `[T, M, F]`: for the generator's parameters."""
        features, embeddings = embedded.features, embedded.embeddings
        assert features is not None
        own = self.gradients != "literal"
        if own:
            features, embeddings = features.detach(), embeddings.detach()
        observed = features.to(synthetic.dtype)
        misclassified = embedded.head.embeddings(synthetic, fixed=own)
        anchor, positive = embeddings[tuples.anchor], embeddings[tuples.positive]
        allowed = squared_distance(positive, anchor)[:, None] + self.margin
        terms = {
            "hard": squared_distance(synthetic, observed[tuples.anchor][:, None]),
            "regularize": squared_distance(synthetic, observed[tuples.negatives]),
            "adversary": (squared_distance(misclassified, anchor[:, None]) - allowed).relu(),
        }
        means = {name: _mean(term, tuples.valid) for name, term in terms.items()}
        loss = means["hard"] + self.regularization * means["regularize"] + self.adversary * means["adversary"]
        self.parts = {f"generator/{name}": mean.detach() for name, mean in means.items()}
        self.parts["loss/generator"] = loss.detach()
        return loss

    def metric_loss(self, embedded: Embedded, synthetic: Tensor, tuples: Tuples, labels: Tensor) -> Tensor:
        """J_m on synthetic negatives `[T, M, F]`: for the network's parameters."""
        negatives = embedded.head.embeddings(synthetic)
        valid = self.mined(embedded.embeddings, negatives.detach(), tuples)
        return FORMS[self.form].loss(Synthetic(embedded.embeddings, labels, tuples, negatives, valid), self.margin)

    @torch.no_grad()
    def mined(self, embeddings: Tensor, negatives: Tensor, tuples: Tuples) -> Tensor | None:
        """Which synthetic negatives `[T, M]` J_m counts; None: all."""
        if self.mining == "all" or not negatives.numel():
            return tuples.valid
        there = torch.ones_like(tuples.negatives, dtype=torch.bool) if tuples.valid is None else tuples.valid
        anchor = embeddings[tuples.anchor]
        apart = squared_distance(negatives, anchor[:, None])
        if self.mining == "hardest":
            nearest = apart.masked_fill(~there, torch.inf).argmin(1, keepdim=True)
            return torch.zeros_like(there).scatter_(1, nearest, True) & there
        positive = squared_distance(embeddings[tuples.positive], anchor)[:, None]
        return there & (apart > positive) & (apart < positive + self.margin)

    def parameter_groups(self, base_lr: float) -> list[dict[str, Any]]:
        """Optimizer groups of the generator's parameters, and those of the metric loss's own."""
        return [
            *super().parameter_groups(base_lr),
            {"params": list(self.generator.parameters()), "lr": base_lr * self.lr_scale},
        ]

    def trains_network(self, epoch: int) -> bool:
        """Not while the generator is trained alone."""
        return not self.pretrain_epochs <= epoch < self.pretrain_epochs + self.generator_epochs

    def resting(self, epoch: int) -> Iterator[nn.Parameter]:
        """The generator's parameters while the metric is trained alone."""
        return self.generator.parameters() if epoch < self.pretrain_epochs else iter(())

    def extra_repr(self) -> str:
        return (
            f"form={self.form!r}, margin={self.margin}, regularization={self.regularization}, "
            f"adversary={self.adversary}, weight={self.weight}, negatives={self.negatives}, mining={self.mining!r}"
        )


def _mean(terms: Tensor, valid: Tensor | None) -> Tensor:
    """Their mean, 0 of none."""
    if valid is None:
        return terms.sum() / max(terms.numel(), 1)
    return torch.where(valid, terms, 0).sum() / valid.sum().clamp(min=1)
