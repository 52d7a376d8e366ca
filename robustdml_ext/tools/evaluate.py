"""`run evaluate`: any model on any data set, clean, corrupted and attacked."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from torch import nn

from robustdml_ext import data, reporting
from robustdml_ext.data import DataSplits, LabeledImages
from robustdml_ext.evaluation import ATTACKS, CORRUPTIONS, DEFAULT_GROUPS, GROUPS, STANDARD, embed, judge_robustness
from robustdml_ext.evaluation.robustness import L2_EPSILONS
from robustdml_ext.evaluation.score import json_ready
from robustdml_ext.recipes import Recipe
from robustdml_ext.tools.evaluate_options import Evaluate, JudgmentOptions, Words
from robustdml_ext.tools.images import batches_of, limited, load_images, split_of
from robustdml_ext.tools.models import FoundModel, find_model, together
from robustdml_ext.tools.task_options import check_options
from robustdml_ext.tools.tasks import check_tasks, judge_tasks, task_lines, task_protocol
from robustdml_ext.tools.terminal import console as make_console
from robustdml_ext.tools.tool import Train
from robustdml_ext.tools.words import chosen_names, number_of
from robustdml_ext.training import RunRefusedError, describe_environment
from robustdml_ext.training.checkpoint import write_atomically

RESULT = "result.json"


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Judge a model, see `evaluate_command`.

    Returns:
        The exit code.
    """
    return evaluate_command(
        tyro.cli(Evaluate, args=list(words), prog=prog, config=(tyro.conf.OmitArgPrefixes,)), make_console()
    )


def evaluate_command(asked: Evaluate, console: Console) -> int:
    """Judge a model, print the table, and write ``result.json``.

    Returns:
        The exit code.
    """
    if asked.place.threads is not None:
        torch.set_num_threads(asked.place.threads)
    began = time.perf_counter()
    check_options(asked)
    try:
        subject = asked.subject
        of_tasks = asked.tasks.task != ("suite",)
        found = find_model(subject.model, subject.weights, subject.embedding, subject.inference)
        if subject.others:
            found = together([found, *map(find_model, subject.others)], subject.inference or "vote")
        norm, epsilons = attack_radii(asked.judgment, found.recipe)
        if of_tasks:
            check_tasks(asked, found)
        chosen = choose(asked.judgment, of_classifier=of_tasks)
        surrogate = None if asked.subject.surrogate is None else find_model(asked.subject.surrogate)
        splits = load_images(asked.images, found.recipe)
        folder = _folder(asked, splits.name)
        device = device_of(asked.place.device)
        images = limited(split_of(splits, asked.images.split), asked.images.limit)
        model = _built(found, splits, images, device)
        stranger = None if surrogate is None else _built(surrogate, splits, images, device)
    except (ValueError, TypeError, OSError, ImportError) as error:
        # Before anything is judged, a wrong value or a missing file is a matter of what was asked for.
        raise RunRefusedError(str(error)) from error
    gallery = splits.gallery if asked.images.split == "test" else None
    if of_tasks:
        entries = judge_tasks(asked, found, splits, images, device, norm, epsilons, console)
        judged = {"protocol": task_protocol(asked, found), "results": json_ready(entries)}
        result = _result(asked, found, splits, images, gallery, device, judged, began)
        _write(result, folder)
        console.print(task_lines(result))
        console.print(f"result: {folder / RESULT}", highlight=False, soft_wrap=True)
        return 0

    with _progress(console) as report_progress:
        report = judge_robustness(
            model,
            batches_of(asked.place, images, device),
            gallery=None if gallery is None else batches_of(asked.place, gallery, device),
            attacks=chosen["attacks"],
            norms=(norm,),
            # Only those of the norm asked for are used.
            epsilons=epsilons,
            l2_epsilons=epsilons,
            steps=asked.judgment.steps,
            restarts=asked.judgment.restarts,
            corruptions=chosen["corruptions"],
            checks=asked.judgment.checks,
            surrogate=stranger,
            recall_at=asked.judgment.recall_at,
            metrics=chosen["metrics"],
            seed=asked.judgment.seed,
            device=device,
            progress=report_progress,
        )
    judged = {**report.to_json(), "surrogate": None if surrogate is None else surrogate.facts}
    result = _result(asked, found, splits, images, gallery, device, judged, began)
    _write(result, folder)
    console.print(reporting.evaluation_table(result))
    console.print(f"result: {folder / RESULT}", highlight=False, soft_wrap=True)
    return 0


def _result(
    asked: Evaluate,
    found: FoundModel,
    splits: DataSplits,
    images: LabeledImages,
    gallery: LabeledImages | None,
    device: torch.device,
    judged: dict[str, Any],
    began: float,
) -> dict[str, Any]:
    """The content of ``result.json``."""
    return {
        "model": found.facts,
        "recipe": _recipe(asked, found, splits),
        "data": {
            "dataset": splits.name, "protocol": splits.protocol, "split": asked.images.split, "images": len(images),
            "gallery": None if gallery is None else len(gallery), "image_size": splits.image_size,
            "zero_shot": splits.zero_shot,
        },
        **judged,
        "device": str(device),
        "seconds": time.perf_counter() - began,
        "environment": describe_environment(),
    }  # fmt: skip


