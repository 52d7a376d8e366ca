"""`run compare`: finished runs side by side."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from robustdml_ext.tools.terminal import console
from robustdml_ext.tools.tool import TABLES, Train


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


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Show finished runs side by side, and draw them.

    Returns:
        The exit code.

    Raises:
        ReportError: a run that has not ended, one that came twice, or a figure that cannot be written.
    """
    from robustdml_ext import reporting

    asked = tyro.cli(Compare, args=list(words), prog=prog)
    runs = runs_among(asked.runs)
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


def runs_among(paths: Sequence[str]) -> list[str]:
    """The runs among what a shell makes of FOLDER/*, where FOLDER is an ablation's or a table's and has its table too.

    Args:
        paths: as they were given.
    """
    return [path for path in paths if Path(path).name not in TABLES]
