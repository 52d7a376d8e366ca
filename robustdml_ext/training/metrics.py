"""Curves: JSON lines that survive a crash without doubles, and the same for TensorBoard."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
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
    """Means of what a method logs, added up where the values are; only reading waits for the device.

    A name's mean is over the steps that brought it: methods may log other things in another phase of the training.
    """

    def __init__(self) -> None:
        # By the names that steps bring together: their sums, and how many steps those were.
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, values: Mapping[str, float | Tensor]) -> None:
        """Add one step's values: plain numbers, and scalar tensors of one device."""
        if not values:
            return
        names = tuple(values)
        device = next((value.device for value in values.values() if isinstance(value, Tensor)), None)
        scalars = (torch.as_tensor(value, dtype=torch.float64, device=device) for value in values.values())
        row = torch.stack([scalar.detach().reshape(()) for scalar in scalars])
        before = self._sums.get(names)
        self._sums[names] = row if before is None else before.to(row.device) + row
        self._counts[names] = self._counts.get(names, 0) + 1

    def peek(self) -> dict[str, float]:
        """Return the means since the last read, and go on adding; empty if nothing was added."""
        totals: dict[str, float] = {}
        steps: dict[str, int] = {}
        for names, sums in self._sums.items():
            for name, total in zip(names, sums.tolist(), strict=True):
                totals[name] = totals.get(name, 0.0) + total
                steps[name] = steps.get(name, 0) + self._counts[names]
        return {name: total / steps[name] for name, total in totals.items()}

    def read(self) -> dict[str, float]:
        """Return the means since the last read, and begin anew; empty if nothing was added."""
        means = self.peek()
        self._sums, self._counts = {}, {}
        return means

    def state(self) -> list[tuple[list[str], Tensor, int]]:
        """Return what a checkpoint needs in order to go on with the same sums."""
        return [(list(names), sums.cpu(), self._counts[names]) for names, sums in self._sums.items()]

    def restore(self, state: Sequence[tuple[list[str], Tensor, int]] | Mapping[str, Any]) -> None:
        """Go on with the sums of a checkpoint."""
        if isinstance(state, Mapping):  # as earlier versions wrote them
            numbers = torch.tensor(list(state["numbers"].values()), dtype=torch.float64)
            sums = numbers if state["sums"] is None else torch.cat([numbers, state["sums"].double()])
            state = [([*state["numbers"], *state["names"]], sums, state["count"])] if state["count"] else []
        self._sums = {tuple(names): sums for names, sums, _ in state}
        self._counts = {tuple(names): int(count) for names, _, count in state}
