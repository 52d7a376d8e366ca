"""What a tool of the command line is, and the names that several of them share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from robustdml_ext.recipes.commandline import Request

Train = Callable[[Request], int]
"""Runs a request in its folder, as a training command does, and returns the exit code."""

ABLATION_TABLE = "ablation.md"
PAPER_TABLE = "table.md"
TABLES = (ABLATION_TABLE, PAPER_TABLE)


@dataclass(frozen=True)
class Tool:
    """A command beside training.

    Attributes:
        module: in `robustdml_ext.tools`, with a function ``command(words, prog, train) -> exit code``.
        summary: one line, for the overview.
        stopped: what is said after it was stopped by Ctrl-C, a sentence.
    """

    module: str
    summary: str
    stopped: str = ""
