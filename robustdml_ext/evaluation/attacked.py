"""A data set under attack: every image perturbed as a threat model says, and embedded as the model is deployed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import (
    AwayFromClean,
    CandidateRank,
    MetricLossAscent,
    Objective,
    OutOfTopK,
    RankAmong,
    TowardsTargets,
    routes,
    sample_targets,
    under_attack,
)
from robustdml_ext.evaluation.ranks import nearest_right
from robustdml_ext.evaluation.subject import Embedded, Images, Perturbation, Subject, seen_by, without_broken
from robustdml_ext.evaluation.suite import embed
from robustdml_ext.evaluation.surrogate import distilled_surrogate
from robustdml_ext.evaluation.threats import BOTH_SIDES, GALLERY, QUERIES, ThreatModel
from robustdml_ext.losses import MultiSimilarityLoss

_ALL_PAIRS = 4.0  # more than two cosines can differ by

# Is shown what an attack makes: rows of the images, these before `[b, C, H, W]`, and after.
Watch = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Attacked:
    """What an attack led to, as the deployed model sees it: embeddings may hold NaN or infinity.

    Attributes:
        embedded: of queries and gallery, attacked or clean as the threat says.
        candidates: rows of the gallery that the attack is about, int64 `[N, C]`, where it is about some.
        moved: each query's own attacked candidate `[N, D]`, in an otherwise clean gallery.
        perturbation: how far images moved.
    """

    embedded: Embedded
    perturbation: Perturbation
    candidates: Tensor | None = None
    moved: Tensor | None = None


def attack_subject(
    subject: Subject,
    threat: ThreatModel,
    seed: int = 0,
    *,
    route: nn.Module | None = None,
    chosen: Tensor | None = None,
    watch: Watch | None = None,
) -> Attacked:
    """Attacks a subject's images by the gradients of one route, and embeds them as the model is deployed.

    Args:
        subject: the model and its images.
        threat: the attack.
        seed: of targets and random starts. With a random start, the batch size has a say as well.
        route: a module like the judged one, whose gradients are used; None for the one that the threat names.
        chosen: rows of the queries to attack, int64; None for all. The others stay clean.
        watch: is shown every batch of queries, or of queries and gallery, that is attacked.
    """
    if route is None:
        route = one_route(subject, threat, seed)
    with subject.autocast(threat.precision), warnings.catch_warnings():
        # That a route has no gradient is a check of its own.
        warnings.simplefilter("ignore", RuntimeWarning)
        return _Run(subject, threat, seed, route, chosen, watch).result()


class _Run:
    """One attack through one route."""

    def __init__(
        self,
        subject: Subject,
        threat: ThreatModel,
        seed: int,
        route: nn.Module,
        chosen: Tensor | None,
        watch: Watch | None,
    ) -> None:
        self.subject, self.threat, self.route, self.chosen, self.watch = subject, threat, route, chosen, watch
        # What the attacker compares with is what this route gives, whose embeddings may be of another size.
        self.bank = subject.clean(self.route, threat.precision, threat.distribution).whole()
        self.generator = torch.Generator().manual_seed(seed)
        self.targets = self._targets()
        # A copy, as attacks in turns move it.
        self.everything = self.bank.all().to(subject.device, copy=True)
        self.attack = threat.attack()

    def _targets(self) -> Tensor | None:
        """Rows that each image is drawn to, or that each query's attack is about; int64 `[N, T]` on the CPU."""
        name, subject, count = self.threat.name, self.subject, self.threat.targets
        if name in ("stax", "mtax"):
            labels = subject.all_labels
            return sample_targets(labels, count, candidates=labels, generator=self.generator)
        if name.endswith("-raise"):
            return sample_targets(subject.labels, count, candidates=subject.gallery_labels, generator=self.generator)
        if name.endswith("-lower"):
            # The items that the deployed model finds, whatever way the gradients go and however far.
            precision = self.threat.precision
            return subject.remembered(("nearest right", precision, count), lambda: _nearest(subject, precision, count))
        return None

    def result(self) -> Attacked:
        if self.threat.attacked_side == GALLERY:
            return self._gallery_items()
        subject, threat, perturbation = self.subject, self.threat, Perturbation()
        places: list[Tensor] = []
        objective = self._objectives()

        def adversarial() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, classes, rows in subject.batches(threat.attacked_side):
                if self.chosen is not None:
                    asked = torch.isin(rows, self.chosen)
                    if not asked.any():
                        continue
                    pixels, classes = pixels[asked.to(pixels.device)], classes[asked.to(classes.device)]
                    rows = rows[asked]
                if threat.turns == 1:
                    perturbed = self.attack.perturb(self.route, pixels, objective(rows), generator=self.generator)
                else:
                    perturbed = self._in_turns(pixels, rows, objective)
                perturbation.add(pixels, perturbed)
                if self.watch is not None:
                    self.watch(rows, pixels, perturbed)
                places.append(rows)
                yield perturbed, classes

        moved, _ = embed(subject.model, adversarial(), subject.device)
        attacked = self._placed(subject.clean(precision=threat.precision), moved, torch.cat(places))
        return Attacked(attacked, perturbation, self.targets if threat.attacked_side == QUERIES else None)

    def _in_turns(self, pixels: Tensor, rows: Tensor, objective: Callable[[Tensor], Objective]) -> Tensor:
        """One random part of the batch after the other, each against where the others are by then."""
        perturbed = pixels.clone()
        for part in torch.randperm(len(rows), generator=self.generator).chunk(self.threat.turns):
            here = part.to(pixels.device)
            moved = self.attack.perturb(self.route, pixels[here], objective(rows[part]), generator=self.generator)
            perturbed[here] = moved
            embeddings = _look(seen_by(self.route, self.threat.distribution), moved)
            self.everything.index_copy_(0, rows[part].to(self.everything.device), embeddings.to(self.everything))
        return perturbed

    def _placed(self, before: Embedded, moved: Tensor, rows: Tensor) -> Embedded:
        """The embeddings with those of some rows moved."""
        if self.threat.attacked_side == QUERIES:
            return Embedded(before.queries.index_copy(0, rows, moved), before.gallery)
        everything = before.all().index_copy(0, rows, moved)
        if not self.subject.separate:
            return Embedded(everything, everything)
        return Embedded(everything[: len(before.queries)], everything[len(before.queries) :])

    def _objectives(self) -> Callable[[Tensor], Objective]:
        """Rows of the attacked images → what the attack on them descends."""
        threat, subject, device = self.threat, self.subject, self.subject.device
        gallery, gallery_labels = self.bank.gallery.to(device), subject.gallery_labels.to(device)
        labels = subject.all_labels.to(device)
        everything, first = self.everything, len(subject.labels)

        def objective(rows: Tensor) -> Objective:
            here = rows.to(device)
            own = None if subject.separate else here
            if threat.name == "away":
                return AwayFromClean(everything[here])
            if threat.name == "both":
                # Queries flee the gallery's right items, and these the queries.
                side = slice(None) if own is not None else slice(first, None) if rows[0] < first else slice(first)
                return OutOfTopK(labels[here], everything[side], labels[side], own=own, k=threat.k)
            if threat.name == "loss":
                return _loss(labels[here], gallery, gallery_labels, own)
            if self.targets is None:
                return OutOfTopK(labels[here], gallery, gallery_labels, own=own, k=threat.k)
            targets = self.targets[rows].to(device)
            if threat.attacked_side == BOTH_SIDES:
                return TowardsTargets(everything, targets)
            return CandidateRank(gallery, targets, direction=threat.name.removeprefix("candidate-"), own=own)

        return objective

    def _gallery_items(self) -> Attacked:
        """For each query its candidate, moved; a query's candidate is attacked as often as queries have chosen it."""
        subject, device, perturbation = self.subject, self.subject.device, Perturbation()
        assert self.targets is not None
        candidates = self.targets[:, 0]
        asked = torch.arange(len(candidates)) if self.chosen is None else self.chosen
        direction = self.threat.name.removeprefix("gallery-")
        queries, gallery = self.bank.queries.to(device), self.bank.gallery.to(device)
        clean = subject.clean(precision=self.threat.precision)
        places: list[Tensor] = []

        def adversarial() -> Iterator[tuple[Tensor, Tensor]]:
            for pixels, classes, rows in subject.batches(GALLERY):
                pairs = asked[torch.isin(candidates[asked], rows)]
                for pair in pairs.split(max(len(rows), 1)):
                    within = candidates[pair] - rows[0]
                    images = pixels[within.to(device)]
                    own = None if subject.separate else pair[:, None].to(device)
                    objective = RankAmong(
                        queries[pair.to(device)][:, None], gallery, direction, candidates[pair].to(device), own
                    )
                    perturbed = self.attack.perturb(self.route, images, objective, generator=self.generator)
                    perturbation.add(images, perturbed)
                    places.append(pair)
                    yield perturbed, classes[within.to(classes.device)]

        found, _ = embed(subject.model, adversarial(), device)
        moved = clean.gallery[candidates].index_copy(0, torch.cat(places), found)
        return Attacked(clean, perturbation, candidates[:, None], moved)


