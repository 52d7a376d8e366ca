"""`run ablate`: one option's values, each with several seeds, run one after the other into one table."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from robustdml_ext.recipes import METHODS, Recipe, RecipeError
from robustdml_ext.recipes.commandline import parse_run
from robustdml_ext.tools.planned_runs import PlannedRun, is_finished, part_words, refuse_flags, run_in_turn, tell_as
from robustdml_ext.tools.terminal import console as make_console
from robustdml_ext.tools.tool import ABLATION_TABLE, Train

_OWN = ("--vary", "--values", "--seeds", "--out", "--figure")
# Of the ablation itself, or of each run by its value and seed.
_RESERVED = {"seed": "--seeds says which", "out": "every run has a folder of its own under --out"}
_tell = tell_as("ablate")
_YES, _NO = ("true", "yes", "on"), ("false", "no", "off")


@dataclasses.dataclass(frozen=True)
class Ablate:
    """Train a method with each of an option's values, with each seed, and put the figures into one table.

    For example:

    python -m robustdml_ext.run ablate ecaml --loss triplet --vary energy-confusion --values 0 0.001 0.01 0.02 0.1 1
    --seeds 0 1 2

    python -m robustdml_ext.run ablate mdprop --vary targets --values 1 2 3 5 10 --seeds 0 1 2 --figure targets.png

    Any other flag of the method may be given beside, for all runs alike; METHOD --help lists them. Each run is an
    ordinary one in a folder of its own. The same command goes on where it was stopped: finished runs are skipped, begun
    ones resumed. Where a value makes the loss diverge, the others are run all the same, and the exit code is 1.
    """

    method: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"One of {', '.join(METHODS)}.")]
    vary: Annotated[str, tyro.conf.arg(help="The option that is varied, by its flag's name: energy-confusion.")]
    values: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="Its values. Of an option that takes several numbers, with commas: 1,5. Of a switch: on off."
        ),
    ]
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(help="Seeds that each value is run with.")] = (0,)
    out: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Folder of the runs and of {ABLATION_TABLE}. None: runs/ablate-DATASET-METHOD-LOSS-OPTION, in the "
            "working directory."
        ),
    ] = None
    figure: Annotated[
        str | None, tyro.conf.arg(help="Draw Recall@1, NMI and π_ratio against the values into this file.")
    ] = None


@dataclasses.dataclass(frozen=True, eq=False)
class _Planned(PlannedRun):
    """One run of the ablation."""

    value: str


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Run an ablation, see `ablate_command`.

    Returns:
        The exit code.
    """
    return ablate_command(words, prog, make_console(), train)


def ablate_command(words: Sequence[str], prog: str, console: Console, train: Train) -> int:
    """Run an ablation, or what is left of it, and show its table.

    Args:
        words: the options, of the ablation and of the method.
        prog: the command, for help.
        console: where the table is shown.
        train: runs a request in its folder, as a training command does.

    Returns:
        0, or 1 where the loss of some runs diverged.

    Raises:
        RecipeError: an option or a value is wrong; nothing has been run then.
        ReportError: a finished run's result cannot be read, or the figure not be written.
        Exception: what ends a run, but for a loss that diverges.
    """
    from robustdml_ext.training import NonFiniteLossError

    own, others = part_words(words, _OWN)
    asked = tyro.cli(Ablate, args=own, prog=prog)
    option = _option(asked, others)
    plan = _plan(asked, option, others, f"{prog.removesuffix(' ablate')} {asked.method}")
    finished = [is_finished(planned) for planned in plan]
    diverged = run_in_turn(plan, finished, train, lambda error: isinstance(error, NonFiniteLossError), _tell)
    if os.environ.get("RANK", "0") == "0":
        _report(asked, option, plan, plan[0].folder.parent, console)
    if diverged:
        _tell(f"the loss diverged with {'; '.join(planned.what for planned in diverged)}")
    return 1 if diverged else 0


