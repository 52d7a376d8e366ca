"""Keeps processes that would make the same file from making it at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(file: Path) -> Iterator[bool]:
    """Holds the lock on `file` (created where missing), once whoever has it lets go; a dead process lets go at once.

    Yields whether others are really kept out: where the system knows no such locks they are not, so that callers must
    write to names of their own and rename, and lose no more than time.
    """
    with open(file, "ab") as handle:
        held = fcntl is not None
        if held:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:  # some network file systems
                held = False
        yield held