def _nearest(subject: Subject, precision: str, count: int) -> Tensor:
    clean = subject.clean(precision=precision)
    return nearest_right(
        clean.queries, subject.labels, clean.gallery, subject.gallery_labels, subject.own, count, subject.measured_on
    )


def _loss(labels: Tensor, gallery: Tensor, gallery_labels: Tensor, own: Tensor | None) -> MetricLossAscent:
    """The multi-similarity loss against the gallery, each anchor without its own row.

    One call for a whole batch, where its rows follow each other: a mean over anchors has each image's own gradient, but
    for a factor. Only the step size and the best iterate are then the batch's and not the image's.
    """
    # Without its mining, which would leave a query that is far from all other classes a gradient of zero.
    loss = MultiSimilarityLoss(epsilon=_ALL_PAIRS)
    if own is not None and not torch.equal(own, own[0] + torch.arange(len(own), device=own.device)):
        return MetricLossAscent(loss, labels, gallery, gallery_labels, own)
    offset = None if own is None else int(own[0])
    against = partial(loss, reference=gallery, reference_labels=gallery_labels, self_offset=offset)
    return MetricLossAscent(against, labels, shared=True)


def _look(model: nn.Module, images: Tensor) -> Tensor:
    with under_attack(model, "eval"), torch.no_grad():
        embeddings: Tensor = model(images)
    # A row that is no number would leave no other image an objective.
    return without_broken(embeddings.to("cpu", torch.float32))


