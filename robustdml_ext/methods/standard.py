"""Standard training (ST)."""

from __future__ import annotations

import torch

from robustdml_ext.methods.base import Batch, Method, StepOutput
from robustdml_ext.methods.context import Context


class Standard(Method):
    """ST: the metric loss on clean images."""

    name = "standard"

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """L(θ, X, Y)."""
        loss = self.loss(context.gather(self.embedder(batch.images)), context.gather(batch.labels))
        return StepOutput(loss)
