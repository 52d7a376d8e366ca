"""A method of one's own: what one training step does with a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robustdml_ext.methods import Batch, Context, Method, StepOutput
from robustdml_ext.models import Embedder


class Noisy(Method):
    """Clean images and the same with Gaussian noise, each through batch norms of its own, as in MDProp.

    L({θ_n, θ_b¹}, X, Y) + L({θ_n, θ_b²}, X + δ, Y), δ ~ N(0, σ²), clamped to the pixel range.

    Args:
        embedder: with two distributions.
        loss: the metric loss.
        deviation: σ, in pixels.

    Raises:
        ValueError: the embedder has another number of distributions.
    """

    name = "noisy"
    embedder: Embedder

    def __init__(self, embedder: Embedder, loss: nn.Module, deviation: float = 0.1) -> None:
        super().__init__(embedder, loss)
        if embedder.distributions != 2:
            raise ValueError(f"embedder: expected 2 distributions, got {embedder.distributions}")
        self.deviation = deviation

    def training_step(self, batch: Batch, generator: torch.Generator, context: Context) -> StepOutput:
        """The loss of one batch, of which this process holds a part."""
        own = len(batch.images)
        labels = context.gather(batch.labels)
        # Drawn for the whole batch and sliced, so that several processes draw what one would.
        shape = (len(labels), *batch.images.shape[1:])
        noise = context.slice(torch.randn(shape, generator=generator, device=generator.device)).to(batch.images)
        noisy = (batch.images + self.deviation * noise).clamp(0, 1)
        streams = self.embed_streams(torch.cat([batch.images, noisy]), 2, context, segments=[own, own])
        losses = [self.metric(stream, labels, generator) for stream in streams]
        log: dict[str, Tensor | float] = {"loss/clean": losses[0].detach(), "loss/noisy": losses[1].detach()}
        return StepOutput(torch.stack(losses).sum(), log | self.take_parts())


if __name__ == "__main__":
    from robustdml_ext.losses import MultiSimilarityLoss
    from robustdml_ext.models import build_embedder

    torch.manual_seed(0)
    method = Noisy(build_embedder("small", channels=1, embedding_dim=16, distributions=2), MultiSimilarityLoss())
    optimizer = torch.optim.Adam(method.train().parameter_groups(1e-3, weight_decay=0.0))
    batch = Batch(torch.rand(24, 1, 8, 8), torch.arange(24) // 4)
    for _ in range(3):
        output = method.training_step(batch, torch.Generator().manual_seed(0), Context())
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        print({name: round(float(value), 3) for name, value in output.log.items()})
