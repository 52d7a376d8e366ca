"""Ensemble Adversarial Training (EAT) and the naive ensemble that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, in_streams
from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context
from robustdml_ext.methods.defenses import apart, check_images
from robustdml_ext.methods.embedded import embed_streams
from robustdml_ext.methods.feature_loss import FeatureLoss
from robustdml_ext.methods.label_vectors import check_label_vectors
from robustdml_ext.methods.spread import SumOfProcesses, own_members, share_buffers, sum_of_all
from robustdml_ext.methods.untargeted import attack_members, check_objective, default_attack
from robustdml_ext.models import EmbedderEnsemble


def split_into_parts(labels: Tensor, count: int, seed: int) -> Tensor:
    """Line 2 of Algorithm 1: D_train = {D¹, …, D^N} at random, of the same size; each image's part, int64 `[n]`.

    Every class is dealt out evenly, so that each member meets all classes; parts differ by one image at most.

    Args:
        labels: classes of the training images, int64 `[n]`.
        count: N.
        seed: of the split, which depends on nothing else.

    Raises:
        ValueError: a count below 1.
    """
    if count < 1:
        raise ValueError(f"count: expected at least one part, got {count}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    dealt = order[labels.cpu()[order].argsort(stable=True)]
    parts = torch.empty(len(labels), dtype=torch.int64)
    parts[dealt] = torch.arange(len(labels)) % count
    return parts


class EAT(Method):
    """EAT, Algorithm 1: N members, each trained on all parts of the data but its own, and on the ensemble's examples.

    One batch of D_train serves all members: member i takes the images that are not of its part Dⁱ (line 5). All are
    attacked once, in one pass for all members, since line 7 attacks x on (F¹, …, F^N) as they are before the update,
    whichever member the example is for; every member then trains on its own images' clean and adversarial forms
    (lines 6 and 8) in one pass, one batch for the norms. A member's own batch is then (N − 1)/N of the batch, as its
    data are of D_train; without the split it is the whole one.

    Across processes members are spread: each process trains its own on the whole batch, and an attack's gradients are
    summed over processes. A process has all members' weights; only the running statistics of others are not kept up
    between saves.

    Args:
        ensemble: the members.
        losses: L_metric of each member, with proxies of its own.
        parts: each training image's part, int64 `[n]`, of 0 to N − 1; None: no split, every
            member takes every image.
        attack: gen of line 7; `default_attack` where None.
        beta: β of line 9; 1 trains on clean images alone. Not given in the paper; 1/2 here.
        self_transfer: attack the whole ensemble (line 7). Off: each member trains on attacks on itself alone.
        label_vectors: of L_adv. `"classes"`: L_metric(D_adv), as line 8 has it; `"embeddings"`: F(x) in place of y, as
            in the paper's adaption of adversarial training.
        attack_objective: see `attack_members`.

    Raises:
        ValueError: numbers out of their range, losses or parts that do not fit the members, or an unknown name.
    """

    name = "eat"

    def __init__(
        self,
        ensemble: EmbedderEnsemble,
        losses: Sequence[nn.Module],
        parts: Tensor | None = None,
        attack: PGD | None = None,
        *,
        beta: float = 0.5,
        self_transfer: bool = True,
        label_vectors: str = "classes",
        attack_objective: str = "away",
    ) -> None:
        count = len(ensemble.members)
        if isinstance(losses, nn.Module) or len({id(loss) for loss in losses}) != count or len(losses) != count:
            got = type(losses).__name__ if isinstance(losses, nn.Module) else f"{len(losses)}"
            if got == f"{count}":
                got += ", of which some are the same"
            raise ValueError(f"losses: expected one of its own for each of {count} members, got {got}")
        super().__init__(ensemble, nn.ModuleList(losses))
        if not 0 <= beta <= 1:
            raise ValueError(f"beta: expected a number from 0 to 1, got {beta}")
        if parts is not None and (count < 2 or set(parts.unique().tolist()) != set(range(count))):
            raise ValueError(f"parts: expected every number from 0 to {count - 1} of at least 2 members, got "
                             f"{parts.unique().tolist()}")  # fmt: skip
        self.attack = default_attack() if attack is None else attack
        self.beta, self.self_transfer = beta, self_transfer
        self.label_vectors = check_label_vectors(label_vectors)
        self.attack_objective = check_objective(attack_objective, self.attack)
        self.register_buffer("parts", parts)
        self.parts: Tensor | None

    @property
    def ensemble(self) -> EmbedderEnsemble:
        """The members."""
        assert isinstance(self.embedder, EmbedderEnsemble)
        return self.embedder

    @property
    def losses(self) -> list[nn.Module]:
        """L_metric of each member."""
        return list(self.loss.children())

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """Σ_i L_EAT of line 9; the members' gradients have nothing in common."""
        check_images(batch)
        own = own_members(len(self.ensemble.members), context)
        alone = Context()  # every process has the whole batch
        images, labels = context.gather(batch.images), context.gather(batch.labels)
        rows = self._rows(batch, context)
        with self.measure("attack"):
            attacked = self._attacked(images, labels, rows, own, generator, context) if self.beta < 1 else None
        draws = self._draws(generator)

        def step(number: int) -> tuple[Tensor, Tensor, Tensor]:
            here, member, loss = rows[number], self.ensemble.embedders[number], self.losses[number]
            if not len(here):  # a small batch may be of the member's own part alone, from which it learns nothing
                resting = {id(parameter) for parameter in self._resting(loss)}
                awake = (parameter for parameter in loss.parameters() if id(parameter) not in resting)
                nothing = sum((p.sum() * 0 for p in awake), images.new_zeros((), requires_grad=True))
                return nothing, nothing, nothing
            behind = isinstance(loss, FeatureLoss)
            if attacked is None:
                (clean,) = embed_streams(member, images[here], 1, alone, features=behind)
                nothing = clean.embeddings.new_zeros(())
                return self.metric(clean, labels[here], draws[number], loss), nothing, nothing
            together = torch.cat([images[here], attacked[number]])
            clean, against = embed_streams(member, together, 2, alone, features=behind)
            if self.label_vectors == "classes":
                added = self.metric(against, labels[here], draws[number], loss)
            else:
                added = self.to_vectors(against, clean.embeddings, labels[here], draws[number], loss)
            return self.metric(clean, labels[here], draws[number], loss), added, apart(against, clean).detach()

        steps = [partial(step, number) for number in own]
        found = dict(zip(own, in_streams(steps, images.device), strict=True))
        losses = [self.beta * clean + (1 - self.beta) * added for clean, added, _ in found.values()]
        log: dict[str, Tensor | float] = {}
        for name, which in (("loss/clean", 0), ("loss/adversarial", 1), ("distance/adversarial", 2)):
            if which == 0 or attacked is not None:
                mean = torch.stack([values[which].detach() for values in found.values()]).sum() / len(self.losses)
                log[name] = sum_of_all(mean, context)
        parts = self.take_parts()
        # Of several processes one may have no images for its members, and so no parts to sum.
        log |= parts if context.world_size == 1 else {}
        return StepOutput(sum_of_all(torch.stack(losses).sum(), context), log)

    def _draws(self, generator: torch.Generator) -> list[torch.Generator]:
        """What each member's loss draws from: all processes draw all seeds, so that they stay in step."""
        if not any(isinstance(loss, FeatureLoss) for loss in self.losses):
            return [generator] * len(self.losses)
        seeds = torch.randint(2**62, (len(self.losses),), generator=generator, device=generator.device).tolist()
        return [torch.Generator(device=generator.device).manual_seed(seed) for seed in seeds]

    def _resting(self, loss: nn.Module) -> Iterator[nn.Parameter]:
        return loss.resting(self.epoch) if isinstance(loss, FeatureLoss) else iter(())

    def _rows(self, batch: Batch, context: Context) -> list[Tensor]:
        """Of the whole batch, each member's rows: D_train without its own part (line 5)."""
        every = torch.arange(context.world_size * len(batch.images), device=batch.images.device)
        if self.parts is None:
            return [every] * len(self.ensemble.members)
        if batch.indices is None:
            raise ValueError(
                "batch: expected indices, the images' places in the training set, which say whose part they are of"
            )
        places = context.gather(batch.indices.to(self.parts.device))
        # On CUDA the look would wait for the device; there the kernel asserts.
        if places.is_cpu and len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(self.parts):
            raise ValueError(
                f"batch: expected indices from 0 to {len(self.parts) - 1}, the training set's, got "
                f"{int(places.min())} to {int(places.max())}"
            )
        part = self.parts[places]
        return [every[part != number] for number in range(len(self.ensemble.members))]

    def _attacked(
        self, images: Tensor, labels: Tensor, rows: list[Tensor], own: list[int], generator: torch.Generator,
        context: Context,
    ) -> dict[int, Tensor]:  # fmt: skip
        """Line 7: each own member's adversarial images, of its rows."""
        alone = Context()
        if self.self_transfer:
            together = attack_members(
                [self.ensemble.members[n] for n in own], [self.losses[n] for n in own], images, labels, self.attack,
                generator, alone, objective=self.attack_objective,
                sums=SumOfProcesses(context) if context.world_size > 1 else None,
            )  # fmt: skip
            return {number: together[rows[number]] for number in own}
        attacked = {}
        for number in range(len(self.ensemble.members)):
            here = rows[number]
            # All draw for all, so that processes stay in step.
            noise = self.attack.draw_noise(images[here], generator)
            if number in own and not len(here):
                attacked[number] = images[here]
            elif number in own:
                attacked[number] = attack_members(
                    [self.ensemble.members[number]], [self.losses[number]], images[here], labels[here], self.attack,
                    generator, alone, objective=self.attack_objective, noise=noise,
                )  # fmt: skip
        return attacked

    def parameter_groups(self, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Optimizer groups of all members and their losses."""
        return self._groups(self.losses, lr, weight_decay)

    def join(self, context: Context) -> None:
        """Members' statistics are of one process each, so the norms span none."""
        own_members(len(self.ensemble.members), context)

    def before_sum(self, context: Context) -> None:
        """Gives the parameters of other processes' members a gradient of zero, to be summed with the true one."""
        resting = {id(parameter) for loss in self.losses for parameter in self._resting(loss)}
        if not all(loss.trains_network(self.epoch) for loss in self.losses if isinstance(loss, FeatureLoss)):
            resting |= {id(parameter) for parameter in self.embedder.parameters()}
        for parameter in (*self.embedder.parameters(), *self.loss.parameters()):
            if parameter.requires_grad and parameter.grad is None and id(parameter) not in resting:
                parameter.grad = torch.zeros_like(parameter)

    def settle(self, context: Context) -> None:
        """Running statistics of all members, for a process that saves or judges them."""
        share_buffers(self.ensemble.members, context)


class NaiveEnsemble(EAT):
    """N models trained individually and put together by the voting mechanism (table 3, "Naive Ensemble").

    Each member has batches of its own, drawn from the whole training set, initial weights of its own, and attacks of
    its own. The paper does not say what is trained; its figures under attack are those of one AT model (17.9 % and
    18.0 % Recall@1 on CUB200; PAL 7.2 %), so members are trained by AT unless asked otherwise.

    Args:
        ensemble, losses, attack, beta, label_vectors, attack_objective: as `EAT`; β = 1 makes PAL members.
    """

    name = "ensemble"

    def __init__(
        self,
        ensemble: EmbedderEnsemble,
        losses: Sequence[nn.Module],
        attack: PGD | None = None,
        *,
        beta: float = 0.5,
        label_vectors: str = "classes",
        attack_objective: str = "away",
    ) -> None:
        super().__init__(
            ensemble, losses, None, attack, beta=beta, self_transfer=False, label_vectors=label_vectors,
            attack_objective=attack_objective,
        )  # fmt: skip
        self.plans = len(ensemble.members)

    def _rows(self, batch: Batch, context: Context) -> list[Tensor]:
        """The batch is N batches, one after the other; over processes each brings a consecutive piece."""
        count, images = len(self.ensemble.members), context.world_size * len(batch.images)
        if images % count:
            raise ValueError(f"batch: expected one batch a member, {count} of a size, got {images} images")
        return list(torch.arange(images, device=batch.images.device).chunk(count))