def attack_dataset(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    seed: int = 0,
    *,
    batch_size: int = 128,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [N, D] of all images, perturbed, and labels int64 [N]; both on the CPU.

    All images are embedded cleanly first; these embeddings are what targets are picked from (and, for `away`,
    what is fled). Each image's targets are of other classes, drawn by `seed` alike for every model. The model
    is left as it was. Everything runs in `threat.precision`, float32 by default, whatever autocast the caller
    is in.

    Args:
        model: images [B, C, H, W] in [0, 1] → embeddings [B, D]; any module.
        images: as `evaluation.embed`; read twice, so not an iterator that is used up.
        threat: the attack, through one route.
        seed: of targets and random starts. With a random start, the batch size has a say as well.
        batch_size: of what is no iterable of batches already.
        device: where the model is; default: where its first parameter is.

    Raises:
        TypeError: `images` can be read only once.
        ValueError: there are no images or only one class, images come in another order the second time, the threat
            moves gallery items (there is then no one embedding an image), or goes through every route.
    """
    if threat.attacked_side == GALLERY:
        raise ValueError(f"threat: {threat.name} moves a gallery item for each query; use judge_robustness")
    subject = Subject(model, images, batch_size=batch_size, device=device)
    attacked = attack_subject(subject, threat, seed)
    return attacked.embedded.queries, subject.labels


def one_route(subject: Subject, threat: ThreatModel, seed: int = 0) -> nn.Module:
    """The module whose gradients a threat with one route uses; for "transfer", a surrogate that is taught by `seed`.

    Raises:
        ValueError: the model has no such route, or every one is asked for.
    """
    if threat.name == "transfer":
        return distilled_surrogate(subject, seed)
    if threat.route == "whole":
        return subject.model
    known = routes(subject.model)
    if threat.route not in known:
        raise ValueError(f"route: expected one of {', '.join(known)}, got {threat.route!r}")
    return known[threat.route]
