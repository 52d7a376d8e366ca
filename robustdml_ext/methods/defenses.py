"""The defenses that EAT is compared with, as its paper adapts them to metric learning: AT, Mix-Up, IAT, TRADES.

Each adds a term to the metric loss L_metric(F(x), Y) of clean images, as line 9 of Algorithm 1 does:
    L = β·L_metric(F(x), Y) + (1 − β)·(the equation's loss),
β = 1/2 where the paper does not say, since adversarial training "includes those examples into the training dataset";
with β = 0 the equation stands alone.

What stands for y in equations 4, 6 and 7 the paper says in two ways. In words, F(x) takes the place of y, L_metric that
of L: `label_vectors="embeddings"`, see `metric_to_vectors`. In Algorithm 1, L_metric is that of the data, with their
classes: `label_vectors="classes"`, the default, as the Proxy-Anchor loss, which the paper takes for L_metric, has a
label vector of every class by itself. The other way does what the paper warns of ("could make the training hard to
converge"): on QuickDraw's 172 classes it loses a third of the clean Recall@1, where the published rows hardly lose any;
on five classes of digits it is the more robust one.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD
from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.embedded import Embedded
from robustdml_ext.methods.label_vectors import check_label_vectors
from robustdml_ext.methods.untargeted import attack_members, check_objective, default_attack
from robustdml_ext.models import Embedder


class Defense(Method):
    """What the four share.

    Args:
        embedder: its clean distribution is attacked and trained.
        loss: L_metric; Proxy-Anchor (PAL) in the paper.
        attack: Adv(·); EAT's `default_attack` where None.
        beta: β, the weight of the clean loss.
        label_vectors: what stands for y in equations 4, 6 and 7: `"classes"` or `"embeddings"`; see above.
        attack_objective: see `attack_members`.

    Raises:
        ValueError: a number out of its range, or an unknown name.
    """

    def __init__(
        self,
        embedder: Embedder,
        loss: nn.Module,
        attack: PGD | None = None,
        *,
        beta: float = 0.5,
        label_vectors: str = "classes",
        attack_objective: str = "away",
    ) -> None:
        super().__init__(embedder, loss)
        if not 0 <= beta <= 1:
            raise ValueError(f"beta: expected a number from 0 to 1, got {beta}")
        self.attack = default_attack() if attack is None else attack
        self.beta = beta
        self.label_vectors = check_label_vectors(label_vectors)
        self.attack_objective = check_objective(attack_objective, self.attack)

    def perturbed(self, batch: Batch, generator: torch.Generator, context: Context) -> Tensor:
        """Adv(x), equation 5 with the metric between F(x_adv) and F(x)."""
        check_images(batch)
        with self.measure("attack"):
            return attack_members(
                [self.embedder], [self.loss], batch.images, batch.labels, self.attack, generator, context,
                objective=self.attack_objective,
            )  # fmt: skip

    def embed_together(self, parts: list[Tensor], context: Context) -> list[Embedded]:
        """Each part of this process's images, embedded, over all processes; one batch for the norms."""
        return self.embed_streams(torch.cat(parts), len(parts), context)

    def mixture(self, clean: Tensor, adversarial: Tensor | None, name: str, added: Tensor) -> StepOutput:
        """β·L_metric(F(x), Y) + (1 − β)·added, with what to log."""
        loss = self.beta * clean + (1 - self.beta) * added
        log: dict[str, Tensor | float] = {"loss/clean": clean.detach(), f"loss/{name}": added.detach()}
        if adversarial is not None:
            log["distance/adversarial"] = adversarial.detach()
        return StepOutput(loss, log | self.take_parts())


class UntargetedAdversarial(Defense):
    """AT (Madry et al.; equations 4 and 5 of EAT): L_metric of x_adv, which is far from x in embedding space."""

    name = "at"

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """β·L_metric(F(x), Y) + (1 − β)·L_metric(F(x_adv), Y); with label vectors L_metric(F(x_adv), F(x))."""
        labels = context.gather(batch.labels)
        attacked = self.perturbed(batch, generator, context)
        clean, adversarial = self.embed_together([batch.images, attacked], context)
        if self.label_vectors == "classes":
            added = self.metric(adversarial, labels, generator)
        else:
            added = self.to_vectors(adversarial, clean.embeddings, labels, generator)
        return self.mixture(self.metric(clean, labels, generator), apart(adversarial, clean), "adversarial", added)


