"""What is measured of an attacked data set, and the worst of several ways to attack it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.evaluation.attacked import Attacked
from robustdml_ext.evaluation.ranks import ahead_with_moved, normalized_ranks, right_ahead
from robustdml_ext.evaluation.subject import Embedded, Subject
from robustdml_ext.evaluation.suite import GROUPS, _groups, evaluate
from robustdml_ext.evaluation.threats import BOTH_SIDES, ThreatModel
from robustdml_ext.evaluation.voting_retrieval import voted_ahead, voted_ahead_with_moved

# Of these a defender wants little; of the others, much.
SMALL_IS_GOOD = ("pi_intra", "pi_ratio", "eer", "rho_spectrum")


@dataclass(frozen=True)
class Wanted:
    """Which figures are computed: recall at these depths, and `evaluate`'s other groups where all images are alike.

    Attributes:
        recall_at: depths.
        clustering: False leaves k-means out.
        seed: of k-means.
        groups: of `evaluation.GROUPS`, without "recall".
    """

    recall_at: tuple[int, ...] = (1, 2, 4, 8)
    clustering: bool = True
    seed: int = 0
    groups: tuple[str, ...] = ("clustering", "density")

    def __post_init__(self) -> None:
        if not self.recall_at or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in self.recall_at):
            raise ValueError(f"recall_at: expected positive whole numbers, got {list(self.recall_at)}")


@dataclass(frozen=True)
class Figures:
    """What one attack, or none, leads to.

    Attributes:
        metrics: name → figure: "recall@k"; where all images are alike ("queries and gallery" attacked, or none) the
            other groups of `evaluate`; "rank", the mean normalized rank of the attack's candidates.
        ahead: items ahead of each query's nearest right one, int64 `[N]`; what the recalls are made of. Of a model that
            votes, one less than the first of the wanted depths at which it answers the query's class (`voted_ahead`).
        ranks: normalized rank of each query's candidates, float64 `[N]`, where there are some. Of a model that votes,
            by the cosine of the members' embeddings side by side, as votes give no item a rank.
    """

    metrics: dict[str, float]
    ahead: Tensor
    ranks: Tensor | None = None


def measure(subject: Subject, embedded: Embedded, wanted: Wanted) -> Figures:
    """The figures of embeddings that are all clean, or all attacked.

    Embeddings that are not finite find nothing and are not found; figures of clusters have zero vectors in their place.
    """
    ahead = _ahead(subject, embedded, wanted)
    metrics = recalls(ahead, wanted)
    if wanted.groups:
        whole = embedded.whole()
        separate: dict[str, Any] = {}
        if subject.separate:
            separate = {"gallery": whole.gallery, "gallery_labels": subject.gallery_labels}
        metrics |= evaluate(
            whole.queries,
            subject.labels,
            **separate,
            clustering=wanted.clustering,
            seed=wanted.seed,
            device=subject.measured_on,
            metrics=wanted.groups,
            voters=subject.voters,
        )
    return Figures(metrics, ahead)


def measure_attacked(subject: Subject, attacked: Attacked, threat: ThreatModel, wanted: Wanted) -> Figures:
    """The figures under an attack: those of clusters only where everything is attacked alike."""
    embedded, raised = attacked.embedded, is_raised(threat)
    if threat.attacked_side == BOTH_SIDES:
        return measure(subject, embedded, wanted)
    ranks = None
    if attacked.moved is not None and attacked.candidates is not None:
        candidates = attacked.candidates[:, 0]
        ahead, ranks = _with_moved(subject, embedded, candidates, attacked.moved, raised)
        if subject.voters is not None:
            ahead = _voted_with_moved(subject, embedded, candidates, attacked.moved, wanted)
    else:
        ahead = _ahead(subject, embedded, wanted, same=False)
        if attacked.candidates is not None:
            ranks = _ranks(subject, embedded, attacked.candidates, raised)
    metrics = recalls(ahead, wanted)
    if ranks is not None:
        metrics["rank"] = float(ranks.mean())
    return Figures(metrics, ahead, ranks)


def clean_ranks(subject: Subject, attacked: Attacked, threat: ThreatModel) -> float:
    """The mean normalized rank that an attack's candidates have in clean retrieval, counted as under the attack."""
    assert attacked.candidates is not None
    clean, raised = subject.clean(), is_raised(threat)
    if attacked.moved is None:
        return float(_ranks(subject, clean, attacked.candidates, raised).mean())
    candidates = attacked.candidates[:, 0]
    return float(_with_moved(subject, clean, candidates, clean.gallery[candidates], raised)[1].mean())


def is_raised(threat: ThreatModel) -> bool:
    """Whether the attack is after a small rank of its candidates."""
    return threat.name.endswith("-raise")


