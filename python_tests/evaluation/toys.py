"""Small models and images that robustness is judged on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustdml_ext.evaluation import RobustnessReport
from robustdml_ext.evaluation.figures import Wanted

RECALLS = Wanted((1, 8), groups=())


def blobs(count: int = 64, classes: int = 4, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Two batches of images `[B, 1, 8, 8]`: each class has a pattern of its own, under noise."""
    patterns = torch.rand(classes, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
    generator = torch.Generator().manual_seed(seed + 1)
    labels = torch.arange(count) % classes
    pixels = (patterns[labels] + 0.05 * torch.randn(count, 1, 8, 8, generator=generator)).clamp(0, 1)
    half = count // 2 + 3
    return [(pixels[:half], labels[:half]), (pixels[half:], labels[half:])]


class Projection(nn.Module):
    """A fixed random linear map of the pixels around mid-grey, then tanh: honest, and as fragile as can be."""

    def __init__(self, seed: int = 0, size: int = 8) -> None:
        super().__init__()
        weight = torch.randn(64, size, generator=torch.Generator().manual_seed(seed)) / 4
        self.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh((images.flatten(1) - 0.5) @ self.weight)


class Quantized(Projection):
    """Masked: pixels are rounded to sixteen levels first, through which no gradient comes."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward((images * 16).round() / 16)


class Saturated(Projection):
    """Masked: so steep a sigmoid that its slope is zero nearly everywhere."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(1e5 * ((images.flatten(1) - 0.5) @ self.weight)) - 0.5


class Vote(nn.Module):
    """An ensemble whose inference rounds its average: the easy path has no gradient, its members have one."""

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList([Projection(0), Projection(1)])

    def forward(self, images: Tensor) -> Tensor:
        mean = torch.stack([F.normalize(member(images), dim=1) for member in self.members]).mean(0)
        return (mean * 50).round() / 50


class Cracking(Projection):
    """NaN for images with a pixel off the grid of 256 levels: for every image that an attack has moved."""

    def forward(self, images: Tensor) -> Tensor:
        levels = images * 256
        moved = ((levels - levels.round()).abs() > 1e-3).flatten(1).any(1, keepdim=True)
        return torch.where(moved, torch.nan, super().forward(images))


def on_grid(batches: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same images, rounded to 256 levels."""
    return [((pixels * 256).round() / 256, labels) for pixels, labels in batches]


class Blind(Projection):
    """NaN for images that are bright in a corner, clean ones as well."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.where(images[:, 0, 0, :1] > 0.6, torch.nan, super().forward(images))


def entries(report: RobustnessReport, norm: str, epsilon: float) -> dict[str, dict]:
    """A report's entries under one ball, by attack."""
    return {
        entry["attack"]: entry
        for entry in report.entries
        if entry["threat"] and (entry["threat"]["norm"], entry["threat"]["epsilon"]) == (norm, epsilon)
    }