class MixUp(Defense):
    """Mix-Up (Zhang et al. 2018; equation 6 of EAT): images between two images have embeddings between theirs.

    Args:
        alpha: α of λ ~ Beta(α, α), drawn once a batch, as its authors' code does; not given in EAT's paper, 1 here.
    """

    name = "mixup"

    def __init__(
        self, embedder: Embedder, loss: nn.Module, *, alpha: float = 1.0, beta: float = 0.5,
        label_vectors: str = "classes",
    ) -> None:  # fmt: skip
        super().__init__(embedder, loss, beta=beta, label_vectors=label_vectors)
        if not alpha > 0:
            raise ValueError(f"alpha: expected a number above 0, got {alpha}")
        self.alpha = alpha

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """β·L_metric(F(x), Y) + (1 − β)·L_metric(F(x̃), ỹ), x̃ = λx_0 + (1 − λ)x_1; for ỹ see `to_mixture`."""
        labels = context.gather(batch.labels)
        share, partners = self.draw(len(labels), generator)
        mixed = self.mix(batch.images, share, partners, context)
        clean, between = self.embed_together([batch.images, mixed], context)
        added = self.to_mixture(between, clean, labels, share, partners, generator)
        return self.mixture(self.metric(clean, labels, generator), None, "mixed", added)

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """λ, a scalar, and x_1's row for each x_0, int64 `[B]`: a random permutation of the batch."""
        alphas = torch.full((2,), self.alpha, device=generator.device)
        # Gamma draws make Beta's, and take a generator, which torch.distributions does not.
        gammas = torch._standard_gamma(alphas, generator=generator).clamp_min(torch.finfo(torch.float32).tiny)
        return gammas[0] / gammas.sum(), torch.randperm(count, generator=generator, device=generator.device)

    def mix(self, images: Tensor, share: Tensor, partners: Tensor, context: Context) -> Tensor:
        """λx_0 + (1 − λ)x_1 of this process's images `[b, C, H, W]`; partners are of the whole batch."""
        others = context.gather(images)[context.slice(partners)]
        return images * share + others * (1 - share)

    def to_mixture(
        self, between: Embedded, clean: Embedded, labels: Tensor, share: Tensor, partners: Tensor,
        generator: torch.Generator,
    ) -> Tensor:  # fmt: skip
        """L_metric(F(x̃), ỹ), ỹ = λy_0 + (1 − λ)y_1.

        With classes it is λ·L_metric(F(x̃), Y_0) + (1 − λ)·L_metric(F(x̃), Y_1), as for any loss that is linear in y;
        with label vectors, ỹ = λF(x_0) + (1 − λ)F(x_1).
        """
        if self.label_vectors == "classes":
            towards = [self.metric(between, classes, generator) for classes in (labels, labels[partners])]
            return share * towards[0] + (1 - share) * towards[1]
        targets = share * clean.embeddings + (1 - share) * clean.embeddings[partners]
        # A mixture is of a pair of classes; mixtures of the same two, in the same order, are alike.
        _, pairs = torch.stack([labels, labels[partners]]).unique(dim=1, return_inverse=True)
        return self.to_vectors(between, targets, pairs, generator)


class IAT(MixUp):
    """Interpolated adversarial training (Lamb et al. 2019; equation 7 of EAT): Mix-Up of clean and attacked images."""

    name = "iat"

    def __init__(
        self, embedder: Embedder, loss: nn.Module, attack: PGD | None = None, *, alpha: float = 1.0, beta: float = 0.5,
        label_vectors: str = "classes", attack_objective: str = "away",
    ) -> None:  # fmt: skip
        super().__init__(embedder, loss, alpha=alpha, beta=beta, label_vectors=label_vectors)
        self.attack = self.attack if attack is None else attack
        self.attack_objective = check_objective(attack_objective, self.attack)

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """β·L_metric(F(x), Y) + (1 − β)·(L_metric(F(x̃), ỹ) + L_metric(F(g(x̃)), ỹ)), g(x̃) = λAdv(x_0) + (1 − λ)Adv(x_1).

        λ, the pairs and ỹ, of clean embeddings, are the same in both.
        """
        labels = context.gather(batch.labels)
        share, partners = self.draw(len(labels), generator)
        attacked = self.perturbed(batch, generator, context)
        mixed, mixed_attacked = (self.mix(images, share, partners, context) for images in (batch.images, attacked))
        clean, between, adversarial = self.embed_together([batch.images, mixed, mixed_attacked], context)
        added = self.to_mixture(between, clean, labels, share, partners, generator)
        added = added + self.to_mixture(adversarial, clean, labels, share, partners, generator)
        return self.mixture(self.metric(clean, labels, generator), apart(adversarial, between), "mixed", added)


class TRADES(Defense):
    """TRADES (Zhang et al. 2019; equation 8 of EAT): clean accuracy, and λ times the distance that an attack makes.

    Args:
        trade_off: λ; not given in EAT's paper, 6 in TRADES' own.
    """

    name = "trades"

    def __init__(
        self, embedder: Embedder, loss: nn.Module, attack: PGD | None = None, *, trade_off: float = 6.0,
        attack_objective: str = "away",
    ) -> None:  # fmt: skip
        super().__init__(embedder, loss, attack, attack_objective=attack_objective)
        if not trade_off >= 0:
            raise ValueError(f"trade_off: expected a number >= 0, got {trade_off}")
        self.trade_off = trade_off

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """L_metric(F(x), Y) + λ·(1/m) Σ_i L(F(Adv(x_i)), F(x_i)), L = 1 − cos; both embeddings are trained."""
        labels = context.gather(batch.labels)
        attacked = self.perturbed(batch, generator, context)
        clean, adversarial = self.embed_together([batch.images, attacked], context)
        metric, distance = self.metric(clean, labels, generator), apart(adversarial, clean)
        log: dict[str, Tensor | float] = {"loss/clean": metric.detach(), "distance/adversarial": distance.detach()}
        loss = metric + self.trade_off * distance if self.trains_network else metric
        return StepOutput(loss, log | self.take_parts())


def apart(first: Embedded, second: Embedded) -> Tensor:
    """The mean of 1 − cos between embeddings, row by row; of unit vectors, half the squared distance."""
    return (1 - torch.nn.functional.cosine_similarity(first.embeddings, second.embeddings, dim=1)).mean()


def check_images(batch: Batch) -> None:
    """Raises ValueError for a batch without images."""
    if not len(batch.images):
        raise ValueError("batch: expected at least one image, got none")
