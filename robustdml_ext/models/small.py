"""A small convolutional network for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class SmallNet(nn.Module):
    """A few conv – batch norm – ReLU stages, global average pooling, and a linear classifier.

    The first stage keeps the resolution and every later one halves it, so images from 8×8 to 64×64 fit.

    Args:
        channels: of the images.
        widths: channels of the stages.
        num_classes: outputs of the classifier `fc`.
    """

    def __init__(self, channels: int = 3, widths: Sequence[int] = (16, 32, 64), num_classes: int = 10) -> None:
        if not widths or any(width < 1 for width in widths):
            raise ValueError(f"widths: expected numbers >= 1, one a stage, got {list(widths)}")
        super().__init__()
        stages: list[nn.Module] = []
        before = channels
        for i, width in enumerate(widths):
            stages += [
                nn.Conv2d(before, width, 3, stride=1 if i == 0 else 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            ]
            before = width
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` → logits `[B, num_classes]`."""
        logits: Tensor = self.fc(self.pool(self.stages(images)).flatten(1))
        return logits
