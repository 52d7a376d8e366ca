"""`run table`: a set of recipes with several seeds each, into the paper's table with ours beside it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from robustdml_ext.recipes import RecipeError
from robustdml_ext.tools.lanes import Lane, lanes_for
from robustdml_ext.tools.planned_runs import is_finished, part_words, refuse_flags, run_in_turn, tell_as
from robustdml_ext.tools.side_by_side import run_side_by_side
from robustdml_ext.tools.sole_user import sole_user
from robustdml_ext.tools.table_plan import TableRow, TableRun, changed, is_begun, missing_data, plan_table
from robustdml_ext.tools.terminal import console as make_console
from robustdml_ext.tools.tool import PAPER_TABLE, Train

_OWN = ("--seeds", "--seeds-from", "--out", "--jobs", "--dry-run", "--skip-missing")
_REFUSED = {
    "recipe": "the patterns say which",
    "seed": "--seeds says how many, --seeds-from the first",
    "overwrite": "finished runs are kept; remove them, or name another folder by --out",
}
_tell = tell_as("table")


@dataclasses.dataclass(frozen=True)
class Table:
    """Run the recipes of a paper's table, several seeds each, and print the table with ours beside the published one.

    For example:

    python -m robustdml_ext.run table 'recipes/mdprop/table1*.yaml' --seeds 3 --root DIR

    python -m robustdml_ext.run table 'eat/table3*' --seeds 2 --root DIR --epochs 2 --jobs 2

    Any other flag of training may be given beside, for all runs alike; METHOD --help lists them. Each run is an
    ordinary one in a folder of its own. The same command goes on where it was stopped: finished runs are skipped, begun
    ones resumed. A run that fails does not stop the others; the exit code is 1 then. The runs are processes of their
    own, so torchrun is for the commands that train: a run so made in its folder, which --dry-run names, counts.
    """

    recipes: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(
            help="Names of packaged recipes (see `list`) with * in them, in quotation marks; or your own files."
        ),
    ]
    seeds: Annotated[int, tyro.conf.arg(help="Runs of each recipe: 3 stands for the seeds 0, 1 and 2.")] = 1
    seeds_from: Annotated[int, tyro.conf.arg(help="The first seed: with 10, three seeds are 10, 11 and 12.")] = 0
    out: Annotated[
        str | None,
        tyro.conf.arg(
            help=f"Folder of the runs and of {PAPER_TABLE}. None: runs/table-PATTERN, in the working directory."
        ),
    ] = None
    jobs: Annotated[
        int | None,
        tyro.conf.arg(
            help="Runs at once, each a process with one GPU, or with its share of the CPU's threads. None: as many as "
            "there are GPUs, where there are several and --device names none."
        ),
    ] = None
    dry_run: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Print what would be run, where, and what is finished; run nothing."),
    ] = False
    skip_missing: Annotated[
        bool,
        tyro.conf.FlagCreatePairsOff,
        tyro.conf.arg(help="Leave out recipes whose data are missing; run the others."),
    ] = False


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Run a table, see `table_command`.

    Returns:
        The exit code.
    """
    return table_command(words, prog, make_console(), train)


def table_command(words: Sequence[str], prog: str, console: Console, train: Train) -> int:
    """Run the recipes of a table, or what is left of them, and show it.

    Args:
        words: the options, of the table and of training.
        prog: the command, for help.
        console: where the table is shown.
        train: runs a request in its folder, as a training command does; used where one run is made at a time.

    Returns:
        0, or 1 where runs failed.

    Raises:
        RecipeError: a pattern selects nothing, or an option is wrong; nothing has been run then.
        DataError: data are missing; likewise.
        RunRefusedError: another command is at work in the folder.
        ReportError: a finished run's result cannot be read.
        InterruptedRunError, KeyboardInterrupt: the runs in flight were asked to stop, and have.
    """
    own, others = part_words(words, _OWN)
    asked = tyro.cli(Table, args=own, prog=prog)
    _check(asked, others)
    rows, root = plan_table(asked.recipes, _seeds(asked), asked.out, others, prog.removesuffix(" table"))
    plan = [run for row in rows for run in row.runs]
    finished = dict(zip(plan, map(is_finished, plan), strict=True))
    missing = missing_data([row for row in rows if not all(finished[run] for run in row.runs)])
    if asked.dry_run:
        _show_plan(rows, finished, missing, console)
        return 0
    _refuse_missing(rows, missing, asked.skip_missing)
    remarks = dict.fromkeys(missing, "left out: its data are missing")
    for name in missing:
        _tell(f"{name}: {remarks[name]}")
    runs = [run for row in rows if row.name not in missing for run in row.runs]
    notes = changed(rows)
    with sole_user(root) as held:

        def after() -> None:
            _write(rows, root, remarks, notes)

        jobs, lanes = asked.jobs, list[Lane]()
        if jobs != 1 and not all(finished[run] for run in runs):
            lanes = lanes_for(plan[0].request.recipe, jobs)
            jobs = len(lanes)
        if jobs is not None and jobs > 1:
            todo = [run for run in runs if not finished[run]]
            before = len(runs) - len(todo)
            failed = run_side_by_side(todo, lanes, console, _tell, after, finished_before=before, held=held)
        else:
            failed = run_in_turn(runs, [finished[run] for run in runs], train, _goes_on, _tell, after)
        for row in rows:
            seeds = [str(run.request.recipe.seed) for run in row.runs if run in failed]
            if seeds:
                remarks[row.name] = f"failed: seed {', '.join(seeds)}"
        _write(rows, root, remarks, notes, console)
    if failed:
        _tell(f"failed: {'; '.join(run.what for run in failed)}")
    return 1 if failed else 0


