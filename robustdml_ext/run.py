"""The command line: ``python -m robustdml_ext.run COMMAND``. It knows everything, and nothing knows it.

Exit codes: 0 done; 1 failed or interrupted; 2 asked wrongly, or something that is needed is missing.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from robustdml_ext.recipes import METHODS, RecipeError
from robustdml_ext.recipes.commandline import Request, parse_run
from robustdml_ext.tools import TOOLS, console, run_tool

# PyTorch takes seconds to import, so everything that needs it is imported by the command that needs it.

PROGRAM = "python -m robustdml_ext.run"

_RESUMABLE = "A run that has saved a checkpoint goes on by the same command with --resume."

_SIGPIPE = 128 + 13  # what a shell reports of a program that ends as its reader does

_OVERVIEW = """usage: {program} COMMAND [OPTIONS]

Train image embeddings that survive attack, and measure how they do.

methods:
{methods}

tools:
{tools}

examples:
  {program} mdprop
      MDProp on scikit-learn's digits: nothing to download, about a minute on a laptop
  {program} mdprop --dataset sop --root DIR --targets 1 5 --out runs/sop --resume
      on Stanford Online Products; the same command goes on after it was stopped
  {program} ablate standard --loss triplet --vary triplet-margin --values 0.05 0.1 0.2 --seeds 0 1 2
      what an option does, over seeds, in one table; the same command goes on after it was stopped
  {program} table 'mdprop/table1*' --seeds 3 --root DIR
      a paper's table with ours beside the published figures; the same command goes on after it was stopped
  {program} evaluate runs/sop --corruptions all
      everything that may befall a trained model, in one table with one score
  torchrun --nproc-per-node 2 -m robustdml_ext.run mdprop --recipe mdprop/table3-sop-mdprop-1-5 --root DIR
      a published row, on two processes

`{program} COMMAND --help` describes every option of a command.
exit codes: 0 done; 1 failed or interrupted; 2 asked wrongly, or something needed is missing
"""


class UsageError(Exception):
    """The command line does not make sense, or names something that is not there."""


class _RaisedInRunError(Exception):
    """Carries an error out of a run that had begun, with the mark of the process that has it."""

    def __init__(self, error: Exception, process: str) -> None:
        super().__init__(str(error))
        self.error, self.process = error, process


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Args:
        arguments: the command and its options; those of this process by default.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        if not words or words[0] in ("-h", "--help"):
            print(_overview(), file=sys.stdout if words else sys.stderr)
            return 0 if words else 2
        command, options = words[0], words[1:]
        if command in METHODS:
            return _train(parse_run(command, METHODS[command], options, f"{PROGRAM} {command}"))
        if command in TOOLS:
            return run_tool(command, options, f"{PROGRAM} {command}", _train)
        raise UsageError(f"unknown command {command!r}; expected one of {', '.join([*METHODS, *TOOLS])}")
    except SystemExit as leaving:  # of the option parsers, after help (0) or a message (2)
        return leaving.code if isinstance(leaving.code, int) else 1
    except KeyboardInterrupt:
        what = words[0] if words else ""
        hint = _RESUMABLE if what in METHODS else TOOLS[what].stopped if what in TOOLS else ""
        _complain(f"stopped. {hint}".rstrip())
        return 1
    except BrokenPipeError:
        # The reader (`| head`) has seen enough, which is no failure; the interpreter's own flush must not fail either.
        _discard_output()
        return _SIGPIPE
    except _RaisedInRunError as raised:
        if debug:
            traceback.print_exception(raised.error)
        return _answer(raised.error, raised.process)
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _answer(error)


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _overview() -> str:
    width = max(len(name) for name in [*METHODS, *TOOLS])
    summaries = {name: tool.summary for name, tool in TOOLS.items()}
    methods, tools = (
        "\n".join(f"  {name:{width}}  {summary}" for name, summary in entries.items())
        for entries in (METHODS, summaries)
    )
    return _OVERVIEW.format(program=PROGRAM, methods=methods, tools=tools)


def _exit_code(error: Exception) -> int:
    if isinstance(error, RecipeError | UsageError):
        return 2
    try:
        from robustdml_ext.data import DataError
        from robustdml_ext.reporting import ReportError
        from robustdml_ext.training import RunRefusedError
    except Exception:
        # What does not import could not run either: `error` is the reason, as it came first.
        return 2
    return 2 if isinstance(error, RunRefusedError | DataError | ReportError) else 1


def _answer(error: Exception, process: str = "") -> int:
    """Say what went wrong, once, and return the exit code that it deserves.

    Args:
        error: what was raised.
        process: the mark of the process that raised it, where it did so in a run that had begun.
    """
    code, message = _exit_code(error), str(error)
    shared = not process
    if code == 1:
        from robustdml_ext.training import InterruptedRunError, NonFiniteLossError

        if isinstance(error, InterruptedRunError | NonFiniteLossError):
            shared = True
        else:
            shared, message = False, f"failed: {type(error).__name__}: {error} (--debug shows the traceback)"
    # What every process concludes alike, one of them says; what one of them met, an image say, is its own to say.
    if not shared or os.environ.get("RANK", "0") == "0":
        _complain(message, process)
    return code


def _complain(message: str, process: str = "") -> None:
    print(f"robustdml_ext: {process}{message}", file=sys.stderr)


def _train(request: Request) -> int:
    import torch

    from robustdml_ext.training import (
        InterruptedRunError,
        Job,
        RunRefusedError,
        start_processes,
        stop_processes,
    )
    from robustdml_ext.training.folder import FAILURE, check_folder
    from robustdml_ext.training.memory import keep_freed_memory

    keep_freed_memory()
    recipe = request.recipe
    folder = Path(recipe.out_folder)
    go_on = check_folder(folder, resume=request.resume, overwrite=request.overwrite)
    if recipe.threads is not None:
        torch.set_num_threads(recipe.threads)
    processes = start_processes(recipe.device)
    try:
        from robustdml_ext.assemble import assemble

        try:
            parts = assemble(recipe)
            job = Job(recipe, parts.splits, parts.method, processes)
        except (ValueError, TypeError, OSError, ImportError) as error:
            # Before the first step, a wrong value or a missing file is a matter of what was asked for.
            raise RunRefusedError(str(error)) from error
        try:
            job.run(folder, console(), go_on=go_on, published=request.published)
        except Exception as error:
            mark = f"[rank {processes.rank}] " if processes.world_size > 1 else ""
            raise _RaisedInRunError(error, mark) from error
        if recipe.report and processes.writes:
            _write_page(folder, str(processes.device))
    except Exception as raised:
        cause = raised.error if isinstance(raised, _RaisedInRunError) else raised
        expected = _exit_code(cause) == 2 or isinstance(cause, InterruptedRunError)
        if not expected and folder.is_dir() and processes.writes:
            (folder / FAILURE).write_text("".join(traceback.format_exception(cause)), encoding="utf-8")
        raise
    finally:
        stop_processes()
    return 0


def _write_page(folder: Path, device: str) -> None:
    """The page of a run that has ended well; what keeps it from being written does not make the run a failure."""
    from robustdml_ext.tools import console
    from robustdml_ext.tools.report import Report, report_command

    try:
        report_command(Report((str(folder),), device=device), console())
    except Exception as error:
        _complain(f"the run has ended, but its page could not be written: {error}")


def _start() -> int:
    code = main()
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
        return _SIGPIPE
    return code


if __name__ == "__main__":
    sys.exit(_start())
