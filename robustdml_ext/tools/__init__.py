"""The tools of the command line, beside training: evaluate, report, ablate and the rest of `run`'s list."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
import yaml
from rich.console import Console

from robustdml_ext.recipes import METHODS, packaged_recipes, read_recipe_file, resolve
from robustdml_ext.recipes.commandline import Request

ABLATION_TABLE = "ablation.md"


@dataclasses.dataclass(frozen=True)
class List:
    """Methods, data sets and packaged recipes."""


@dataclasses.dataclass(frozen=True)
class Show:
    """A recipe, whole, and the figures published for it.

    Example: python -m robustdml_ext.run show mdprop/sop-mdprop-1-5
    """

    recipe: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(help="A packaged recipe's name (see `list`), or a file.")
    ]


@dataclasses.dataclass(frozen=True)
class Compare:
    """Finished runs side by side. Runs that differ in the seed alone are put together: mean ± deviation.

    Example: python -m robustdml_ext.run compare runs/* --figure robustness.png
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="Folders of runs, or result.json files.")]
    figure: Annotated[
        str | None,
        tyro.conf.arg(
            help="Draw into this file (png, svg or pdf): R@1, and π_ratio or (for attacks away from the clean "
            "embedding) F1, against ε; against the attack's steps, where they were varied; and of members judged alone."
        ),
    ] = None
    markdown: Annotated[bool, tyro.conf.arg(help="Print the table as Markdown.")] = False


@dataclasses.dataclass(frozen=True)
class Curves:
    """Curves over training, of finished or running runs. Runs that differ in the seed alone are put together.

    Example: python -m robustdml_ext.run curves runs/* --metric recall@1 loss --figure curves.png

    Prints each curve's last and best values. --evaluate-every and --evaluate-seen of a run give it curves of unseen
    and seen images.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="Folders of runs.")]
    metric: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="Names in metrics.jsonl: recall@1, nmi, loss, ... Each is shown on training, test and validation "
            "images and of training batches, where runs have it. loss/metric is the loss of a run that logs no terms."
        ),
    ] = ("recall@1",)
    figure: Annotated[
        str | None,
        tyro.conf.arg(
            help="Draw into this file (png, svg or pdf): means over seeds against iterations, with a band of one "
            "deviation."
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class Enroll:
    """Add classes to a trained model of prototypes from a few examples, without training; they are saved with it.

    Example: python -m robustdml_ext.run enroll runs/cub200-prototypes-seed0 --examples new_birds

    Each class's prototype is the mean embedding of its examples. Afterwards the similarity head tells the new classes
    from the old ones; the dense output layer knows the old ones alone.
    """

    model: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(help="Folder of a run of prototypes, or its classifier.pt.")
    ]
    examples: Annotated[str, tyro.conf.arg(help="Folder with a folder of images for each new class, by its name.")]
    out: Annotated[
        str | None, tyro.conf.arg(help="File to write the larger classifier to. None: the model's own is replaced.")
    ] = None
    device: Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, or cuda:N.")] = "auto"
    debug: Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")] = False


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Versions, kernel libraries, GPU and data sets: what is live, and why the rest is not.

    Example: python -m robustdml_ext.run doctor --root DIR --json
    """

    json: Annotated[bool, tyro.conf.arg(help="Print JSON and nothing else.")] = False
    root: Annotated[str | None, tyro.conf.arg(help="Folder to look for data sets in.")] = None


def run(command: str, options: Sequence[str], prog: str, train: Callable[[Request], int]) -> int:
    """Run a tool by name.

    Args:
        command: the tool's name.
        options: its words.
        prog: what help calls it.
        train: what runs a training command, for tools that train.

    Returns:
        The exit code.
    """
    if command == "list":
        tyro.cli(List, args=list(options), prog=prog)
        return _list()
    if command == "show":
        return _show(tyro.cli(Show, args=list(options), prog=prog))
    if command == "compare":
        return _compare(tyro.cli(Compare, args=list(options), prog=prog))
    if command == "ablate":
        from robustdml_ext.tools.ablate import ablate_command

        return ablate_command(options, prog, console(), train)
    if command == "curves":
        return _curves(tyro.cli(Curves, args=list(options), prog=prog))
    if command == "enroll":
        from robustdml_ext.tools.enroll import enroll_command

        return enroll_command(tyro.cli(Enroll, args=list(options), prog=prog))
    if command == "evaluate":
        from robustdml_ext.tools.evaluate import evaluate_command
        from robustdml_ext.tools.evaluate_options import Evaluate

        return evaluate_command(
            tyro.cli(Evaluate, args=list(options), prog=prog, config=(tyro.conf.OmitArgPrefixes,)), console()
        )
    if command == "report":
        from robustdml_ext.tools.report import Report, report_command

        return report_command(tyro.cli(Report, args=list(options), prog=prog), console())
    return _doctor(tyro.cli(Doctor, args=list(options), prog=prog))


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fall silent: a run goes on without its reader, and a tool has nothing left to say."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Return a console as wide as the terminal; where there is none, wide enough for every table."""
    return _Console(width=None if sys.stdout.isatty() else 120)


def _list() -> int:
    from robustdml_ext.data import NAMES

    for heading, entries in (("methods", METHODS), ("data sets", NAMES)):
        print(f"{heading}:")
        width = max(map(len, entries))
        for name, summary in entries.items():
            print(f"  {name:{width}}  {summary}")
    print("recipes (`show NAME` prints one, `METHOD --recipe NAME` runs it):")
    for name in packaged_recipes():
        print(f"  {name:48} {read_recipe_file(name).title}")
    return 0


def _show(asked: Show) -> int:
    file = read_recipe_file(asked.recipe)
    content = {"title": file.title, "recipe": resolve(recipe_file=file).model_dump(mode="json")}
    if file.published is not None:
        content["published"] = file.published.model_dump(mode="json")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), end="")
    return 0


def _runs(paths: Sequence[str]) -> list[str]:
    """The runs among what a shell makes of FOLDER/*, where FOLDER is an ablation's and has its table too."""
    return [path for path in paths if Path(path).name != ABLATION_TABLE]


def _compare(asked: Compare) -> int:
    from robustdml_ext import reporting

    runs = _runs(asked.runs)
    if not runs:
        raise reporting.ReportError("name at least one run to compare")
    groups = reporting.group_results(reporting.read_result(path) for path in runs)
    if asked.markdown:
        print(reporting.comparison_markdown(groups), end="")
    else:
        console().print(reporting.comparison_table(groups))
    if asked.figure is not None:
        reporting.draw_comparison(groups, asked.figure)
        print(f"figure: {asked.figure}", file=sys.stderr)
    return 0


def _curves(asked: Curves) -> int:
    from robustdml_ext import reporting

    runs = _runs(asked.runs)
    if not runs or not asked.metric:
        raise reporting.ReportError("name at least one run and one metric to draw")
    groups = reporting.group_curves(reporting.read_curves(path) for path in runs)
    console().print(reporting.curves_table(groups, asked.metric))
    if asked.figure is not None:
        reporting.draw_curves(groups, asked.metric, asked.figure)
        print(f"figure: {asked.figure}", file=sys.stderr)
    return 0


def _doctor(asked: Doctor) -> int:
    from robustdml_ext.data import probe
    from robustdml_ext.reporting import doctor_report
    from robustdml_ext.training import describe_environment

    facts = {**describe_environment(), "data": [dataclasses.asdict(found) for found in probe(asked.root)]}
    if asked.json:
        print(json.dumps(facts, indent=2, default=str))
    else:
        console().print(doctor_report(facts))
    return 0
