"""`run evaluate --task`: classification, few-shot episodes, verification and retrieval by a learned similarity."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.console import Group as Lines
from torch import Tensor

from robustdml_ext import reporting
from robustdml_ext.data import DataSplits, LabeledImages, TrialPairs
from robustdml_ext.evaluation import (
    CLASS_ATTACKS,
    ClassThreat,
    embed,
    judge_classifier,
    judge_few_shot,
    judge_retrieval,
    judge_verification,
    places_of,
    scorers_of,
)
from robustdml_ext.evaluation.class_threats import STRONG
from robustdml_ext.evaluation.tasks import FEW_SHOT_SCORERS, check_scorers, of_list
from robustdml_ext.models.prototypical import PrototypicalClassifier
from robustdml_ext.tools.evaluate_options import Evaluate
from robustdml_ext.tools.images import batches_of
from robustdml_ext.tools.models import FoundModel
from robustdml_ext.tools.words import chosen_names, number_of
from robustdml_ext.training import RunRefusedError
from robustdml_ext.training.folder import CLASSIFIER
from robustdml_ext.training.task_result import check_trials, heads_of

_STANDARD = ("fgsm", "pgd")


def check_tasks(asked: Evaluate, found: FoundModel) -> None:
    """Refuse what no task can be judged with, before any image is read.

    Raises:
        RunRefusedError: the suite together with other tasks, or classification of a model without prototypes.
        ValueError: a number out of range, or an unknown name.
    """
    tasks = asked.tasks
    if not tasks.task:
        raise ValueError("task must name at least one")
    if "suite" in tasks.task and len(tasks.task) > 1:
        raise RunRefusedError("the suite has a result of its own: judge it and other tasks one after the other")
    if "classification" in tasks.task and found.classifier is None:
        raise RunRefusedError(
            f"classification needs prototypes, and {found.facts['name']} has none; expected a run of `prototypes`"
        )
    for name, numbers, least in (
        ("ways", tasks.ways, 2), ("shots", tasks.shots, 1), ("queries", (tasks.queries,), 1),
        ("episodes", (tasks.episodes,), 2),
    ):  # fmt: skip
        if not numbers or any(number < least for number in numbers):
            raise ValueError(f"{name} must be at least {least}; got {', '.join(map(str, numbers)) or 'nothing'}")
    if set(tasks.task) - {"suite", "classification"}:
        check_scorers(scorer_names(asked, learned=found.classifier is not None), learned=found.classifier is not None)
    step_size(tasks.step_size)
    class_attacks(asked.judgment.attacks if "classification" in tasks.task else ())


def scorer_names(asked: Evaluate, *, learned: bool) -> tuple[str, ...]:
    """The scorers asked for, or those of a model with a learned similarity or without."""
    return asked.tasks.scorers or (("similarity", "cosine", "sum") if learned else ("cosine",))


def trained_heads(asked: Evaluate, found: FoundModel) -> tuple[str, ...]:
    """The heads asked for, or those that the run has trained."""
    assert found.recipe is not None
    return asked.tasks.heads or heads_of(found.recipe)


def task_protocol(asked: Evaluate, found: FoundModel) -> dict[str, Any]:
    """How the tasks are judged, beyond what the entries of a result say of their attacks."""
    tasks = asked.tasks
    protocol: dict[str, Any] = {"task": list(tasks.task), "seed": asked.judgment.seed}
    if set(tasks.task) != {"classification"}:
        protocol["scorers"] = list(scorer_names(asked, learned=found.classifier is not None))
    of_each: dict[str, dict[str, Any]] = {
        "retrieval": {"recall_at": list(asked.judgment.recall_at)},
        "verification": {"trials": list(tasks.trials), "symmetric": tasks.symmetric},
        "few-shot": {"queries": tasks.queries, "episodes": tasks.episodes},
    }
    for task in tasks.task:
        protocol |= of_each.get(task, {})
    return protocol


def class_attacks(words: tuple[str, ...]) -> tuple[str, ...]:
    """The attacks on a classifier meant by a list of names and names of sets.

    Raises:
        RunRefusedError: a word that is neither.
    """
    sets: dict[str, tuple[str, ...]] = {"standard": _STANDARD, "strong": STRONG, "none": ()}
    return chosen_names(words, "attacks on a classifier", sets, CLASS_ATTACKS)


def step_size(word: str | None) -> float | None:
    """A step in pixels, as 0.01 or 2/255.

    Raises:
        ValueError: no number above 0.
    """
    if word is None:
        return None
    number = number_of(word)
    if not number > 0:
        raise ValueError(f"step_size must be a number above 0, as 0.01 or 2/255; got {word!r}")
    return number


def judge_tasks(
    asked: Evaluate,
    found: FoundModel,
    splits: DataSplits,
    images: LabeledImages,
    device: torch.device,
    norm: str,
    epsilons: tuple[float, ...],
    console: Console,
) -> list[dict[str, Any]]:
    """The entries of the result: clean figures of all tasks, then those of the classifier under each attack.

    Raises:
        RunRefusedError: images and model do not go together.
    """
    try:
        classifier = None if found.classifier is None else found.classifier(splits.channels).to(device)
        encoder = found.build(splits.channels).to(device) if classifier is None else classifier.encoder
        entries: list[dict[str, Any]] = []
        trials = trials_of(asked, splits, images) if "verification" in asked.tasks.task else {}
        if "few-shot" in asked.tasks.task:
            check_episodes(asked, images.labels)
        if "classification" in asked.tasks.task:
            assert classifier is not None
            heads = trained_heads(asked, found)
            places = prototype_places(asked, found, classifier, splits, images)
            entries = _classification(asked, classifier, heads, images, places, device, norm, epsilons, console)
        clean: dict[str, float] = {}
        began = time.perf_counter()
        if others := [task for task in asked.tasks.task if task != "classification"]:
            with console.status("embedding"):
                rows, labels = embed(encoder, batches_of(asked.place, images, device), device)
                gallery: tuple[Tensor | None, Tensor | None] = (None, None)
                if splits.gallery is not None and asked.images.split == "test" and "retrieval" in others:
                    gallery = embed(encoder, batches_of(asked.place, splits.gallery, device), device)
            clean = _scored(asked, classifier, trials, rows.to(device), labels, gallery, console)
    except (ValueError, TypeError) as error:
        raise RunRefusedError(str(error)) from error
    if not entries:
        entries = [{"threat": None, "metrics": {}, "perturbation": None, "seconds": 0.0}]
    entries[0]["metrics"] |= clean
    entries[0]["seconds"] += time.perf_counter() - began
    return entries


def prototype_places(
    asked: Evaluate, found: FoundModel, classifier: PrototypicalClassifier, splits: DataSplits, images: LabeledImages
) -> Tensor:
    """For each class of the images the place of its prototype, int64 `[classes]`: by name, or else by position.

    A checkpoint of training names no classes. They are in the order of the classes that it was trained on.

    Raises:
        ValueError: classes without a prototype.
    """
    if found.names_classes:
        return places_of(images.class_names, classifier)
    recipe, own = found.recipe, list(splits.train.class_names)
    assert recipe is not None
    same = recipe.dataset == splits.name and asked.images.protocol in (None, recipe.protocol)
    if not same or list(images.class_names) != own or len(own) != classifier.heads.classes:
        raise ValueError(
            f"classes: {found.facts['name']} has no names of its {classifier.heads.classes} classes, and is judged on "
            f"those of {recipe.dataset} that it was trained on alone; the {CLASSIFIER} of a finished run has names"
        )
    return torch.arange(len(own))


def _classification(
    asked: Evaluate,
    classifier: PrototypicalClassifier,
    heads: tuple[str, ...],
    images: LabeledImages,
    places: Tensor,
    device: torch.device,
    norm: str,
    epsilons: tuple[float, ...],
    console: Console,
) -> list[dict[str, Any]]:
    judgment = asked.judgment
    threats = []
    for epsilon in epsilons:
        for name in class_attacks(judgment.attacks):
            step = step_size(asked.tasks.step_size) if CLASS_ATTACKS[name].algorithm == "pgd" else None
            threats.append(ClassThreat(name, epsilon, judgment.steps, step, norm, restarts=judgment.restarts))
    with console.status("judging") as status:
        return judge_classifier(
            classifier,
            batches_of(asked.place, images, device),
            threats,
            heads=heads,
            prototype_of=places,
            seed=judgment.seed,
            device=device,
            progress=lambda what, number, total: status.update(f"judging, attack {number} of {total}: {what}"),
        )


def _scored(
    asked: Evaluate,
    classifier: PrototypicalClassifier | None,
    trials: Mapping[str, TrialPairs | int | None],
    rows: Tensor,
    labels: Tensor,
    gallery: tuple[Tensor | None, Tensor | None],
    console: Console,
) -> dict[str, float]:
    """The figures of retrieval, verification and few-shot episodes, in the order asked for."""
    tasks, seed = asked.tasks, asked.judgment.seed
    similarity = None if classifier is None else classifier.heads.similarity
    scorers = scorers_of(similarity, scorer_names(asked, learned=similarity is not None))
    figures: dict[str, float] = {}
    for task in tasks.task:
        with console.status(f"judging: {task}"):
            if task == "retrieval":
                items, item_labels = gallery
                figures |= judge_retrieval(
                    scorers, rows, labels, gallery=None if items is None else items.to(rows.device),
                    gallery_labels=item_labels, recall_at=asked.judgment.recall_at,
                )  # fmt: skip
            elif task == "verification":
                for name, pairs in trials.items():
                    if isinstance(pairs, TrialPairs):
                        check_trials(pairs, labels, name)
                    given = pairs.pairs if isinstance(pairs, TrialPairs) else pairs
                    found = judge_verification(scorers, rows, labels, given, seed=seed, symmetric=tasks.symmetric)
                    figures |= of_list(found, name if isinstance(pairs, TrialPairs) else None)
            elif task == "few-shot":
                few = {name: scorer for name, scorer in scorers.items() if tasks.scorers or name in FEW_SHOT_SCORERS}
                figures |= judge_few_shot(
                    few, rows, labels, ways=tasks.ways, shots=tasks.shots, queries=tasks.queries,
                    episodes=tasks.episodes, seed=seed,
                )  # fmt: skip
    return figures


def trials_of(asked: Evaluate, splits: DataSplits, images: LabeledImages) -> dict[str, TrialPairs | int | None]:
    """The trials to be judged, by name: a list's, or how many random ones; None for all pairs.

    Raises:
        ValueError: a word that is none of these, or lists of trials for other images than the whole test split.
    """
    lists = splits.trials or {}
    whole = asked.images.split == "test" and len(images) == len(splits.test)
    words = asked.tasks.trials or (tuple(lists) if lists and whole else ("100000",))
    found: dict[str, TrialPairs | int | None] = {}
    for word in words:
        if word == "all":
            found[word] = None
        elif word.isdecimal() and int(word) > 0:
            found[word] = int(word)
        elif word in lists and whole:
            found[word] = lists[word]
        else:
            known = f", or of the whole test split one of its lists, {', '.join(lists)}" if lists else ""
            raise ValueError(f"trials must be a number above 0, all{known}; got {word!r}")
    return found


def check_episodes(asked: Evaluate, labels: Tensor) -> None:
    """Checks that there are classes enough for every kind of episode asked for.

    Raises:
        ValueError: there are not.
    """
    tasks = asked.tasks
    sizes = labels.unique(return_counts=True)[1]
    for shots in tasks.shots:
        enough = int((sizes >= shots + tasks.queries).sum())
        if max(tasks.ways) > enough:
            raise ValueError(
                f"ways must be at most {enough}, as many classes have {shots} shots + {tasks.queries} queries; got "
                f"{max(tasks.ways)}"
            )


def task_lines(result: dict[str, Any]) -> Lines:
    """What is shown of the result: a table of classification, one of the other tasks, or both."""
    entries = result["results"]
    model, where = result["model"]["name"], result["data"]
    title = f"{model} on {where['images']:,} images of {where['dataset']}, {where['split']}"
    return reporting.task_tables(entries, title, result["protocol"].get("scorers", ["similarity"])[0])
