"""A stand-in for a model whose gradients say nothing: a small network taught the model's own embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.evaluation.subject import Subject, broken
from robustdml_ext.evaluation.threats import BOTH_SIDES
from robustdml_ext.models import SmallNet

_LARGEST_SIDE = 64
_MOST_IMAGES = 2048
_UPDATES = 300
_BATCH = 64


class Surrogate(nn.Module):
    """A `SmallNet` that sees images of at most 64 pixels a side; larger ones are averaged down first.

    Args:
        channels: of the images.
        embedding_dim: D.
    """

    def __init__(self, channels: int, embedding_dim: int) -> None:
        super().__init__()
        self.network = SmallNet(channels, (16, 32, 64), embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` in [0, 1] → embeddings `[B, D]` of unit length."""
        return F.normalize(self.network(shrunk(images)))


def distilled_surrogate(subject: Subject, seed: int = 0) -> Surrogate:
    """Teaches a small network the judged model's embeddings, as an attacker could who may only ask it.

    300 updates of Adam on 1 − cos(student, teacher), on at most 2,048 of the images, evenly spaced over queries and
    gallery, changed by noise of a random strength, which leaves the student smoother. Images whose embedding is not
    finite teach nothing. The same for the same seed, batch size, and machine.
    """
    clean = subject.clean().all()
    pixels, rows = _remembered(subject)
    known = ~broken(clean[rows])
    pixels, rows = pixels[known], rows[known]
    taught = F.normalize(clean[rows]).to(subject.device)
    with torch.random.fork_rng(devices=[]):
        # The CPU's alone, which is put back; torch.manual_seed would leave those of other devices changed.
        torch.default_generator.manual_seed(seed)
        student = Surrogate(pixels.shape[1], taught.shape[1]).to(subject.device)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(student.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _UPDATES)
    with torch.inference_mode(False), torch.enable_grad(), subject.autocast("float32"):
        for _ in range(_UPDATES):
            chosen = torch.randint(len(pixels), (min(_BATCH, len(pixels)),), generator=generator)
            noise = torch.randn((len(chosen), *pixels.shape[1:]), generator=generator)
            strength = torch.rand((len(chosen), 1, 1, 1), generator=generator) * 0.1
            seen = (pixels[chosen] + strength * noise).clamp(0, 1).to(subject.device)
            loss = 1 - (student(seen) * taught[chosen.to(subject.device)]).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return student.eval()


def shrunk(images: Tensor) -> Tensor:
    """Images averaged down to at most 64 pixels a side."""
    sides = [min(side, _LARGEST_SIDE) for side in images.shape[-2:]]
    return images if sides == list(images.shape[-2:]) else F.interpolate(images, sides, mode="area")


def _remembered(subject: Subject) -> tuple[Tensor, Tensor]:
    found = [(shrunk(images.detach().float()).cpu(), rows) for images, rows in subject.sample(BOTH_SIDES, _MOST_IMAGES)]
    pixels, rows = (torch.cat(parts) for parts in zip(*found, strict=True))
    return pixels, rows
