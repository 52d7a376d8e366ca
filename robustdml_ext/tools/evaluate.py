"""`run evaluate`: any model on any data set, clean, corrupted and attacked."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from robustdml_ext import data, reporting
from robustdml_ext.data import DataSplits, EvaluationBatches, LabeledImages
from robustdml_ext.evaluation import ATTACKS, CORRUPTIONS, DEFAULT_GROUPS, GROUPS, STANDARD, judge_robustness
from robustdml_ext.recipes import Recipe
from robustdml_ext.tools.evaluate_options import Evaluate, ImageOptions, Words
from robustdml_ext.tools.models import FoundModel, find_model
from robustdml_ext.training import RunRefusedError, describe_environment
from robustdml_ext.training.checkpoint import write_atomically

RESULT = "result.json"


def evaluate_command(asked: Evaluate, console: Console) -> int:
    """Judge a model, print the table, and write ``result.json``.

    Returns:
        The exit code.
    """
    if asked.place.threads is not None:
        torch.set_num_threads(asked.place.threads)
    began = time.perf_counter()
    try:
        epsilons = parse_epsilons(asked.judgment.epsilons) if asked.judgment.epsilons is not None else None
        found = find_model(asked.subject.model, asked.subject.weights, asked.subject.embedding)
        surrogate = None if asked.subject.surrogate is None else find_model(asked.subject.surrogate)
        splits = _load(asked.images, found.recipe)
        device = _device(asked.place.device)
        model = found.build(splits.channels).to(device)
        stranger = None if surrogate is None else surrogate.build(splits.channels).to(device)
        images = _limited(_split(splits, asked.images.split), asked.images.limit)
    except (ValueError, TypeError, OSError, ImportError) as error:
        # Before anything is judged, a wrong value or a missing file is a matter of what was asked for.
        raise RunRefusedError(str(error)) from error
    if epsilons is None:
        epsilons = (8 / 255,) if found.recipe is None else tuple(found.recipe.attack_epsilons)
    gallery = splits.gallery if asked.images.split == "test" else None

    def batches(part: LabeledImages) -> EvaluationBatches:
        pinned = device.type == "cuda"
        return data.evaluation_batches(part, asked.place.batch_size, num_workers=asked.place.workers, pin_memory=pinned)

    with _progress(console) as bar:
        task = bar.add_task("judging", total=None)
        report = judge_robustness(
            model,
            batches(images),
            gallery=None if gallery is None else batches(gallery),
            attacks=_chosen(asked.judgment.attacks, "attacks", {"standard": STANDARD, "none": ()}, ATTACKS),
            norms=(asked.judgment.norm,),
            # Only those of the norm asked for are used.
            epsilons=epsilons,
            l2_epsilons=epsilons,
            steps=asked.judgment.steps,
            restarts=asked.judgment.restarts,
            corruptions=_chosen(
                asked.judgment.corruptions, "corruptions", {"all": tuple(CORRUPTIONS), "none": ()}, CORRUPTIONS
            ),
            checks=asked.judgment.checks,
            surrogate=stranger,
            recall_at=asked.judgment.recall_at,
            metrics=_chosen(asked.judgment.metrics, "metrics", {"all": GROUPS, "default": DEFAULT_GROUPS}, GROUPS),
            seed=asked.judgment.seed,
            device=device,
            progress=lambda what, number, total: bar.update(task, description=what, completed=number - 1, total=total),
        )
    result = {
        "model": found.facts,
        "recipe": _recipe(asked, found, splits),
        "data": {
            "dataset": splits.name, "protocol": splits.protocol, "split": asked.images.split, "images": len(images),
            "gallery": None if gallery is None else len(gallery), "image_size": splits.image_size,
        },
        **report.to_json(),
        "surrogate": None if surrogate is None else surrogate.facts,
        "device": str(device),
        "seconds": time.perf_counter() - began,
        "environment": describe_environment(),
    }  # fmt: skip
    folder = Path(asked.place.out) if asked.place.out is not None else _default_folder(asked.subject.model, splits.name)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / RESULT, lambda file: file.write(text.encode()))
    console.print(reporting.evaluation_table(result))
    console.print(f"result: {folder / RESULT}", highlight=False, soft_wrap=True)
    return 0


def parse_epsilons(words: Sequence[str]) -> tuple[float, ...]:
    """Numbers above 0, each written as a number (`0.03`) or a fraction (`8/255`).

    Raises:
        ValueError: one that is neither.
    """
    numbers = []
    for word in words:
        try:
            number = float(Fraction(word))
        except (ValueError, ZeroDivisionError):
            number = 0.0
        if not 0 < number <= 1:
            raise ValueError(f"epsilons must be numbers in (0, 1], as 0.03 or 8/255; got {word!r}")
        numbers.append(number)
    if not numbers:
        raise ValueError("epsilons must name at least one number")
    return tuple(numbers)


def _load(asked: ImageOptions, recipe: Recipe | None) -> DataSplits:
    """The data set asked for, or else the checkpoint's own with all that its recipe says of it."""
    own = recipe if recipe is not None and asked.dataset in (None, recipe.dataset) else None
    if own is None and asked.dataset is None:
        raise RunRefusedError("name the images to judge on by --dataset; only a checkpoint brings its own")

    def option(name: str, default: Any = None) -> Any:
        value = getattr(asked, name)
        return value if value is not None else default if own is None else getattr(own, name)

    splits = data.load(
        option("dataset"),
        option("root"),
        # What the network was trained for holds on any data set.
        image_size=asked.image_size or (None if recipe is None else recipe.image_size),
        channels=asked.channels or (None if recipe is None else recipe.channels),
        train_classes=option("train_classes"),
        on_broken=asked.on_broken,
        cache=asked.cache,
        protocol=option("protocol", "default"),
        download=asked.download,
    )
    if asked.split != "test" and own is not None and own.select_on == "validation":
        splits = data.hold_out(splits, own.validation_share, own.seed)
    return splits


