"""LeNet, for images of handwritten digits."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

_SIDE = 4  # of the feature maps that the hidden layer sees
LEAST_PIXELS = 16  # pixels a side that two 5×5 convolutions and a pooling leave something of


class LeNet(nn.Module):
    """Two 5×5 convolutions, each with 2×2 max pooling and a ReLU, a hidden layer, and a linear classifier.

    After LeCun et al. 1998, with ReLU and max pooling as it is used today. Of 28×28 pixels 4×4 are left before the
    hidden layer; images of other sizes, from 16 pixels on, are pooled to as many. It has no batch norm.

    Args:
        channels: of the images.
        widths: channels of both convolutions, and units of the hidden layer; by default those of the published code of
            "Learning Semantic Similarities for Prototypical Classifiers".
        num_classes: outputs of the classifier `fc2`.

    Raises:
        ValueError: not three widths above 0.
    """

    def __init__(self, channels: int = 1, widths: Sequence[int] = (10, 20, 50), num_classes: int = 10) -> None:
        if len(widths) != 3 or any(width < 1 for width in widths):
            raise ValueError(f"widths: expected three numbers >= 1, got {list(widths)}")
        super().__init__()
        first, second, hidden = widths
        self.conv1 = nn.Conv2d(channels, first, 5)
        self.conv2 = nn.Conv2d(first, second, 5)
        self.pool = nn.AdaptiveMaxPool2d(_SIDE)
        self.fc1 = nn.Linear(second * _SIDE**2, hidden)
        self.fc2 = nn.Linear(hidden, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images `[B, C, H, W]` → logits `[B, num_classes]`.

        Raises:
            ValueError: images of fewer than 16 pixels a side.
        """
        if min(images.shape[-2:]) < LEAST_PIXELS:
            raise ValueError(f"images: lenet needs {LEAST_PIXELS} pixels a side, got {list(images.shape[-2:])}")
        maps = F.relu(F.max_pool2d(self.conv1(images), 2))
        maps = self.conv2(maps)
        # The plain pooling where it does the same: it is the faster one.
        pooled = F.max_pool2d(maps, 2) if tuple(maps.shape[-2:]) == (2 * _SIDE, 2 * _SIDE) else self.pool(maps)
        logits: Tensor = self.fc2(F.relu(self.fc1(F.relu(pooled).flatten(1))))
        return logits
