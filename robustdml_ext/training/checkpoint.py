"""Checkpoints that are either whole or not there: written beside their name, synced to disk, then renamed."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from robustdml_ext.training.errors import CheckpointError

FORMAT = "robustdml_ext checkpoint 1"
_KEYS = frozenset({"format", "recipe", "step", "method", "optimizer", "random", "metrics", "best"})


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace ``path`` with what ``write`` puts into a file; after a crash at any moment the old file stands.

    Args:
        path: the file to replace or make; its folder must exist.
        write: called with the new file, open for binary writing.

    Raises:
        OSError: the disk is full or the folder cannot be written; ``path`` is as it was.
    """
    # The same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Without this the rename itself may be lost when the machine stops.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint atomically. ``state`` must hold the keys that :func:`load_checkpoint` promises."""
    whole = {"format": FORMAT, **state}
    if missing := sorted(_KEYS - set(whole)):
        raise ValueError(f"state must hold {sorted(_KEYS)}; it lacks {missing}")
    write_atomically(path, lambda file: torch.save(whole, file))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, refusing to run any code that a file may carry.

    Returns:
        A dict: ``recipe``, ``step`` (steps done), ``method``, ``optimizer``, ``random``, ``metrics`` and
        ``best``; or of a classifier's file ``recipe``, ``step``, ``method``,
        ``class_names``, ``image_size`` and ``channels``.

    Raises:
        CheckpointError: the file is missing, truncated, or not a checkpoint of this package.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"no checkpoint at {path}") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path} is truncated or is not a checkpoint ({reason}). "
            "Remove it, or put an older step-N.pt in its place, then resume."
        ) from None
    ours = isinstance(state, dict) and state.get("format") == FORMAT
    if not ours or not any(set(state) >= keys for keys in (_KEYS, _CLASSIFIER_KEYS)):
        raise CheckpointError(f"{path} is not a checkpoint of this package (expected format {FORMAT!r}).")
    whole: dict[str, Any] = state
    return whole


# What a classifier's file holds, beside `format`: the weights and the classes' names, and nothing to go on training by.
_CLASSIFIER_KEYS = frozenset({"format", "recipe", "step", "method", "class_names", "image_size", "channels"})


def write_classifier(path: Path, state: dict[str, Any]) -> None:
    """Write a classifier's weights with its recipe and its classes' names, one a prototype.

    Raises:
        ValueError: the state lacks something.
    """
    whole = {"format": FORMAT, **state}
    if missing := sorted(_CLASSIFIER_KEYS - set(whole)):
        raise ValueError(f"state must hold {sorted(_CLASSIFIER_KEYS)}; it lacks {missing}")
    write_atomically(path, lambda file: torch.save(whole, file))


def keep_copy(path: Path, step: int, keep: int) -> None:
    """Keep ``path`` as ``step-<step>.pt`` beside it, and drop the oldest such copies beyond ``keep``.

    Copies of later steps are dropped too: they are of a future that a run resumed from an older copy gave up.
    """
    if keep <= 0:
        return
    copy_atomically(path, path.with_name(f"step-{step:08d}.pt"))
    copies = {int(copy.stem[5:]): copy for copy in path.parent.glob("step-*.pt") if copy.stem[5:].isdecimal()}
    standing = sorted(number for number in copies if number <= step)[-keep:]
    for number in copies.keys() - set(standing):
        copies[number].unlink()


def copy_atomically(source: Path, target: Path) -> None:
    """Make ``target`` a copy of ``source``.

    No hard link: who copies ``step-N.pt`` over ``last.pt`` to go back would write into every name of the file.

    Raises:
        OSError: as :func:`write_atomically`, or ``source`` cannot be read.
    """
    with open(source, "rb") as content:
        write_atomically(target, lambda file: shutil.copyfileobj(content, file, 1 << 20))