def _split(splits: DataSplits, name: str) -> LabeledImages:
    if name == "validation":
        if splits.validation is None:
            raise RunRefusedError(
                f"{splits.name} has no validation split; one is held out in training, so name a run that did that"
            )
        return splits.validation
    return splits.test if name == "test" else splits.train


def _limited(images: LabeledImages, limit: int | None) -> LabeledImages:
    if limit is None or limit >= len(images):
        return images
    if limit < 2:
        raise ValueError(f"limit must be at least 2, got {limit}")
    return images.select(torch.linspace(0, len(images) - 1, limit).round().long().tolist())


def _chosen(words: Words, option: str, sets: dict[str, Words], known: Any) -> Words:
    """The names meant by a list of names and names of sets.

    Raises:
        RunRefusedError: a word that is neither.
    """
    chosen: list[str] = []
    for word in words:
        if word not in sets and word not in known:
            raise RunRefusedError(f"{option} must be of {', '.join([*sets, *known])}; got {word!r}")
        chosen += sets.get(word, (word,))
    return tuple(dict.fromkeys(chosen))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def _recipe(asked: Evaluate, found: FoundModel, splits: DataSplits) -> dict[str, Any]:
    """What tells one judged model from another, in the place where a run's result has its recipe."""
    if found.recipe is not None:
        return {**found.recipe.model_dump(mode="json"), "dataset": splits.name}
    return {
        "method": asked.subject.model,
        "targets": [],
        "seed": asked.judgment.seed,
        "dataset": splits.name,
        **found.facts,
    }


def _default_folder(model: str, dataset: str) -> Path:
    path = Path(model)
    if path.is_dir():
        return path / "evaluation"
    if path.is_file():
        return path.parent / f"evaluation-{path.stem}"
    return Path("evaluations") / f"{model.replace(':', '.')}-{dataset}"


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
