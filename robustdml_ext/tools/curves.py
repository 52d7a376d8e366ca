"""`run curves`: curves over training."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from typing import Annotated

import tyro

from robustdml_ext.tools.compare import runs_among
from robustdml_ext.tools.terminal import console
from robustdml_ext.tools.tool import Train


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


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Show curves over training, and draw them.

    Returns:
        The exit code.

    Raises:
        ReportError: a run without curves, or a figure that cannot be written.
    """
    from robustdml_ext import reporting

    asked = tyro.cli(Curves, args=list(words), prog=prog)
    runs = runs_among(asked.runs)
    if not runs or not asked.metric:
        raise reporting.ReportError("name at least one run and one metric to draw")
    groups = reporting.group_curves(reporting.read_curves(path) for path in runs)
    console().print(reporting.curves_table(groups, asked.metric))
    if asked.figure is not None:
        reporting.draw_curves(groups, asked.metric, asked.figure)
        print(f"figure: {asked.figure}", file=sys.stderr)
    return 0
