"""In which arithmetic the network runs, and in which order its images lie in memory."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

PrecisionName = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Precision:
    """The arithmetic of a run on a device.

    Attributes:
        name: float32, or bfloat16 (autocast; parameters, statistics and the loss stay float32).
        memory_format: channels-last on CUDA, where convolutions are fastest on it.
    """

    name: PrecisionName
    device: torch.device

    @property
    def memory_format(self) -> torch.memory_format:
        """Channels-last on CUDA, contiguous on the CPU."""
        return torch.channels_last if self.device.type == "cuda" else torch.contiguous_format

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which forward passes run."""
        if self.name == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def place(self, module: nn.Module) -> None:
        """Move a module to the device, in the memory order of this precision."""
        module.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]

    def images(self, images: Tensor) -> Tensor:
        """Move a batch of images [B, C, H, W] to the device, in the memory order of this precision."""
        return images.to(self.device, non_blocking=True, memory_format=self.memory_format)


def choose_precision(asked: str, device: torch.device) -> Precision:
    """Return the precision that ``asked`` (auto, float32 or bfloat16) means on ``device``."""
    if asked == "auto":
        return Precision("bfloat16" if device.type == "cuda" else "float32", device)
    if asked not in ("float32", "bfloat16"):
        raise ValueError(f"precision must be auto, float32 or bfloat16; got {asked!r}")
    return Precision("bfloat16" if asked == "bfloat16" else "float32", device)
