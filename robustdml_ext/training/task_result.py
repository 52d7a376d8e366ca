"""What a run of `prototypes` is judged by: classification where classes are shared, the other tasks where they are new.

Under a zero-shot protocol no class of the test images has a prototype, and one model retrieves, verifies and learns
classes from a few examples; where the test classes were trained on it classifies, clean and attacked through each head.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from robustdml_ext.data import DataSplits, LabeledImages, TrialPairs
from robustdml_ext.evaluation import (
    ClassThreat,
    embed,
    judge_classifier,
    judge_few_shot,
    judge_retrieval,
    judge_verification,
    scorers_of,
)
from robustdml_ext.evaluation.class_threats import CLASS_ATTACKS
from robustdml_ext.evaluation.scorers import PairScorer
from robustdml_ext.evaluation.tasks import FEW_SHOT_SCORERS, of_list, pairs_of_each_kind
from robustdml_ext.methods import Prototypes
from robustdml_ext.models import PrototypicalClassifier
from robustdml_ext.models.prototypical import DENSE, SIMILARITY
from robustdml_ext.recipes import Recipe
from robustdml_ext.training.batches import judging_batches
from robustdml_ext.training.precision import Precision

SHOWN = ("similarity", "cosine", "sum")
SELECTING = SHOWN[:1]
QUERIES = 15


def heads_of(recipe: Recipe) -> tuple[str, ...]:
    """The heads that were trained."""
    return (SIMILARITY, DENSE) if recipe.auxiliary_weight else (SIMILARITY,)


def class_threats(recipe: Recipe) -> list[ClassThreat]:
    """The attacks to be judged under; of those that take steps also the first ε's with other numbers of steps."""
    threats = []
    for name in recipe.eval_attacks:
        counts = [recipe.eval_steps, *(n for n in recipe.eval_sweep_steps if n != recipe.eval_steps)]
        for epsilon in recipe.attack_epsilons:
            stepped = CLASS_ATTACKS[name].algorithm in ("pgd", "adaptive")
            further = counts if epsilon == recipe.attack_epsilons[0] and stepped else counts[:1]
            threats += [class_threat(recipe, name, epsilon, steps) for steps in further]
    return threats


def class_threat(recipe: Recipe, name: str, epsilon: float, steps: int) -> ClassThreat:
    """One attack as the recipe has it."""
    fields: dict[str, Any] = {"norm": recipe.eval_norm, "restarts": recipe.eval_restarts}
    algorithm = CLASS_ATTACKS[name].algorithm
    if algorithm == "pgd":
        # The recipe's step is that at its first ε, and grows with ε.
        scale = epsilon / recipe.attack_epsilons[0]
        step = None if recipe.eval_step_size is None else recipe.eval_step_size * scale
        fields |= {"step_size": step, "keep_best": recipe.eval_keep_best}
    if algorithm in ("pgd", "adaptive") and recipe.eval_random_start > 0:
        fields["random_start"] = recipe.eval_random_start
    return ClassThreat(name, epsilon, steps, **fields)


def _entry(metrics: dict[str, float], began: float) -> dict[str, Any]:
    return {"threat": None, "metrics": metrics, "perturbation": None, "seconds": time.perf_counter() - began}


def tasks(
    classifier: PrototypicalClassifier,
    images: LabeledImages,
    recipe: Recipe,
    precision: Precision,
    gallery: LabeledImages | None = None,
    *,
    selecting: bool = False,
    trials: Mapping[str, TrialPairs] | None = None,
) -> dict[str, float]:
    """The clean figures of retrieval, verification and few-shot classification on images of new classes."""
    embeddings, labels = embed(classifier.encoder, judging_batches(images, recipe, precision), precision.device)
    items = item_labels = None
    if gallery is not None:
        items, item_labels = embed(classifier.encoder, judging_batches(gallery, recipe, precision), precision.device)
    scorers = scorers_of(classifier.heads.similarity, SELECTING if selecting else SHOWN)
    embeddings = embeddings.to(precision.device)
    figures = judge_retrieval(
        scorers, embeddings, labels, gallery=items, gallery_labels=item_labels, recall_at=recipe.recall_at
    )
    if not selecting:
        figures |= _verification(scorers, embeddings, labels, recipe, trials or {})
    for ways, shots in [] if selecting else drawable(labels, recipe):
        figures |= judge_few_shot(
            {name: scorers[name] for name in FEW_SHOT_SCORERS},
            embeddings,
            labels,
            ways=(ways,),
            shots=(shots,),
            episodes=recipe.few_shot_episodes,
            seed=recipe.seed,
        )
    return figures


