"""The attacked model: how it is called, and how it is left as it was found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

NORM_MODES = ("eval", "train")
# By this attribute PyTorch's norm layers, and ours, say whether training changes their running statistics.
_TRACKING = "track_running_stats"


@contextmanager
def under_attack(model: nn.Module, norm_mode: str) -> Iterator[None]:
    """Prepares any model for an attack and restores it afterwards, whatever happens in between.

    Inside, no parameter requires a gradient (so none is computed, and none leaks into `.grad`), gradients are
    enabled whatever the caller has set, and every module is in eval mode, dropout included. With `norm_mode`
    `"train"`, norm layers normalize by the statistics of the batch, without changing their running ones.

    Raises:
        ValueError: an unknown norm mode.
    """
    check_norm_mode(norm_mode)
    flags = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    tracked = [module for module, _ in flags if getattr(module, _TRACKING, False)]
    # Instance norm changes its running statistics whatever that attribute says.
    instance = [module for module in tracked if isinstance(module, _InstanceNorm)] if norm_mode == "train" else []
    buffers = [(buffer, buffer.clone()) for module in instance for buffer in module.buffers(recurse=False)]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        for module, training in flags:
            if training:
                module.training = False
        if norm_mode == "train":
            for module, _ in flags:
                if hasattr(module, _TRACKING):
                    module.training = True
            for module in tracked:
                setattr(module, _TRACKING, False)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        if norm_mode == "train":
            for module in tracked:
                setattr(module, _TRACKING, True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
        for module, training in flags:
            if module.training != training:
                module.training = training
        for parameter in trained:
            parameter.requires_grad_(True)


def embed(model: nn.Module, images: Tensor, segments: Sequence[int] | None, distribution: int) -> Tensor:
    """The victim's embeddings `[B, D]`, under the distributions asked for.

    Raises:
        TypeError: the victim does not know distributions, or gives no embeddings.
    """
    if segments is None and distribution == 0:
        embeddings = model(images)
    elif getattr(model, "distributions", None) is None:
        raise TypeError(f"segments, distribution: {type(model).__name__} has one distribution; an Embedder has several")
    else:
        embeddings = model(images, segments=segments, distribution=distribution)
    if not isinstance(embeddings, Tensor) or embeddings.dim() != 2 or len(embeddings) != len(images):
        got = list(embeddings.shape) if isinstance(embeddings, Tensor) else type(embeddings).__name__
        raise TypeError(f"model: {type(model).__name__} should give embeddings [{len(images)}, D], got {got}")
    return embeddings


@contextmanager
def same_draws(device: torch.device) -> Iterator[None]:
    """What is drawn inside from PyTorch's generators, the CPU's and the device's, is drawn again afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices, device_type="cuda"):
        yield


def check_norm_mode(norm_mode: str) -> None:
    """Raises ValueError for an unknown norm mode."""
    if norm_mode not in NORM_MODES:
        raise ValueError(f"norm_mode: expected 'eval' or 'train', got {norm_mode!r}")