def _option(asked: Ablate, others: Sequence[str]) -> str:
    if asked.method not in METHODS:
        raise RecipeError(f"method must be one of {', '.join(METHODS)}; got {asked.method!r}")
    option = asked.vary.lstrip("-").replace("_", "-")
    name = option.replace("-", "_")
    if name in _RESERVED:
        raise RecipeError(f"{option} cannot be varied: {_RESERVED[name]}")
    if name not in Recipe.model_fields or name == "method":
        known = [field.replace("_", "-") for field in Recipe.model_fields]
        close = difflib.get_close_matches(option, known, n=3, cutoff=0.5)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise RecipeError(f"{option} is not an option that could be varied{hint}")
    refused = {
        option: "it is what is varied",
        f"no-{option}": "it is what is varied",
        "seed": "--seeds says which",
        "overwrite": "finished runs are kept; remove them, or name another folder by --out",
    }
    refuse_flags(others, refused, "an ablation")
    for what, values in (("values", asked.values), ("seeds", asked.seeds)):
        if not values or len(set(values)) < len(values):
            raise RecipeError(f"{what} must be at least one, each given once; got {list(values)}")
    return option


def _plan(asked: Ablate, option: str, others: Sequence[str], prog: str) -> list[_Planned]:
    """All runs, the seeds of a value one after the other. Every one is checked before the first begins."""
    root = asked.out
    plan = []
    seen: dict[str, str] = {}
    for value in asked.values:
        for seed in asked.seeds:
            words = [*others, *_words(option, value), "--seed", str(seed)]
            if root is None:
                root = _root(asked, option, parse_run(asked.method, "", words, prog).recipe)
            name = f"{option}-{re.sub(r'[^A-Za-z0-9.,+-]', '_', value)}-seed{seed}"
            words += ["--out", str(Path(root) / name)]
            request = parse_run(asked.method, "", words, prog)
            what = f"{option} {value}, seed {seed}"
            plan.append(_Planned(what, dataclasses.replace(request, resume=True), value))
        found = repr(getattr(plan[-1].request.recipe, option.replace("-", "_")))
        other = seen.setdefault(found, value)
        if other != value:
            raise RecipeError(f"values must differ; {other} and {value} are one value of {option}")
    if len({planned.folder for planned in plan}) < len(plan):
        raise RecipeError(f"values must differ in letters that a folder's name may have; got {list(asked.values)}")
    return plan


def _root(asked: Ablate, option: str, recipe: Recipe) -> str:
    parts = {"dataset": recipe.dataset, "method": asked.method, "loss": recipe.loss}
    return "-".join(["runs/ablate", *(value for name, value in parts.items() if name != option), option])


def _words(option: str, value: str) -> list[str]:
    """The flag that gives an option this value."""
    kind: Any = Recipe.model_fields[option.replace("-", "_")].annotation
    if kind is bool:
        if value.lower() not in (*_YES, *_NO):
            raise RecipeError(f"{option} is a switch, whose values are on and off; got {value!r}")
        return [f"--{option}" if value.lower() in _YES else f"--no-{option}"]
    several = typing.get_origin(kind) is tuple
    return [f"--{option}", *(filter(None, value.split(",")) if several else [value])]


def _report(asked: Ablate, option: str, plan: Sequence[_Planned], root: Path, console: Console) -> None:
    from robustdml_ext import reporting

    groups = {value: reporting.Group(value, {}) for value in asked.values}
    for planned in plan:
        if is_finished(planned):
            groups[planned.value].add(reporting.read_result(planned.folder))
    found = list(groups.values())
    recipe = plan[0].request.recipe
    loss = "" if option == "loss" else f", {recipe.loss}"
    title = f"{asked.method}{loss}, on {recipe.dataset}" if option != "dataset" else f"{asked.method}{loss}"
    console.print(reporting.ablation_table(option, found, asked.values))
    table = reporting.ablation_markdown(option, found, asked.values)
    note = "Mean ± sample standard deviation over seeds; the best mean of each column is bold."
    (root / ABLATION_TABLE).write_text(f"{title}: {option}\n\n{table}\n{note}\n", encoding="utf-8")
    console.print(f"table: {root / ABLATION_TABLE}", highlight=False, soft_wrap=True)
    if asked.figure is not None:
        reporting.draw_ablation(option, found, asked.values, asked.figure)
        print(f"figure: {asked.figure}", file=sys.stderr)
