"""One process or many: who am I, and sums over all of us."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from robustdml_ext.training.errors import RunRefusedError

# Long enough for one process to judge a large test set while the others wait.
_TIMEOUT = timedelta(hours=12)
_BUCKET_BYTES = 32 << 20


@dataclass(frozen=True)
class Processes:
    """The place of this process among those of the run.

    Attributes:
        rank: 0 for the process that writes, up to ``world_size - 1``.
        world_size: number of processes.
        device: where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.world_size > 1:
            dist.barrier()

    def sum_gradients(self, parameters: Iterable[Tensor], also: Tensor | None = None) -> None:
        """Sum the gradients of ``parameters`` over all processes, in place, a few large messages at a time.

        Args:
            parameters: in the same order, and with the same gradients present, in every process.
            also: one more tensor, of float32, that is summed in place on the way.
        """
        if self.world_size == 1:
            return
        tensors = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if also is not None:
            tensors.append(also)
        waiting = []
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
            waiting.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
        for bucket, flat, work in waiting:
            assert work is not None
            work.wait()
            parts = torch.split(flat, [tensor.numel() for tensor in bucket])
            torch._foreach_copy_(bucket, [part.view(tensor.shape) for part, tensor in zip(parts, bucket, strict=True)])

    def agree_on_weights(self, module: torch.nn.Module) -> None:
        """Give every process the parameters and buffers of process 0."""
        if self.world_size == 1:
            return
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor.detach(), src=0)


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(tensor)
    for group in by_type.values():
        bucket: list[Tensor] = []
        size = 0
        for tensor in group:
            bucket.append(tensor)
            size += tensor.numel() * tensor.element_size()
            if size >= _BUCKET_BYTES:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def start_processes(device: str) -> Processes:
    """Join the processes that ``torchrun`` started, or stand alone.

    Args:
        device: auto, cpu, cuda or cuda:N. Under torchrun each process takes the GPU of its local rank.

    Raises:
        RunRefusedError: CUDA was asked for and is not there, or there are fewer GPUs than local processes.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    place = _device(device, local_rank, world_size)
    if world_size == 1:
        return Processes(0, 1, place)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if place.type == "cuda" else "gloo", timeout=_TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size(), place)


def _device(name: str, local_rank: int, world_size: int) -> torch.device:
    try:
        device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError:
        raise RunRefusedError(f"device must be auto, cpu, cuda or cuda:N; got {name!r}") from None
    if device.type not in ("cpu", "cuda"):
        raise RunRefusedError(f"device must be auto, cpu, cuda or cuda:N; got {name!r}")
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise RunRefusedError("device cuda was asked for, but PyTorch sees no GPU (`run doctor` says more)")
    index = local_rank if world_size > 1 else (device.index or 0)
    if index >= torch.cuda.device_count():
        raise RunRefusedError(f"GPU {index} was asked for, but there are {torch.cuda.device_count()}")
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def stop_processes() -> None:
    """Leave the process group, if there is one."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
