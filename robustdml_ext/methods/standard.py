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
        (embedded,) = self.embed_streams(batch.images, 1, context)
        loss = self.metric(embedded, context.gather(batch.labels), generator)
        return StepOutput(loss, self.take_parts())
