"""One process or many: what a method needs to compute the loss of the whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, context: Context) -> Tensor:
        ctx.context = context
        gathered = rows.new_empty((context.world_size * len(rows), *rows.shape[1:]))
        torch.distributed.all_gather_into_tensor(gathered, rows.contiguous(), group=context.group)
        return gathered

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.context.slice(gradients[0]), None


class Context:
    """The place of this process among those that share a batch.

    The batch is split into equal, consecutive parts by rank. Every process computes the loss of the whole
    gathered
    batch, but its gradient flows to its own rows alone: **summed** over the processes, the gradients of the
    network's parameters are those of one process with the whole batch. A loss's own parameters (class
    centers) get the whole gradient in every process; theirs are to be averaged.

    Attributes:
        world_size: number of processes.
        rank: this one's number.
        group: process group; None for the default one.
    """

    def __init__(self, world_size: int = 1, rank: int = 0, group: torch.distributed.ProcessGroup | None = None) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: expected 0 to {world_size - 1}, got {rank}")
        self.world_size, self.rank, self.group = world_size, rank, group

    def gather(self, rows: Tensor) -> Tensor:
        """All processes' rows, in the order of their ranks: `[b, …]` → `[B, …]`; every process has b."""
        if self.world_size == 1:
            return rows
        gathered: Tensor = _Gather.apply(rows, self)
        return gathered

    def slice(self, rows: Tensor) -> Tensor:
        """This process's own part of something that all of them have alike: `[B, …]` → `[b, …]`.

        Raises:
            ValueError: B is no multiple of the number of processes.
        """
        own, rest = divmod(len(rows), self.world_size)
        if rest:
            raise ValueError(f"rows: expected a multiple of {self.world_size} processes, got {len(rows)}")
        return rows[self.rank * own : (self.rank + 1) * own]
