"""What stops a run, told apart so that the command line can answer each with the right exit code."""

from __future__ import annotations

from pathlib import Path


class RunRefusedError(Exception):
    """The run was asked for wrongly, or something that it needs is missing (exit code 2)."""


class CheckpointError(RunRefusedError):
    """A checkpoint file is truncated, or is not one of ours."""


class NonFiniteLossError(Exception):
    """The loss became NaN or infinite; the batch that did it is saved (exit code 1)."""

    def __init__(self, step: int, value: float, saved: Path) -> None:
        super().__init__(
            f"the loss is {value} at step {step}; its batch is saved in {saved}. "
            "A smaller --learning-rate, or --precision float32, often helps."
        )
        self.step = step
        self.saved = saved


class InterruptedRunError(Exception):
    """The run was asked to stop, and saved a checkpoint at a step boundary (exit code 1)."""

    def __init__(self, step: int, checkpoint: Path) -> None:
        super().__init__(
            f"stopped after step {step}; saved in {checkpoint}. Run the same command with --resume to go on."
        )
        self.step = step