def _check(asked: Table, others: Sequence[str]) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise RecipeError(
            "table starts its runs as processes of their own, one a GPU, and is not for torchrun; start it without, by "
            "--jobs with several, or run a recipe under torchrun in the folder that table --dry-run names: it counts"
        )
    if asked.seeds < 1 or asked.seeds_from < 0:
        raise RecipeError(
            f"seeds must be at least 1, and seeds_from not negative; got {asked.seeds} and {asked.seeds_from}"
        )
    if asked.jobs is not None and asked.jobs < 1:
        raise RecipeError(f"jobs must be at least 1; got {asked.jobs}")
    refuse_flags(others, _REFUSED, "a table")


def _seeds(asked: Table) -> range:
    return range(asked.seeds_from, asked.seeds_from + asked.seeds)


def _goes_on(error: BaseException) -> bool:
    """Whether the other runs are run after this: after all failures, but not where it was asked to stop."""
    from robustdml_ext.training import InterruptedRunError

    return not isinstance(error, InterruptedRunError)


def _refuse_missing(rows: Sequence[TableRow], missing: Mapping[str, str], skip: bool) -> None:
    """Raise what is missing, unless there are other rows and it was said that these may be left out."""
    from robustdml_ext.data import DataError

    if not missing or (skip and len(missing) < len(rows)):
        return
    of_each = {reason: [name for name, other in missing.items() if other == reason] for reason in missing.values()}
    said = "; ".join(f"{reason} (for {', '.join(names)})" for reason, names in of_each.items())
    hint = "" if skip or len(missing) == len(rows) else ". The other rows are run by --skip-missing"
    raise DataError(f"{len(missing)} of {len(rows)} recipes need data that are missing: {said}{hint}")


def _show_plan(
    rows: Sequence[TableRow], finished: Mapping[TableRun, bool], missing: Mapping[str, str], console: Console
) -> None:
    states = []
    for row in rows:
        for run in row.runs:
            state = "begun" if is_begun(run) else "to run"
            state = "finished" if finished[run] else "data missing" if row.name in missing else state
            states.append(state)
            console.print(f"{state:12}  {run.folder}", highlight=False, markup=False, soft_wrap=True)
    for reason in dict.fromkeys(missing.values()):
        console.print(f"missing: {reason}", highlight=False, soft_wrap=True)
    counts = {state: states.count(state) for state in dict.fromkeys(states)}
    console.print(f"{len(states)} runs: {', '.join(f'{count} {state}' for state, count in counts.items())}")


def _write(
    rows: Sequence[TableRow],
    root: Path,
    remarks: Mapping[str, str],
    notes: Sequence[str],
    console: Console | None = None,
) -> None:
    """Write the table as it stands, and show it where there is a console."""
    from robustdml_ext import reporting

    shown = []
    for row in rows:
        group = reporting.Group(row.name, row.runs[0].request.recipe.model_dump(mode="json"))
        for run in row.runs:
            if is_finished(run):
                group.add(reporting.read_result(run.folder))
        published = row.runs[0].request.published
        figures = None if published is None else published.model_dump(mode="json")
        shown.append(reporting.PaperRow(row.name, row.title, figures, len(row.runs), group, remarks.get(row.name, "")))
    part = root / f".{PAPER_TABLE}.part"
    part.write_text(reporting.paper_markdown(shown, notes), encoding="utf-8")
    part.replace(root / PAPER_TABLE)
    if console is not None:
        console.print(reporting.paper_table(shown, notes))
        console.print(f"table: {root / PAPER_TABLE}", highlight=False, soft_wrap=True)
