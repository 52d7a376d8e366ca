"""The x-vector network: a speaker's embedding from the features of a recording of any length."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

FRAME_WIDTHS = (512, 512, 512, 512, 1500)
SEGMENT_WIDTHS = (512, 512)
_KERNELS = ((5, 1), (3, 2), (3, 3), (1, 1), (1, 1))  # of each frame layer: frames that it looks at, and how far apart
CONTEXT = 1 + sum((size - 1) * dilation for size, dilation in _KERNELS)  # 15 frames


class XVector(nn.Module):
    """The time-delay network of Snyder et al. 2018, table 1, as the encoder of the prototypes' paper (section 4.2).

    Five layers over frames, which see t−2 … t+2, {t−2, t, t+2}, {t−3, t, t+3}, {t} and {t}; statistics pooling: mean
    and standard deviation over all frames; two layers over the whole (segment6, segment7); a linear classifier `fc`.
    Each layer is affine, then ReLU, then batch norm, as in Kaldi's. Frames at the ends that lack their context give
    none: n frames become n − 14.

    Args:
        bins: of the features.
        num_classes: outputs of the classifier `fc`.
        widths: of the five frame layers and the two segment layers.

    Raises:
        ValueError: `bins` or a width is below 1, or there are not seven widths.
    """

    def __init__(
        self, bins: int = 30, num_classes: int = 10, widths: Sequence[int] = (*FRAME_WIDTHS, *SEGMENT_WIDTHS)
    ) -> None:
        if bins < 1:
            raise ValueError(f"bins: expected a number >= 1, got {bins}")
        if len(widths) != len(_KERNELS) + 2 or any(width < 1 for width in widths):
            raise ValueError(f"widths: expected 7 numbers >= 1, of 5 frame and 2 segment layers, got {list(widths)}")
        super().__init__()
        self.bins = bins
        frames: list[nn.Module] = []
        before = bins
        for width, (size, dilation) in zip(widths[: len(_KERNELS)], _KERNELS, strict=True):
            frames += [nn.Conv1d(before, width, size, dilation=dilation), nn.ReLU(), nn.BatchNorm1d(width)]
            before = width
        self.frames = nn.Sequential(*frames)
        segment6, segment7 = widths[len(_KERNELS) :]
        self.segments = nn.Sequential(
            nn.Linear(2 * before, segment6), nn.ReLU(), nn.BatchNorm1d(segment6),
            nn.Linear(segment6, segment7), nn.ReLU(), nn.BatchNorm1d(segment7),
        )  # fmt: skip
        self.fc = nn.Linear(segment7, num_classes)

    def forward(self, features: Tensor) -> Tensor:
        """Features `[B, 1, bins, frames]` or `[B, bins, frames]` → logits `[B, num_classes]`.

        Raises:
            ValueError: another shape, or fewer than 15 frames.
        """
        if features.dim() == 4 and features.shape[1] == 1:
            features = features.squeeze(1)
        if features.dim() != 3 or features.shape[1] != self.bins or features.shape[2] < CONTEXT:
            raise ValueError(
                f"features: expected [B, 1, {self.bins}, frames] of at least {CONTEXT} frames, "
                f"got {list(features.shape)}"
            )
        logits: Tensor = self.fc(self.segments(pool_statistics(self.frames(features))))
        return logits


def pool_statistics(frames: Tensor) -> Tensor:
    """Mean and standard deviation over time, `[B, C, T]` → `[B, 2C]`, float32 under autocast, too.

    The deviation is that of the frames themselves (divided by T); below 10^−5 it is taken for that, as the root has no
    slope at zero.
    """
    with torch.autocast(frames.device.type, enabled=False):
        # Squares of half-precision activations overflow.
        frames = frames.float() if frames.dtype in (torch.float16, torch.bfloat16) else frames
        variance, mean = torch.var_mean(frames, dim=-1, correction=0)
        return torch.cat([mean, variance.clamp(min=1e-10).sqrt()], dim=1)