def _write(result: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / RESULT, lambda file: file.write(text.encode()))


def attack_radii(asked: JudgmentOptions, recipe: Recipe | None) -> tuple[str, tuple[float, ...]]:
    """The norm of the attacks and their ε: what is asked for, else the checkpoint's, else the norm's usual ones.

    Raises:
        ValueError: an ε that is no number, or out of range.
    """
    norm = asked.norm or ("linf" if recipe is None else recipe.eval_norm)
    if asked.epsilons is not None:
        return norm, parse_epsilons(asked.epsilons, norm)
    if recipe is not None and recipe.eval_norm == norm:
        return norm, tuple(recipe.attack_epsilons)
    return norm, (8 / 255,) if norm == "linf" else L2_EPSILONS


def parse_epsilons(words: Sequence[str], norm: str = "linf") -> tuple[float, ...]:
    """Numbers above 0, each written as a number (`0.03`) or a fraction (`8/255`); in l∞ at most 1, all of the range.

    Raises:
        ValueError: one that is neither, or out of range.
    """
    numbers = []
    largest = 1.0 if norm == "linf" else math.inf
    for word in words:
        number = number_of(word)
        if not 0 < number <= largest or math.isinf(number):
            allowed = "in (0, 1]" if norm == "linf" else "above 0"
            raise ValueError(f"epsilons must be numbers {allowed}, as 0.03 or 8/255; got {word!r}")
        numbers.append(number)
    if not numbers:
        raise ValueError("epsilons must name at least one number")
    return tuple(numbers)


def choose(asked: JudgmentOptions, *, of_classifier: bool = False) -> dict[str, Words]:
    """The attacks, corruptions and groups of figures meant, after all that no judgment can be made with is refused.

    Attacks on a classifier, which have other names, are left to `tasks.class_attacks`.

    Raises:
        ValueError: a number out of range.
        RunRefusedError: a name that is unknown.
    """
    for name, numbers in (("recall_at", asked.recall_at), ("steps", (asked.steps,)), ("restarts", (asked.restarts,))):
        if not numbers or any(number < 1 for number in numbers):
            raise ValueError(f"{name} must be at least 1; got {', '.join(map(str, numbers)) or 'nothing'}")
    if asked.seed < 0:
        raise ValueError(f"seed must not be negative; got {asked.seed}")
    every = tuple(CORRUPTIONS)
    attacks = () if of_classifier else asked.attacks
    return {
        "attacks": chosen_names(attacks, "attacks", {"standard": STANDARD, "none": ()}, ATTACKS),
        "corruptions": chosen_names(asked.corruptions, "corruptions", {"all": every, "none": ()}, CORRUPTIONS),
        "metrics": chosen_names(asked.metrics, "metrics", {"all": GROUPS, "default": DEFAULT_GROUPS}, GROUPS),
    }


def _built(found: FoundModel, splits: DataSplits, images: LabeledImages, device: torch.device) -> nn.Module:
    """The model on its device, after it has embedded two of the images.

    Raises:
        RunRefusedError: it cannot.
    """
    model = found.build(splits.channels).to(device)
    first = next(iter(data.evaluation_batches(images.select(range(min(2, len(images)))), 2)))[0]
    try:
        embed(model, [(first, torch.zeros(len(first), dtype=torch.int64))], device)
    except Exception as error:
        what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise RunRefusedError(
            f"model {found.facts['name']} failed on images {first.dtype} {list(first.shape)} in [0, 1] ({what}); "
            "--image-size and --channels give it others"
        ) from error
    return model


def device_of(name: str) -> torch.device:
    """The device meant by auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: it cannot be used.
    """
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


def _folder(asked: Evaluate, dataset: str) -> Path:
    """Where the result goes.

    Raises:
        RunRefusedError: there is one already, and it was not said that it may go.
    """
    name, path = asked.subject.model, Path(asked.subject.model)
    tasks = "" if asked.tasks.task == ("suite",) else "-" + "+".join(asked.tasks.task)
    what = f"{dataset}-{asked.images.split}{tasks}"
    if asked.place.out is not None:
        folder = Path(asked.place.out)
    elif asked.subject.others:
        names = "+".join(Path(one).name.replace(":", ".") for one in (name, *asked.subject.others))
        folder = Path("evaluations") / f"{names}-{what}"
    elif path.is_dir():
        folder = path / f"evaluation-{what}"
    elif path.is_file():
        folder = path.parent / f"evaluation-{path.stem}-{what}"
    else:
        folder = Path("evaluations") / f"{name.replace(':', '.')}-{what}"
    if (folder / RESULT).exists() and not asked.place.overwrite:
        raise RunRefusedError(f"{folder / RESULT} is there already; replace it by --overwrite, or name another --out")
    return folder


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, and a line an attack anywhere else."""
    if not console.is_terminal:
        yield lambda what, number, total: print(f"{number}/{total}  {what}", file=sys.stderr, flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("judging", total=None)
        yield lambda what, number, total: bar.update(task, description=what, completed=number - 1, total=total)
