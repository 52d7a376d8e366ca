"""The terminal that tools speak to."""

from __future__ import annotations

import os
import sys

from rich.console import Console


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Fall silent: a run goes on without its reader, and a tool has nothing left to say."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console() -> Console:
    """Return a console as wide as the terminal; where there is none, wide enough for every table."""
    return _Console(width=None if sys.stdout.isatty() else 120)
