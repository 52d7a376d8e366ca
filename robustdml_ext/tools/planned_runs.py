"""Several training runs under one command: what is to be run, what is finished, and the rest one after the other.

Each is an ordinary run in a folder of its own, as its training command makes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from robustdml_ext.recipes import Recipe, RecipeError, make_recipe
from robustdml_ext.recipes.commandline import Request
from robustdml_ext.tools.tool import Train

Tell = Callable[[str], None]

# Options that leave a finished run's result as it is.
PLACE = frozenset(
    {"out", "root", "device", "workers", "threads", "save_every", "keep", "log_every", "tensorboard", "report",
     "download", "eval_batch_size"}
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class PlannedRun:
    """One of several runs.

    Attributes:
        what: tells it from the others, for the reader.
        request: as its training command would be asked.
    """

    what: str
    request: Request

    @property
    def folder(self) -> Path:
        """Where it is written."""
        return Path(self.request.recipe.out_folder)


Run = TypeVar("Run", bound=PlannedRun)


def part_words(words: Sequence[str], own: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line into the words of the tool itself and those of the runs.

    Args:
        words: as they were given; a flag takes those behind it along.
        own: the tool's own flags. What comes before any flag is the tool's as well.

    Returns:
        The tool's words, which are --help alone where help is asked for, and the runs'.
    """
    if {"-h", "--help"} & set(words):
        return ["--help"], []
    mine: list[str] = []
    others: list[str] = []
    into = mine
    for word in words:
        if word.startswith("--"):
            into = mine if word.partition("=")[0].replace("_", "-") in own else others
        into.append(word)
    return mine, others


def refuse_flags(others: Sequence[str], refused: Mapping[str, str], what: str) -> None:
    """Check that flags for all runs alike are none that the tool sets itself.

    Args:
        others: the runs' words.
        refused: names of flags, each with the reason.
        what: they cannot be given to.

    Raises:
        RecipeError: one of them is there.
    """
    given = {word.partition("=")[0].removeprefix("--").replace("_", "-") for word in others if word.startswith("--")}
    for flag, why in refused.items():
        if flag in given:
            raise RecipeError(f"--{flag} cannot be given to {what}: {why}")


def is_finished(planned: PlannedRun) -> bool:
    """Whether the run's result is there, and is what would come of it again.

    Raises:
        ReportError: there is a result that cannot be read.
    """
    from robustdml_ext.reporting import read_result

    if not (planned.folder / "result.json").exists():
        return False
    stored, recipe = make_recipe(read_result(planned.folder)["recipe"]), planned.request.recipe
    return all(getattr(stored, name) == getattr(recipe, name) for name in Recipe.model_fields if name not in PLACE)


def run_in_turn(
    plan: Sequence[Run],
    finished: Sequence[bool],
    train: Train,
    survives: Callable[[BaseException], bool],
    tell: Tell,
    after: Callable[[], None] | None = None,
) -> list[Run]:
    """Run what is not finished, in this process, one after the other.

    Args:
        plan: all runs.
        finished: for each, whether there is nothing left to do. Settled before the first begins, so that several
            processes agree.
        train: runs a request in its folder, as a training command does.
        survives: whether the other runs are run all the same after an exception.
        tell: says a line.
        after: called after every run that ended well.

    Returns:
        The runs that failed.

    Raises:
        Exception: what ends a run and is not survived.
    """
    failed: list[Run] = []
    for number, (planned, done) in enumerate(zip(plan, finished, strict=True), 1):
        before = ", finished before" if done else ""
        tell(f"run {number} of {len(plan)}: {planned.what}{before} ({planned.folder})")
        if done:
            continue
        try:
            train(planned.request)
        except Exception as error:
            cause = error.__cause__ or error
            if not survives(cause):
                raise
            tell(str(cause))
            failed.append(planned)
        else:
            if after is not None:
                after()
    return failed


def tell_as(tool: str) -> Tell:
    """Return what says a line on stderr under a tool's name, in one of several processes."""

    def tell(text: str) -> None:
        if os.environ.get("RANK", "0") == "0":
            print(f"{tool}: {text}", file=sys.stderr, flush=True)

    return tell
