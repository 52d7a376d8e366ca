"""What is measured of an attacked data set, and the worst of several ways to attack it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.evaluation.attacked import Attacked
from robustdml_ext.evaluation.ranks import ahead_with_moved, normalized_ranks, right_ahead
from robustdml_ext.evaluation.subject import Embedded, Subject
from robustdml_ext.evaluation.suite import DEFAULT_GROUPS, GROUPS, evaluate
from robustdml_ext.evaluation.threats import BOTH_SIDES

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
        ahead: items ahead of each query's nearest right one, int64 `[N]`; what the recalls are made of.
        ranks: normalized rank of each query's candidates, float64 `[N]`, where there are some.
    """

    metrics: dict[str, float]
    ahead: Tensor
    ranks: Tensor | None = None


def measure(subject: Subject, embedded: Embedded, wanted: Wanted) -> Figures:
    """The figures of embeddings that are all clean, or all attacked."""
    ahead = _ahead(subject, embedded)
    metrics = recalls(ahead, wanted)
    if wanted.groups:
        separate: dict[str, Any] = {}
        if subject.separate:
            separate = {"gallery": embedded.gallery, "gallery_labels": subject.gallery_labels}
        metrics |= evaluate(
            embedded.queries,
            subject.labels,
            **separate,
            clustering=wanted.clustering,
            seed=wanted.seed,
            device=subject.device,
            metrics=wanted.groups,
        )
    return Figures(metrics, ahead)


def measure_attacked(subject: Subject, attacked: Attacked, side: str, wanted: Wanted) -> Figures:
    """The figures under an attack on `side`: those of clusters only where everything is attacked alike."""
    embedded = attacked.embedded
    if side == BOTH_SIDES:
        return measure(subject, embedded, wanted)
    ranks = None
    if attacked.moved is not None and attacked.candidates is not None:
        ahead, ranks = ahead_with_moved(
            embedded.queries, subject.labels, embedded.gallery, subject.gallery_labels, subject.own,
            attacked.candidates[:, 0], attacked.moved,
        )  # fmt: skip
    else:
        ahead = _ahead(subject, embedded, same=False)
        if attacked.candidates is not None:
            ranks = normalized_ranks(embedded.queries, embedded.gallery, attacked.candidates, subject.own)
    metrics = recalls(ahead, wanted)
    if ranks is not None:
        metrics["rank"] = float(ranks.mean())
    return Figures(metrics, ahead, ranks)


def clean_ranks(subject: Subject, attacked: Attacked) -> float:
    """The mean normalized rank that an attack's candidates have in clean retrieval."""
    assert attacked.candidates is not None
    clean = subject.clean()
    return float(normalized_ranks(clean.queries, clean.gallery, attacked.candidates, subject.own).mean())


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


def wanted_of(
    recall_at: Sequence[int], clustering: bool, seed: int, metrics: str | Sequence[str] = "default"
) -> Wanted:
    """What is computed where a user asks for `metrics` as of `evaluate`; Recall@1 always is.

    Raises:
        ValueError: an unknown group, or a depth below 1.
    """
    if isinstance(metrics, str):
        metrics = {"default": DEFAULT_GROUPS, "all": GROUPS}.get(metrics, (metrics,))
    unknown = [name for name in metrics if name not in GROUPS]
    if unknown:
        raise ValueError(
            f"metrics: expected 'default', 'all' or groups of {', '.join(GROUPS)}; got {', '.join(unknown)}"
        )
    groups = tuple(name for name in metrics if name != "recall")
    if not clustering:
        groups = tuple(name for name in groups if name not in ("clustering", "ami"))
    return Wanted(tuple(sorted({1, *recall_at})), clustering, seed, groups)


def recalls(ahead: Tensor, wanted: Wanted) -> dict[str, float]:
    """Recall@k of items ahead `[N]`, as fractions."""
    return {f"recall@{k}": int((ahead < k).sum()) / len(ahead) for k in wanted.recall_at}


def _ahead(subject: Subject, embedded: Embedded, same: bool = True) -> Tensor:
    """Items ahead, with `same` of queries that are the gallery where no other one is given."""
    device = subject.device if subject.device.type != "mps" else torch.device("cpu")  # has no float64
    queries, labels = embedded.queries.to(device), subject.labels.to(device)
    if same and not subject.separate:
        return right_ahead(queries, labels, None, None, True)
    gallery, gallery_labels = embedded.gallery.to(device), subject.gallery_labels.to(device)
    return right_ahead(queries, labels, gallery, gallery_labels, not subject.separate)