def _verification(
    scorers: Mapping[str, PairScorer],
    embeddings: Tensor,
    labels: Tensor,
    recipe: Recipe,
    trials: Mapping[str, TrialPairs],
) -> dict[str, float]:
    """By each of the data set's lists of trials, or else by random ones."""
    figures: dict[str, float] = {}
    for name, listed in trials.items():
        check_trials(listed, labels, name)
        figures |= of_list(judge_verification(scorers, embeddings, labels, listed.pairs), name)
    if not trials and recipe.verification_trials and min(pairs_of_each_kind(labels)):
        figures = judge_verification(scorers, embeddings, labels, recipe.verification_trials, seed=recipe.seed)
    return figures


def check_trials(trials: TrialPairs, labels: Tensor, name: str) -> None:
    """Checks that a list of trials is of the recordings whose labels these are.

    Raises:
        ValueError: rows beyond them, or trials of other kinds than the list says: some recordings were left out.
    """
    pairs = trials.pairs
    if int(pairs.max()) >= len(labels) or not torch.equal(labels[pairs[:, 0]] == labels[pairs[:, 1]], trials.same):
        raise ValueError(f"trials: {name} is of other recordings than were read; were broken ones left out?")


def drawable(labels: Tensor, recipe: Recipe) -> list[tuple[int, int]]:
    """The recipe's kinds of episodes (ways, shots) that the images allow of, with the field's 15 queries a class."""
    sizes = labels.unique(return_counts=True)[1]
    kinds = [(ways, shots) for ways in recipe.few_shot_ways for shots in recipe.few_shot_shots]
    return [(ways, shots) for ways, shots in kinds if int((sizes >= shots + QUERIES).sum()) >= ways]


def _left_out(splits: DataSplits, recipe: Recipe) -> list[str]:
    """What the recipe asks for and the data set does not allow of, in words."""
    if not splits.zero_shot:
        return []
    kinds, labels = drawable(splits.test.labels, recipe), splits.test.labels
    every = [(ways, shots) for ways in recipe.few_shot_ways for shots in recipe.few_shot_shots]
    said = [
        f"no {ways}-way {shots}-shot episodes: too few test classes have {shots} + {QUERIES} images"
        for ways, shots in every
        if (ways, shots) not in kinds
    ]
    if not splits.trials and recipe.verification_trials and not min(pairs_of_each_kind(labels)):
        said.append("no verification: the test images make no pairs of both kinds")
    if recipe.eval_attacks:
        said.append("no attacks: they are on classification, and no test class has a prototype")
    return said


def evaluate_prototypes(
    method: Prototypes, splits: DataSplits, recipe: Recipe, precision: Precision
) -> dict[str, float]:
    """The figures that weights are selected by: accuracies, or Recall@k by S, of what `select_on` names."""
    judged, gallery = splits.test, splits.gallery
    if recipe.select_on == "validation" and splits.validation is not None:
        judged, gallery = splits.validation, None
    classifier = method.classifier()
    if splits.zero_shot:
        return tasks(classifier, judged, recipe, precision, gallery, selecting=True)
    entries = judge_classifier(
        classifier, judging_batches(judged, recipe, precision), heads=heads_of(recipe), device=precision.device
    )
    metrics: dict[str, float] = entries[0]["metrics"]
    return metrics


def judge_prototypes(
    method: Prototypes, splits: DataSplits, recipe: Recipe, precision: Precision, console: Console
) -> list[dict[str, Any]]:
    """The entries of the run's result: clean, and where the test classes have prototypes under every attack."""
    classifier = method.classifier(splits.train.class_names)
    for note in _left_out(splits, recipe):
        console.print(f"note: {note}", highlight=False, soft_wrap=True)
    with console.status("judging") as status:
        if not splits.zero_shot:
            return judge_classifier(
                classifier,
                judging_batches(splits.test, recipe, precision),
                class_threats(recipe),
                heads=heads_of(recipe),
                seed=recipe.seed,
                device=precision.device,
                progress=lambda what, number, total: status.update(f"judging, attack {number} of {total}: {what}"),
            )
        began = time.perf_counter()
        return [_entry(tasks(classifier, splits.test, recipe, precision, splits.gallery, trials=splits.trials), began)]
