"""Where a training's time goes: waiting for images, attack, forward, backward, update, evaluation, checkpoints."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PARTS = ("attack", "forward", "backward", "update")
"""What a step consists of."""


class Stopwatch:
    """Adds up seconds by stage.

    Stages of the loop follow one another (`lap`). The parts of a step (`measure`) may stand inside one another, and the
    time of an inner one is not the outer one's. On CUDA, where a call returns before its work is done, parts are
    measured by events on the device's stream, which are read when the loop waits for the device anyway.

    Args:
        device: where steps are computed.
        seconds: by stage, what is added to.
    """

    def __init__(self, device: torch.device, seconds: dict[str, float]) -> None:
        self.seconds = seconds
        self._cuda = device.type == "cuda"
        self._since = time.perf_counter()
        self._steps = 0.0  # wall time of steps whose parts have not been read
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._inside: list[float] = []  # for each open part, the seconds of the parts within it
        self._events: list[tuple[str, str | None, Any, Any]] = []
        self._open: list[str] = []

    def restart(self) -> None:
        """The time until now is no stage's."""
        self._since = time.perf_counter()

    def lap(self, stage: str) -> None:
        """The time since the last lap was this stage's; of "step", its parts' and the rest "other"."""
        now = time.perf_counter()
        passed, self._since = now - self._since, now
        if stage == "step":
            self._steps += passed
        else:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + passed

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Inside the `with` block the time is this part's."""
        if self._cuda:
            with self._measure_on_device(part):
                yield
            return
        began = time.perf_counter()
        self._inside.append(0.0)
        try:
            yield
        finally:
            passed = time.perf_counter() - began
            self._parts[part] += passed - self._inside.pop()
            if self._inside:
                self._inside[-1] += passed

    @contextmanager
    def _measure_on_device(self, part: str) -> Iterator[None]:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        outer = self._open[-1] if self._open else None
        self._open.append(part)
        begin.record()
        try:
            yield
        finally:
            end.record()
            self._open.pop()
            self._events.append((part, outer, begin, end))

    def read(self) -> None:
        """Share out the steps' time among their parts; on CUDA this waits for the device."""
        if self._events:
            self._events[-1][3].synchronize()
        for part, outer, begin, end in self._events:
            passed = begin.elapsed_time(end) / 1000
            self._parts[part] += passed
            if outer is not None:
                self._parts[outer] -= passed
        self._events = []
        # The device may have worked while the loop waited for images; a second counts once, where the loop spent it.
        whole = sum(self._parts.values())
        share = min(1.0, self._steps / whole) if whole > 0 else 0.0
        for part, passed in self._parts.items():
            self.seconds[part] = self.seconds.get(part, 0.0) + passed * share
        rest = max(self._steps - whole, 0.0)
        self.seconds["other"] = self.seconds.get("other", 0.0) + rest
        self._steps, self._parts = 0.0, dict.fromkeys(PARTS, 0.0)
