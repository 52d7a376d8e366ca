"""What a report says about the images that were judged: how they came in batches, their shape, a digest of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor


class Record:
    """What one pass over images saw of them.

    Attributes:
        name: of the argument that the images came by.
        lengths: images in each batch; batches without any are left out.
        shape: of the first image.
        digest: of all pixels.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lengths: list[int] = []
        self.shape: tuple[int, ...] = ()
        self.digest = hashlib.sha256()

    def watch(self, batches: Iterable[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The same batches, looked at as they pass.

        Raises:
            ValueError: once they end, where no image was among them.
        """
        for pixels, classes in batches:
            if len(pixels):
                self.shape = self.shape or tuple(pixels.shape[1:])
                self.lengths.append(len(pixels))
                self.digest.update(_sums(pixels))
            yield pixels, classes
        if not self.lengths:
            raise ValueError(f"{self.name}: expected at least one, got none")

    def runs(self) -> list[list[int]]:
        """[how many batches, images in each] of batches of one length that follow each other."""
        return [[len(list(run)), length] for length, run in itertools.groupby(self.lengths)]


def _sums(pixels: Tensor) -> bytes:
    """A batch's sum of pixels, and that of its images' sums times their places.

    Added in float64 and rounded to float32, so that the order in which a device adds leaves no trace.
    """
    here = pixels.detach().cpu() if pixels.device.type == "mps" else pixels.detach()
    sums = here.flatten(1).sum(1, dtype=torch.float64)
    places = torch.arange(1, len(sums) + 1, dtype=torch.float64, device=sums.device)
    return torch.stack([sums.sum(), (sums * places).sum()]).float().cpu().numpy().tobytes()
