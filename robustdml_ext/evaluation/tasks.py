"""One model, several tasks: retrieval, verification and few-shot classification from one set of embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from robustdml_ext.evaluation.few_shot import few_shot
from robustdml_ext.evaluation.inputs import Array, Labels, as_labels
from robustdml_ext.evaluation.scored_retrieval import scored_recall_at_k
from robustdml_ext.evaluation.scorers import SCORERS, PairScorer, cosine_scorer
from robustdml_ext.evaluation.trials import random_trials, verify

TASKS = ("retrieval", "verification", "few-shot")
FEW_SHOT_SCORERS = ("similarity", "cosine")


def check_scorers(names: Sequence[str], *, learned: bool) -> None:
    """Checks names of scorers, of a model with a learned similarity or without.

    Raises:
        ValueError: a name that is unknown, or needs a similarity that there is not.
    """
    if unknown := [name for name in names if name not in SCORERS]:
        raise ValueError(f"scorers: expected names of {', '.join(SCORERS)}, got {', '.join(unknown)}")
    if not learned and (needing := [name for name in names if name != "cosine"]):
        raise ValueError(f"scorers: {', '.join(needing)} need a learned similarity, which this model has none of")


def scorers_of(similarity: nn.Module | None, names: Sequence[str]) -> dict[str, PairScorer]:
    """Scorers by name; of a model without a learned similarity the cosine alone.

    Raises:
        ValueError: a name that is unknown, or needs a similarity that there is not.
    """
    check_scorers(names, learned=similarity is not None)
    if similarity is None:
        return {"cosine": cosine_scorer()} if names else {}
    return {name: SCORERS[name](similarity) for name in names}


def judge_retrieval(
    scorers: Mapping[str, PairScorer],
    embeddings: Array,
    labels: Labels,
    *,
    gallery: Array | None = None,
    gallery_labels: Labels | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
) -> dict[str, float]:
    """Recall@k by each scorer, equation 6 of the prototypes paper: "recall@k" by the first, "NAME_recall@k" by others.

    Raises:
        TypeError, ValueError: as `scored_recall_at_k`.
    """
    figures: dict[str, float] = {}
    for number, (name, scorer) in enumerate(scorers.items()):
        found = scored_recall_at_k(scorer, embeddings, labels, recall_at, gallery, gallery_labels)
        figures |= {(f"{name}_" if number else "") + f"recall@{k}": value for k, value in found.items()}
    return figures


def judge_verification(
    scorers: Mapping[str, PairScorer],
    embeddings: Array,
    labels: Labels,
    trials: Array | int | None = 100_000,
    *,
    seed: int = 0,
    symmetric: bool = False,
) -> dict[str, float]:
    """"eer_NAME" and "min_dcf@P_NAME" by each scorer, equation 5 of the prototypes paper, on the same trials.

    Args:
        scorers: by name.
        embeddings: `[N, d]`.
        labels: `[N]`.
        trials: rows `[P, 2]`; or how many are drawn at random, half of them of one class, or as many as there are;
            None: all pairs.
        seed: of that drawing.
        symmetric: score both orders of a trial, and take their mean.

    Raises:
        TypeError, ValueError: as `verify` and `random_trials`.
    """  # fmt: skip
    if isinstance(trials, int):
        same, different = pairs_of_each_kind(labels)
        if not same or not different:
            raise ValueError(f"labels: expected pairs of one class and of two, got {same} and {different}")
        count = min(trials, 2 * min(same, different))
        trials = random_trials(labels, count, torch.Generator().manual_seed(seed))[0]
    figures: dict[str, float] = {}
    for name, scorer in scorers.items():
        found = verify(scorer, embeddings, labels, trials, symmetric=symmetric).figures
        figures |= {f"{figure}_{name}": value for figure, value in found.items()}
    return figures


def of_list(figures: Mapping[str, float], name: str | None) -> dict[str, float]:
    """The figures of one list of trials, "LIST/eer_NAME"; without a list's name as they are."""
    return {(key if name is None else f"{name}/{key}"): value for key, value in figures.items()}


def pairs_of_each_kind(labels: Labels) -> tuple[int, int]:
    """How many pairs of two images there are, of one class and of two."""
    sizes = torch.from_numpy(as_labels(labels, len(labels))).unique(return_counts=True)[1].tolist()
    count, same = sum(sizes), sum(size * (size - 1) // 2 for size in sizes)
    return same, count * (count - 1) // 2 - same


def judge_few_shot(
    scorers: Mapping[str, PairScorer],
    embeddings: Array,
    labels: Labels,
    *,
    ways: Sequence[int] = (5,),
    shots: Sequence[int] = (1, 5),
    queries: int = 15,
    episodes: int = 600,
    seed: int = 0,
) -> dict[str, float]:
    """"few_shot_Nway_Kshot_NAME" for each N, K and scorer, with "…_interval", half the width of its 95 % interval.

    Every scorer has the same episodes. See `few_shot`.

    Raises:
        TypeError, ValueError: as `few_shot`.
    """  # fmt: skip
    figures: dict[str, float] = {}
    for way in ways:
        for shot in shots:
            for name, scorer in scorers.items():
                found = few_shot(scorer, embeddings, labels, way, shot, queries, episodes, seed)
                key = f"few_shot_{way}way_{shot}shot_{name}"
                figures |= {key: found.accuracy, f"{key}_interval": found.half_width}
    return figures
