"""What a training run has to report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


def _no_time() -> dict[str, float]:
    return {"data": 0.0, "step": 0.0, "evaluation": 0.0, "checkpoint": 0.0}


@dataclass
class TrainingSummary:
    """What training came to, over all resumed parts of a run.

    Attributes:
        steps: optimizer steps.
        seconds: wall time by stage: data (waiting for images), step, evaluation, checkpoint.
        best: the best Recall@1 (or accuracy) of what ``select_on`` names, and its epoch; None where the last weights
            count.
        epochs: mean loss of each epoch; of the last one so far as it went, where the run ended within it.
    """

    steps: int = 0
    seconds: dict[str, float] = field(default_factory=_no_time)
    best: dict[str, float] | None = None
    epochs: list[float] = field(default_factory=list)

    def timing(self) -> dict[str, Any]:
        """Return steps, seconds by stage, and steps per second (waiting for images included)."""
        training = self.seconds["data"] + self.seconds["step"]
        return {
            "steps": self.steps,
            "seconds": dict(self.seconds),
            "steps_per_second": self.steps / training if training else None,
        }
