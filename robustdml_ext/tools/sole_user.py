"""Keeps two commands, or one and what another has left running, from writing the same runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_LOCK = ".lock"


@contextmanager
def sole_user(folder: Path) -> Iterator[int]:
    """Hold a folder, which is made where it is missing, for one command and the processes that it starts.

    Where the system knows no such locks nobody is kept out.

    Yields:
        An open file's number. A process that inherits it holds the folder as well, even where the command is killed.

    Raises:
        RunRefusedError: somebody else holds it, or it cannot be made.
    """
    from robustdml_ext.training import RunRefusedError

    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / _LOCK, "ab")  # noqa: SIM115 - closed below
    except OSError as error:
        raise RunRefusedError(f"cannot write in the folder {folder}: {error.strerror}") from None
    with handle:
        if fcntl is not None:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunRefusedError(
                    f"another command, or runs that it has left behind, are at work in {folder}; wait for them, end "
                    "them, or name another folder by --out"
                ) from None
            except OSError:  # some network file systems
                pass
        yield handle.fileno()
