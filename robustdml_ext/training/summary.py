"""What a training run has to report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from robustdml_ext.training.stopwatch import PARTS

STEP = (*PARTS, "other")

STAGES = ("data", *STEP, "evaluation", "checkpoint")
"""In the order in which a step meets them."""

SELECTING = ("accuracy_similarity", "recall@1")
"""What weights are chosen by: the first of these figures that an evaluation gives."""


def _no_time() -> dict[str, float]:
    return dict.fromkeys(STAGES, 0.0)


@dataclass
class TrainingSummary:
    """What training came to, over all resumed parts of a run.

    Attributes:
        steps: optimizer steps.
        seconds: by stage: data (waiting for images); of the steps attack, forward, backward, update (the optimizer) and
            other; evaluation, checkpoint.
        best: the best Recall@1 (or accuracy) of what ``select_on`` names, and its epoch; None where the last weights
            count.
        epochs: mean loss of each epoch; of the last one so far as it went, where the run ended within it.
    """

    steps: int = 0
    seconds: dict[str, float] = field(default_factory=_no_time)
    best: dict[str, float] | None = None
    epochs: list[float] = field(default_factory=list)

    def improves(self, found: dict[str, float], epoch: int) -> bool:
        """Whether an evaluation's figures are the best so far; if so, they are kept as such."""
        name = next(name for name in SELECTING if name in found)
        if self.best is not None and found[name] <= self.best[name]:
            return False
        self.best = {name: found[name], "epoch": epoch}
        return True

    def take_time(self, seconds: dict[str, float]) -> None:
        """Go on with the seconds of a checkpoint; of one that knows steps as a whole, as "other"."""
        for stage, passed in seconds.items():
            self.seconds[stage if stage in STAGES else "other"] += passed

    def timing(self) -> dict[str, Any]:
        """Return steps, seconds by stage, and steps per second (waiting for images included)."""
        training = sum(self.seconds[stage] for stage in ("data", *STEP))
        return {
            "steps": self.steps,
            "seconds": {stage: self.seconds[stage] for stage in STAGES},
            "steps_per_second": self.steps / training if training else None,
        }
