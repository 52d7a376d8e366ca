"""`run report`: one HTML page of a run, or of several side by side."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from robustdml_ext.reporting.page import PageRun, read_run, score_runs, write_page
from robustdml_ext.reporting.page.analysis import NOT_A_RUN, NOT_ENDED
from robustdml_ext.reporting.results import ReportError
from robustdml_ext.tools.compare import runs_among
from robustdml_ext.tools.terminal import console as make_console
from robustdml_ext.tools.tool import Train
from robustdml_ext.training.folder import PAGE


@dataclasses.dataclass(frozen=True)
class Report:
    """Write one HTML page of a run, or of several side by side, which needs no other file and no network.

    Example: python -m robustdml_ext.run report runs/* --out report.html

    It shows what was run, the figures with mean and deviation over seeds beside the published ones, curves over
    training, what an attack's strength does, maps of the embeddings, retrieval sheets, norms, and where the time went.
    Several runs are ranked by the robustness score. A run that goes on yet has a page of what there is so far.
    """

    runs: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(help="Folders of runs, ended or running, and of evaluations. Those below a run come with it."),
    ]
    out: Annotated[
        str | None, tyro.conf.arg(help=f"File to write. None: RUN/{PAGE} of one run, ./{PAGE} of several.")
    ] = None
    analysis: Annotated[
        bool,
        tyro.conf.arg(
            help="Analyze the runs that were not, or whose weights have changed since: maps, sheets and norms need it."
        ),
    ] = True
    root: Annotated[str | None, tyro.conf.arg(help="Folder of the data set, to analyze with. None: the run's.")] = None
    device: Annotated[str, tyro.conf.arg(help="To analyze on: auto, cpu, cuda, or cuda:N.")] = "auto"
    debug: Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")] = False


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Read the words, and write the page; see `report_command`.

    Args:
        words: the options.
        prog: what help calls the command.
        train: unread.
    """
    return report_command(tyro.cli(Report, args=list(words), prog=prog), make_console())


def report_command(asked: Report, console: Console) -> int:
    """Write the page, and say where it is.

    Returns:
        The exit code.

    Raises:
        ReportError: a run of which there is nothing, or the page cannot be written; nothing was written then.
    """
    from robustdml_ext.evaluation.score import area_under_curve

    # Among what a shell makes of FOLDER/* may be an earlier page.
    runs = _read([name for name in runs_among(asked.runs) if Path(name).name != PAGE])
    if not runs:
        raise ReportError("name at least one run to report")
    usual = runs[0].folder / PAGE if len(runs) == 1 else Path(PAGE)
    file = usual if asked.out is None else Path(asked.out)
    if file.is_dir():
        raise ReportError(f"cannot write {file}: it is a folder; name a file by --out")
    if asked.analysis:
        for run in runs:
            _analyze(run, console, asked)
    scoring = score_runs(runs, area_under_curve)
    write_page(runs, scoring, file)
    console.print(f"page: {file} ({file.stat().st_size / 1e6:.1f} MB)", highlight=False, soft_wrap=True)
    return 0


def _read(names: Sequence[str]) -> list[PageRun]:
    """The runs; an evaluation that was named beside its run comes with that, and not for itself."""
    runs = [read_run(name) for name in names]
    within = {run.folder.resolve() / name for run in runs for name in run.evaluations}
    return [run for run in runs if run.folder.resolve() not in within]


def _analyze(run: PageRun, console: Console, asked: Report) -> None:
    """Analyze a run that needs it. Where that fails, the page says why in place of what it would have shown."""
    if run.analysis is not None or run.missing in (NOT_ENDED, NOT_A_RUN):
        return
    try:
        with console.status(f"analyzing {run.name}"):
            analyze_run(run.folder, console, asked.device, asked.root)
    except Exception as error:
        # Of whatever kind: what else there is to show of the runs must not be lost to it.
        run.missing = (
            f"it cannot be analyzed: {error}" if str(error) else f"it cannot be analyzed: {type(error).__name__}"
        )
        print(f"report: {run.name}: {run.missing}", file=sys.stderr)
        return
    run.read_analysis()


def analyze_run(folder: Path, console: Console, device: str, root: str | None) -> None:
    """Leave ``analysis.json`` and ``analysis.npz`` in a run's folder.

    Args:
        folder: of the run.
        console: where it is said.
        device: to analyze on, by its name.
        root: of the data set; None: the run's own.

    Raises:
        Exception: it cannot: data or weights are missing, say.
    """
    from robustdml_ext.tools.analyze import analyze_run as analyze
    from robustdml_ext.tools.evaluate import device_of

    analyze(folder, console, device=device_of(device), root=root)
