"""Curves: JSON lines that survive a crash without doubles, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.training.errors import RunRefusedError


class MetricsLog:
    """Appends lines to ``metrics.jsonl``; each checkpoint holds its length, which a resumed run cuts to.

    Args:
        folder: the run's folder.
        position: bytes of ``metrics.jsonl`` to keep; what lies beyond was written after the checkpoint.
        step: the step to go on from, for TensorBoard.
        tensorboard: whether to write TensorBoard's files too.

    Raises:
        RunRefusedError: ``metrics.jsonl`` is shorter than ``position``, so it is not the checkpoint's.
    """

    def __init__(self, folder: Path, *, position: int = 0, step: int = 0, tensorboard: bool = True) -> None:
        path = folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if size < position:
            raise RunRefusedError(
                f"{path} has {size} bytes where the checkpoint expects at least {position}; "
                "it is not the one of this run"
            )
        self._file = open(path, "ab")  # noqa: SIM115 - lives as long as the run
        self._file.truncate(position)
        # Truncating leaves the offset at the old end, which sync() would take for the length.
        self._file.seek(position)
        self._board: Any = None
        if tensorboard:
            # Imported late: it takes seconds, which a run without it should not pay.
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, kind: str, step: int, epoch: int, values: Mapping[str, float]) -> None:
        """Append one line ``{"kind", "step", "epoch", ...}`` and the matching TensorBoard points."""
        line = {"kind": kind, "step": step, "epoch": epoch, **values}
        self._file.write((json.dumps(line) + "\n").encode())
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def sync(self) -> int:
        """Put every line on disk and return the file's length in bytes."""
        self._file.flush()
        os.fsync(self._file.fileno())
        return self._file.tell()

    def close(self) -> None:
        """Flush and close both outputs."""
        self._file.close()
        if self._board is not None:
            self._board.close()


class RunningMeans:
    """Means of what a method logs, added up where the values are; only reading waits for the device."""

    def __init__(self) -> None:
        self._numbers: dict[str, float] = {}
        self._names: tuple[str, ...] = ()
        self._sums: Tensor | None = None
        self._count = 0

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        """Add one step's values: plain numbers, and scalar tensors; every step must bring the same names."""
        tensors = {name: value.detach() for name, value in values.items() if isinstance(value, Tensor)}
        if self._count and {*tensors, *self._numbers} != set(values):
            raise ValueError(
                f"each step must log the same names; got {sorted(values)} after "
                f"{sorted({*self._names, *self._numbers})}"
            )
        for name, value in values.items():
            if not isinstance(value, Tensor):
                self._numbers[name] = self._numbers.get(name, 0.0) + float(value)
        if tensors:
            row = torch.stack([value.reshape(()) for value in tensors.values()]).double()
            self._sums = row if self._sums is None else self._sums.to(row.device) + row
            self._names = tuple(tensors)
        self._count += 1

    def read(self) -> dict[str, float]:
        """Return the means since the last read, and begin anew; empty if nothing was added."""
        means = self.peek()
        self._numbers, self._names, self._sums, self._count = {}, (), None, 0
        return means

    def peek(self) -> dict[str, float]:
        """Return the means since the last read, and go on adding; empty if nothing was added."""
        if not self._count:
            return {}
        means = {name: total / self._count for name, total in self._numbers.items()}
        if self._sums is not None:
            means.update(zip(self._names, (self._sums / self._count).tolist(), strict=True))
        return means

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs in order to go on with the same sums."""
        return {
            "numbers": dict(self._numbers),
            "names": list(self._names),
            "sums": None if self._sums is None else self._sums.cpu(),
            "count": self._count,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on with the sums of a checkpoint."""
        self._numbers, self._names = dict(state["numbers"]), tuple(state["names"])
        self._sums, self._count = state["sums"], int(state["count"])