def _ranks(subject: Subject, embedded: Embedded, candidates: Tensor, raised: bool) -> Tensor:
    return normalized_ranks(
        embedded.queries, embedded.gallery, candidates, subject.own, subject.measured_on, raised=raised
    )


def _with_moved(
    subject: Subject, embedded: Embedded, candidates: Tensor, moved: Tensor, raised: bool
) -> tuple[Tensor, Tensor]:
    return ahead_with_moved(
        embedded.queries, subject.labels, embedded.gallery, subject.gallery_labels, subject.own,
        candidates, moved, subject.measured_on, raised=raised,
    )  # fmt: skip


def worst(found: Sequence[Figures], wanted: Wanted, *, raised: bool = False) -> Figures:
    """The worst of several attacks for each query by itself, and of each figure of clusters for all together.

    Args:
        found: the figures of each attack.
        wanted: which figures.
        raised: the candidates' rank is attacked downwards in number: the smallest is the worst. Otherwise the largest.
    """
    if len(found) == 1:
        return found[0]
    ahead = torch.stack([figures.ahead for figures in found]).amax(0)
    metrics = recalls(ahead, wanted)
    names = [name for name in found[0].metrics if not name.startswith("recall@") and name != "rank"]
    for name in dict.fromkeys(names):
        values = [figures.metrics[name] for figures in found if name in figures.metrics]
        numbers = [value for value in values if not math.isnan(value)]
        metrics[name] = (max if name in SMALL_IS_GOOD else min)(numbers) if numbers else math.nan
    every = [figures.ranks for figures in found if figures.ranks is not None]
    ranks = None
    if len(every) == len(found):
        stacked = torch.stack(every)
        ranks = stacked.amin(0) if raised else stacked.amax(0)
        metrics["rank"] = float(ranks.mean())
    return Figures(metrics, ahead, ranks)


def worst_cases(
    judged: Mapping[tuple[str, float, str], Figures], clean: Figures, wanted: Wanted
) -> dict[tuple[str, float], Figures]:
    """(norm, ε) → the worst of all attacks of that norm with at most that ε, and of no attack, for each query.

    Within a ball lie all smaller ones: what breaks a query at a smaller ε breaks it at a larger one, found or not.

    Args:
        judged: (norm, ε, attack) → its figures.
        clean: without an attack, which a query that is wrong already does not need.
        wanted: which figures.
    """
    found: dict[tuple[str, float], Figures] = {}
    for norm in dict.fromkeys(norm for norm, _, _ in judged):
        before = clean
        for epsilon in sorted({radius for other, radius, _ in judged if other == norm}):
            here = [figures for (n, radius, _), figures in judged.items() if (n, radius) == (norm, epsilon)]
            before = found[norm, epsilon] = worst([before, *here], wanted)
    return found


def wanted_of(
    recall_at: Sequence[int], clustering: bool, seed: int, metrics: str | Sequence[str] = "default"
) -> Wanted:
    """What is computed where a user asks for `metrics` as of `evaluate`; Recall@1 always is.

    Raises:
        ValueError: an unknown group, or a depth below 1.
    """
    asked = _groups(metrics, clustering)
    groups = tuple(name for name in GROUPS if name in asked and name != "recall")
    return Wanted(tuple(sorted({1, *recall_at})), clustering, seed, groups)


def recalls(ahead: Tensor, wanted: Wanted) -> dict[str, float]:
    """Recall@k of items ahead `[N]`, as fractions."""
    return {f"recall@{k}": int((ahead < k).sum()) / len(ahead) for k in wanted.recall_at}


def _ahead(subject: Subject, embedded: Embedded, wanted: Wanted, same: bool = True) -> Tensor:
    """Items ahead, with `same` of queries that are the gallery where no other one is given."""
    device, itself = subject.measured_on, not subject.separate
    queries, labels = embedded.queries.to(device), subject.labels.to(device)
    gallery = gallery_labels = None
    if subject.separate or not same:
        gallery, gallery_labels = embedded.gallery.to(device), subject.gallery_labels.to(device)
    if subject.voters is not None:
        return voted_ahead(queries, labels, gallery, gallery_labels, itself, subject.voters, wanted.recall_at)
    return right_ahead(queries, labels, gallery, gallery_labels, itself)


def _voted_with_moved(
    subject: Subject, embedded: Embedded, candidates: Tensor, moved: Tensor, wanted: Wanted
) -> Tensor:
    assert subject.voters is not None
    device = subject.measured_on
    return voted_ahead_with_moved(
        embedded.queries.to(device),
        subject.labels.to(device),
        embedded.gallery.to(device),
        subject.gallery_labels.to(device),
        not subject.separate,
        candidates.to(device),
        moved.to(device),
        subject.voters,
        wanted.recall_at,
    )
