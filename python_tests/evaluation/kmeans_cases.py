"""Points in groups, as k-means is tested on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def blobs(dtype: type = np.float32) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 50)
    return (random.normal(size=(6, 8))[labels] * 10 + random.normal(size=(300, 8))).astype(dtype), labels


def clustered(seed: int, count: int = 1500, classes: int = 300, width: int = 32, spread: float = 0.15) -> Tensor:
    """Unit vectors around random unit vectors, about five to each."""
    generator = torch.Generator().manual_seed(seed)
    centers = torch.nn.functional.normalize(torch.randn(classes, width, generator=generator))
    labels = torch.randint(classes, (count,), generator=generator)
    noise = torch.randn(count, width, generator=generator)
    return torch.nn.functional.normalize(centers[labels] + spread * noise)
