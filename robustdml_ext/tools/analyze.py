"""`run analyze`: MDProp's analysis of finished runs, written beside them for tables and pages."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.console import Console

from robustdml_ext import data, reporting
from robustdml_ext.tools.analysis import analyze, nothing_of_sound
from robustdml_ext.tools.analysis_options import AnalysisOptions
from robustdml_ext.tools.evaluate import device_of, parse_epsilons
from robustdml_ext.tools.finished import digest, load_run, read_run, weights_step
from robustdml_ext.tools.terminal import console as make_console
from robustdml_ext.tools.tool import Train
from robustdml_ext.training import RunRefusedError
from robustdml_ext.training.checkpoint import write_atomically
from robustdml_ext.training.folder import ANALYSIS, ANALYSIS_ARRAYS

FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Analyze:
    """What training made of the embeddings of finished runs: the analysis of MDProp's section 5, of any method.

    Example: python -m robustdml_ext.run analyze runs/*

    Writes analysis.json and analysis.npz into each run's folder: how far the norms of its distributions differ, and
    Recall@1 with each of them at inference; a map of clean and attacked embeddings; what queries retrieve, clean and
    attacked. What is there already, of the same weights and options, is kept.
    """

    runs: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(help="Folders of finished runs.")]
    attack: Annotated[
        str | None, tyro.conf.arg(help="Of map and sheets, by its name (see `evaluate`). None: the run's first.")
    ] = None
    epsilon: Annotated[str | None, tyro.conf.arg(help="Of that attack, as 0.03 or 8/255. None: the run's own.")] = None
    steps: Annotated[int | None, tyro.conf.arg(help="Of that attack. None: the run's own.")] = None
    classes: Annotated[int, tyro.conf.arg(help="Of the map, at most.")] = 12
    images_per_class: Annotated[int, tyro.conf.arg(help="Of the map, at most.")] = 40
    queries: Annotated[
        int, tyro.conf.arg(help="Drawn at random for the sheets, and as many of those that the attack broke.")
    ] = 8
    seed: Annotated[int, tyro.conf.arg(help="Of what is drawn for map and sheets, alike for all runs.")] = 0
    root: Annotated[str | None, tyro.conf.arg(help="Folder of the data set. None: the run's.")] = None
    device: Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, or cuda:N.")] = "auto"
    threads: Annotated[int | None, tyro.conf.arg(help="CPU threads of PyTorch.")] = None
    again: Annotated[bool, tyro.conf.arg(help="Analyze anew what is up to date, too.")] = False
    debug: Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")] = False


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Read the words, and analyze; see `analyze_command`.

    Args:
        words: the options.
        prog: what help calls the command.
        train: unread.
    """
    return analyze_command(words, prog, make_console())


def analyze_command(words: Sequence[str], prog: str, console: Console) -> int:
    """Analyze runs, and show what their norms are worth.

    Args:
        words: the options.
        prog: the command, for help.
        console: where tables are shown.

    Returns:
        The exit code.
    """
    asked = tyro.cli(Analyze, args=list(words), prog=prog)
    folders = [Path(path) for path in asked.runs if not Path(path).is_file()]
    if not folders:
        raise RunRefusedError("name at least one folder of a finished run to analyze")
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    try:
        options = AnalysisOptions(
            asked.attack,
            # Any above 0: whether it is a radius in l∞, which has a largest one, is the attack's to say.
            None if asked.epsilon is None else parse_epsilons([asked.epsilon], "l2")[0],
            asked.steps,
            asked.classes,
            asked.images_per_class,
            asked.queries,
            asked.seed,
        )
        device = device_of(asked.device)
    except ValueError as error:
        raise RunRefusedError(str(error)) from error
    for folder in folders:
        read_run(folder)  # whatever one of them lacks is said before the first is analyzed
    for folder in folders:
        analyze_run(folder, console, options=options, device=device, root=asked.root, again=asked.again)
    found = [(reporting.read_result(folder), read_analysis(folder)) for folder in folders]
    console.print(reporting.analysis_tables([(result, facts) for result, facts in found if facts is not None]))
    return 0


def analyze_run(
    folder: Path,
    console: Console,
    *,
    options: AnalysisOptions | None = None,
    device: torch.device | None = None,
    root: str | None = None,
    again: bool = False,
) -> None:
    """Analyze a finished run, and write ``analysis.json`` and ``analysis.npz`` into its folder.

    Args:
        folder: of the run.
        console: where is said what is done.
        options: what is asked for; None for the usual.
        device: where its network runs; None for the CPU.
        root: folder of the data set; None for the run's own.
        again: do so even where an analysis of the same weights and options is there.

    Raises:
        ReportError: the run has not ended, or its result cannot be read.
        DataError: its data set is missing; it says where to get it.
        RunRefusedError: what was asked for does not go with the run, or its weights are gone.
    """
    options = options or AnalysisOptions()
    result, recipe, weights = read_run(folder)
    sha = digest(weights)
    if not again and _is_up_to_date(folder, sha, options):
        console.print(f"up to date: {folder / ANALYSIS}", highlight=False, soft_wrap=True)
        return
    arrays: dict[str, Any] = {}
    if data.is_sound(recipe.dataset):
        step, facts = weights_step(result, weights)[0], nothing_of_sound()
    else:
        run = load_run(folder, device or torch.device("cpu"), root)
        try:
            facts, arrays = analyze(run, options)
        except ValueError as error:
            raise RunRefusedError(str(error)) from error
        step = run.step
    whole = {
        "format": FORMAT,
        "weights": {"file": weights.name, "step": step, "sha256": sha},
        "seed": options.seed,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "options": dataclasses.asdict(options),
        **facts,
    }
    # The facts say that the arrays are there, so they go first and come last.
    (folder / ANALYSIS).unlink(missing_ok=True)
    write_atomically(folder / ANALYSIS_ARRAYS, lambda file: np.savez_compressed(file, **arrays))
    text = json.dumps(whole, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / ANALYSIS, lambda file: file.write(text.encode()))
    console.print(f"analysis: {folder / ANALYSIS}", highlight=False, soft_wrap=True)


def read_analysis(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's ``analysis.json``; None where there is none that can be read."""
    try:
        facts = json.loads((folder / ANALYSIS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return facts if isinstance(facts, dict) and facts.get("format") == FORMAT else None


def _is_up_to_date(folder: Path, sha: str, options: AnalysisOptions) -> bool:
    facts = read_analysis(folder)
    return (
        facts is not None
        and (folder / ANALYSIS_ARRAYS).is_file()
        and isinstance(facts.get("weights"), dict)
        and facts["weights"].get("sha256") == sha
        and facts.get("options") == dataclasses.asdict(options)
    )
