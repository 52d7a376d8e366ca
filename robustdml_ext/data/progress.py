"""Progress on the terminal, for what takes minutes; nothing where standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Report(Protocol):
    """Says how much is done, of how much where that is known."""

    def __call__(self, done: int, total: int | None = None) -> None: ...


@contextmanager
def progress(what: str, total: int | None = None, *, of_bytes: bool = False) -> Iterator[Report]:
    """A bar with the time left, and for bytes with the rate; yields what to report to."""
    if not sys.stderr.isatty():
        yield lambda done, total=None: None
        return
    # Takes a tenth of a second to import.
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    amount = (DownloadColumn(), TransferSpeedColumn()) if of_bytes else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *amount, TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as bar:
        task = bar.add_task(what, total=total)

        def report(done: int, total: int | None = None) -> None:
            bar.update(task, completed=done, total=total)  # None leaves the total as it is

        yield report
