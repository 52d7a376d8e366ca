"""Members spread over processes: who trains which, and what they tell each other."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed
from torch import Tensor, nn

from robustdml_ext.methods.context import Context


class _SumInBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, context: Context) -> Tensor:
        ctx.context = context
        return images.view_as(images)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        total = gradients[0].contiguous().clone()
        torch.distributed.all_reduce(total, group=ctx.context.group)
        return total, None


class SumOfProcesses(nn.Module):
    """Images as they are; their gradient is summed over all processes, each of which has members of its own.

    SG of EAT's equation 10 across processes: every one has the same images, and takes the same attack steps.
    """

    def __init__(self, context: Context) -> None:
        super().__init__()
        self.context = context

    def forward(self, images: Tensor) -> Tensor:
        """The images `[B, C, H, W]`."""
        passed: Tensor = _SumInBackward.apply(images, self.context)
        return passed


def own_members(count: int, context: Context) -> list[int]:
    """Which of the members this process trains: one after the other in turn.

    Raises:
        ValueError: there are more processes than members.
    """
    if context.world_size > count:
        raise ValueError(
            f"members: {count} of them are spread over the processes; expected at most {count} processes, got "
            f"{context.world_size}"
        )
    return list(range(context.rank, count, context.world_size))


def sum_of_all(value: Tensor, context: Context) -> Tensor:
    """The value summed over all processes, with the gradient of this process's own share."""
    if context.world_size == 1:
        return value
    total = value.detach().clone()
    torch.distributed.all_reduce(total, group=context.group)
    return value + (total - value.detach())


@torch.no_grad()
def share_buffers(members: nn.ModuleList, context: Context) -> None:
    """Gives every process each member's buffers (its running statistics) as its own process has them."""
    if context.world_size == 1:
        return
    for number, member in enumerate(members):
        for buffer in member.buffers():
            torch.distributed.broadcast(buffer, src=number % context.world_size, group=context.group)
