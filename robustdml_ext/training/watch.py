"""Watches every step's loss for NaN without making the GPU wait, and listens for a request to stop."""

from __future__ import annotations

import math
import signal
import threading
from collections import deque
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.methods import Context


@dataclass
class Seen:
    """What became of one step: its number, its loss, how many processes ask to stop, and its batch."""

    step: int
    loss: float
    stop: bool
    batch: tuple[Tensor, ...]
    random: Tensor

    def content(self, context: Context) -> dict[str, Any]:
        """What is saved of a step whose loss cannot be trained on: the batch of all processes, and its draws."""
        images, labels, indices = (context.gather(part).cpu() for part in self.batch)
        return {
            "step": self.step, "loss": self.loss, "images": images, "labels": labels, "indices": indices,
            "generator": self.random,
        }  # fmt: skip


class LossWatch:
    """Reads each step's loss, on CUDA one step late.

    By the time step t is queued, step t - 1 is usually done, so that reading it costs nothing; every process
    reads the same step at the same moment, and so all of them stop together.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._lag = 1 if device.type == "cuda" else 0
        self._waiting: deque[tuple[int, Tensor, Any, tuple[Tensor, ...], Tensor]] = deque()

    def push(
        self, step: int, loss: Tensor, stop: Tensor | None, batch: tuple[Tensor, ...], random: Tensor
    ) -> list[Seen]:
        """Take note of a step and return the steps that can be read by now.

        Args:
            step: its number.
            loss: its loss, a scalar.
            stop: how many processes ask to stop, a scalar; None where nobody can.
            batch: its images, labels and places, kept until it is read.
            random: the state of the method's generator before the step.
        """
        pair = torch.stack(
            [
                loss.detach().float().reshape(()),
                loss.new_zeros(()).float() if stop is None else stop.reshape(()),
            ]
        )
        done = None
        if pair.is_cuda:
            host = torch.empty(2, dtype=pair.dtype, pin_memory=True)
            host.copy_(pair, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            pair = host
        self._waiting.append((step, pair, done, batch, random))
        return self._take(len(self._waiting) - self._lag)

    def drain(self) -> list[Seen]:
        """Return every step not yet read, waiting for it."""
        return self._take(len(self._waiting))

    def _take(self, count: int) -> list[Seen]:
        taken = []
        for _ in range(count):
            step, pair, done, batch, random = self._waiting.popleft()
            if done is not None:
                done.synchronize()
            loss, stop = pair.tolist()
            taken.append(Seen(step, loss, stop > 0, batch, random))
        return taken


def is_finite(loss: float) -> bool:
    """Whether a loss is neither NaN nor infinite."""
    return math.isfinite(loss)


class StopRequest:
    """While active, the first Ctrl-C or SIGTERM only takes note; the second acts as usual."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[int, Any] = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        for known, handler in self._before.items():
            signal.signal(known, handler)

    def __enter__(self) -> StopRequest:
        # Python lets only the main thread set handlers; elsewhere the caller's own handling stands.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
