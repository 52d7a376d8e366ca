"""BN-Inception (Ioffe & Szegedy 2015, figure 5), under the names of the published ImageNet weights."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The published weights are for blue, green, red in 0..255, less (104, 117, 128). As RGB of pixels in [0, 1]:
BN_INCEPTION_MEAN = (128 / 255, 117 / 255, 104 / 255)
BN_INCEPTION_STD = (1 / 255, 1 / 255, 1 / 255)
# The file's name holds the beginning of its SHA-256.
BN_INCEPTION_URL = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"


class _Block(NamedTuple):
    """An inception block's channels: (reduce, output) of the 3×3 and of the double 3×3 branch; 0: no such branch."""

    single: int
    triple: tuple[int, int]
    double: tuple[int, int]
    pooled: int


# A block without 1×1 and pool projection halves the resolution, and passes its input on through a max pool.
_BLOCKS = {
    "3a": _Block(64, (64, 64), (64, 96), 32),
    "3b": _Block(64, (64, 96), (64, 96), 64),
    "3c": _Block(0, (128, 160), (64, 96), 0),
    "4a": _Block(224, (64, 96), (96, 128), 128),
    "4b": _Block(192, (96, 128), (96, 128), 128),
    "4c": _Block(160, (128, 160), (128, 160), 128),
    "4d": _Block(96, (128, 192), (160, 192), 128),
    "4e": _Block(0, (128, 192), (192, 256), 0),
    "5a": _Block(352, (192, 320), (160, 224), 128),
    "5b": _Block(352, (192, 320), (192, 224), 128),
}
_LAST = "5b"


class HalvingMaxPool(nn.Module):
    """The 3×3 max pool, unpadded, that halves maps as a 3×3 convolution of stride 2 and padding 1 does.

    On maps of even size it is the published pool (which rounds up). On odd ones that pool gives one row and column less
    than the convolutions beside it; here a last window follows, as far as the map reaches.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` → `[B, C, ⌈H/2⌉, ⌈W/2⌉]`."""
        odd = maps.shape[2] % 2, maps.shape[3] % 2
        if any(odd):
            maps = F.pad(maps, (0, odd[1], 0, odd[0]), value=-torch.inf)
        return F.max_pool2d(maps, 3, stride=2, ceil_mode=True)


class BNInception(nn.Module):
    """BN-Inception as its published ImageNet weights have it: biases in all convolutions, an ordinary first one.

    Its keys are those of the published file (`conv1_7x7_s2.weight`, `inception_3a_1x1_bn.bias`, …, `last_linear.bias`),
    and a state dict means the same here and in other implementations of these keys. The input differs: they take
    blue, green, red; this takes red, green, blue and turns the channels around itself. So here
    `(pixels in [0, 1] - BN_INCEPTION_MEAN) / BN_INCEPTION_STD`, RGB, is what `pixels in 0..255 - (104, 117, 128)`, BGR,
    is there.

    Any image size of 7×7 and more fits, by global average pooling. Weights start as He et al. 2015 propose for ReLU
    (normal, by fan-out), and biases at 0.

    Args:
        num_classes: outputs of the classifier `last_linear`.
    """

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._add("conv1_7x7_s2", 3, 64, 7, stride=2)
        self.pool1 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        self._add("conv2_3x3_reduce", 64, 64, 1)
        self._add("conv2_3x3", 64, 192, 3)
        self.pool2 = nn.MaxPool2d(3, stride=2, ceil_mode=True)
        width = 192
        for name, block in _BLOCKS.items():
            width = self._add_block(f"inception_{name}", width, block)
        self.average_pool = nn.AvgPool2d(3, stride=1, padding=1)
        self.max_pool = nn.MaxPool2d(3, stride=1, padding=1)
        self.halving_pool = HalvingMaxPool()
        self.global_pool = nn.AdaptiveAvgPool2d(1)
        self.last_linear = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Normalized RGB images `[B, 3, H, W]` → logits `[B, num_classes]`."""
        maps = self.pool1(self._run("conv1_7x7_s2", images.flip(1)))
        maps = self.pool2(self._run("conv2_3x3", self._run("conv2_3x3_reduce", maps)))
        for name, block in _BLOCKS.items():
            maps = self._run_block(name, block, maps)
        logits: Tensor = self.last_linear(self.global_pool(maps).flatten(1))
        return logits

    def _add(self, name: str, before: int, width: int, size: int, stride: int = 1) -> None:
        convolution = nn.Conv2d(before, width, size, stride=stride, padding=size // 2)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
        assert convolution.bias is not None
        nn.init.zeros_(convolution.bias)
        self.add_module(name, convolution)
        self.add_module(f"{name}_bn", nn.BatchNorm2d(width))

    def _add_block(self, name: str, before: int, block: _Block) -> int:
        """Adds a block's layers; returns how many channels it gives."""
        stride = 1 if block.pooled else 2
        if block.single:
            self._add(f"{name}_1x1", before, block.single, 1)
        self._add(f"{name}_3x3_reduce", before, block.triple[0], 1)
        self._add(f"{name}_3x3", *block.triple, 3, stride)
        self._add(f"{name}_double_3x3_reduce", before, block.double[0], 1)
        self._add(f"{name}_double_3x3_1", *block.double, 3)
        self._add(f"{name}_double_3x3_2", block.double[1], block.double[1], 3, stride)
        if block.pooled:
            self._add(f"{name}_pool_proj", before, block.pooled, 1)
        return block.single + block.triple[1] + block.double[1] + (block.pooled or before)

    def _run(self, name: str, maps: Tensor) -> Tensor:
        return F.relu(getattr(self, f"{name}_bn")(getattr(self, name)(maps)), inplace=True)

    def _run_block(self, name: str, block: _Block, maps: Tensor) -> Tensor:
        own = f"inception_{name}"
        branches = [self._run(f"{own}_1x1", maps)] if block.single else []
        branches.append(self._run(f"{own}_3x3", self._run(f"{own}_3x3_reduce", maps)))
        double = self._run(f"{own}_double_3x3_1", self._run(f"{own}_double_3x3_reduce", maps))
        branches.append(self._run(f"{own}_double_3x3_2", double))
        if not block.pooled:
            branches.append(self.halving_pool(maps))
        else:
            pooled = self.max_pool(maps) if name == _LAST else self.average_pool(maps)
            branches.append(self._run(f"{own}_pool_proj", pooled))
        return torch.cat(branches, 1)
