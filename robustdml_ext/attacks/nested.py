"""A model with one of its modules exchanged, while the model itself stays as it is."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# How a route leaves the module that it stands in for: on through what follows, straight out, or not at all.
_WAYS = ("through", "out", "around")


class Within(nn.Module):
    """A model whose module `target` is replaced, wherever it occurs, by `route`: images → embeddings `[B, D]`.

    The modules around `target` are shallow copies that share their parameters, buffers and other children with the
    model's own; all else is the very same. Where what follows `target` does not take what `route` gives (another
    number of dimensions, say), the embeddings are `route`'s own; where these are no `[B, D]` either, as of a module
    deep within a network, those of the unchanged model. The first pass decides which.

    Args:
        model: images → embeddings; it is not modified.
        target: a module inside it.
        route: what is called in its place.
    """

    def __init__(self, model: nn.Module, target: nn.Module, route: nn.Module) -> None:
        super().__init__()
        stand_in = _StandIn(target, route)
        # In a tuple, which does not make it a child twice.
        self._stand_in = (stand_in,)
        self._settled = False
        self.model = _exchanged(model, target, stand_in, {})

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings `[B, D]` of images `[B, C, H, W]`; errors are the model's own."""
        if not isinstance(images, Tensor):
            # A tracer's stand-in would settle on a way without meeting any shape.
            raise TypeError(f"images: expected a tensor, got {type(images).__name__}")
        if self._settled:
            return self._embed(images)
        failure: Exception | None = None
        for way in _WAYS:
            self._stand_in[0].way = way
            try:
                embeddings = self._embed(images)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # anybody's modules say in any way that something does not fit
                failure = failure or error
                continue
            if isinstance(embeddings, Tensor) and embeddings.dim() == 2 and len(embeddings) == len(images):
                self._settled = True
                return embeddings
        raise failure or TypeError(f"model: {type(self.model).__name__} gives no embeddings [B, D]")

    def _embed(self, images: Tensor) -> Tensor:
        try:
            embeddings: Tensor = self.model(images)
        except _Out as out:
            embeddings = out.embeddings
        return embeddings


class _Out(Exception):
    """Carries embeddings out of a model's forward."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__("a route ends here")
        self.embeddings = embeddings


class _StandIn(nn.Module):
    def __init__(self, original: nn.Module, route: nn.Module) -> None:
        super().__init__()
        self.original = original
        self.route = route
        self.way = _WAYS[0]

    def forward(self, *inputs: Any, **options: Any) -> Any:
        if self.way == "around":
            return self.original(*inputs, **options)
        found = self.route(*inputs, **options)
        if self.way == "out":
            raise _Out(found)
        return found


def _exchanged(module: nn.Module, target: nn.Module, other: nn.Module, seen: dict[int, nn.Module]) -> nn.Module:
    """The module, or a shallow copy of it where `target` is inside, with `other` in its place."""
    if module is target:
        return other
    if id(module) not in seen:
        seen[id(module)] = module
        children = {
            name: None if child is None else _exchanged(child, target, other, seen)
            for name, child in module._modules.items()
        }
        if any(child is not module._modules[name] for name, child in children.items()):
            # Not copy.copy, which some modules answer with a deep one.
            copied = type(module).__new__(type(module))
            copied.__dict__ = dict(module.__dict__)
            copied.__dict__["_modules"] = children
            seen[id(module)] = copied
    return seen[id(module)]
