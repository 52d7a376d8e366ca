"""Wide residual networks for images of 32×32 pixels, by depth and width."""

from __future__ import annotations

import re

import torch.nn.functional as F
from torch import Tensor, nn

_NAME = re.compile(r"wide_resnet(\d+)_(\d+)")


class _Block(nn.Module):
    """norm – ReLU – conv, twice, around a shortcut that starts behind the first ReLU where shapes change."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        changes = stride != 1 or before != width
        self.shortcut = nn.Conv2d(before, width, 1, stride, bias=False) if changes else None

    def forward(self, maps: Tensor) -> Tensor:
        active = F.relu(self.norm1(maps))
        kept = maps if self.shortcut is None else self.shortcut(active)
        added: Tensor = kept + self.conv2(F.relu(self.norm2(self.conv1(active))))
        return added


class WideResNet(nn.Module):
    """A wide residual network (Zagoruyko & Komodakis 2016), for small images.

    A 3×3 convolution of 16 channels, three stages of (depth − 4) / 6 pre-activation blocks with 16k, 32k and 64k
    channels at full, half and quarter resolution, norm, ReLU, global average pooling, and a linear classifier. Depth 34
    and width k = 10, five blocks a stage, is the size of the one of Madry et al. 2018 (who count 32 layers, and whose
    shortcuts pool and pad where these have 1×1 convolutions).

    Args:
        depth: 6n + 4.
        width: k.
        num_classes: outputs of the classifier `fc`.
        channels: of the images.

    Raises:
        ValueError: another depth, or a width below 1.
    """

    def __init__(self, depth: int = 34, width: int = 10, num_classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        blocks, rest = divmod(depth - 4, 6)
        if rest or blocks < 1:
            raise ValueError(f"depth: expected 6n + 4 with n >= 1, as 10, 16, 28, 34; got {depth}")
        if width < 1:
            raise ValueError(f"width: expected a number >= 1, got {width}")
        self.conv = nn.Conv2d(channels, 16, 3, padding=1, bias=False)
        stages: list[nn.Module] = []
        before = 16
        for stage, stride in enumerate((1, 2, 2)):
            after = 16 * width * 2**stage
            for number in range(blocks):
                stages.append(_Block(before, after, stride if number == 0 else 1))
                before = after
        self.stages = nn.Sequential(*stages)
        self.norm = nn.BatchNorm2d(before)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(before, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` → logits `[B, num_classes]`."""
        maps = F.relu(self.norm(self.stages(self.conv(images))))
        logits: Tensor = self.fc(self.pool(maps).flatten(1))
        return logits


def wide_resnet_size(arch: str) -> tuple[int, int] | None:
    """Depth and width of `wide_resnetDEPTH_WIDTH`, as wide_resnet34_10; None for any other name.

    torchvision's wide_resnet50_2 and wide_resnet101_2, networks for photographs, are no such depths.
    """
    found = _NAME.fullmatch(arch)
    if found is None:
        return None
    depth, width = int(found[1]), int(found[2])
    return (depth, width) if depth >= 10 and (depth - 4) % 6 == 0 and width >= 1 else None
