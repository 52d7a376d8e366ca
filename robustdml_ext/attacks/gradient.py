"""One pass of a gradient attack: values of the objective, their gradient at the images, and whether there is one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robustdml_ext.attacks.objectives import Objective
from robustdml_ext.attacks.victim import embed, under_attack

AnyObjective = Objective | Callable[[Tensor], Tensor]


def values_and_gradient(
    model: nn.Module,
    images: Tensor,
    objective: AnyObjective,
    segments: Sequence[int] | None = None,
    distribution: int = 0,
    *,
    start: bool = False,
) -> tuple[AnyObjective, Tensor, Tensor, Tensor]:
    """The objective in use, its values `[B]`, the gradient of their sum at `images`, and the embeddings, detached.

    For the inside of `under_attack`.

    With `start`, the objective is asked for the one to use (`Objective.at_start`), and a gradient that is zero
    everywhere is looked into (on the CPU; on CUDA the look would wait for the device): a RuntimeWarning says where it
    is the model that lets none through.

    Raises:
        TypeError: the model's embeddings do not depend on the images in a way that could be differentiated.
    """
    images.requires_grad_()
    embeddings = embed(model, images, segments, distribution)
    if not embeddings.requires_grad:
        raise _no_gradient(model)
    if start and isinstance(objective, Objective):
        objective = objective.at_start(embeddings.detach())
    values = objective(embeddings)
    (gradient,) = torch.autograd.grad(values.sum(), images, allow_unused=True)
    if gradient is None:
        raise _no_gradient(model)
    images.requires_grad_(False)
    if start and gradient.is_cpu and not gradient.any() and len(images):
        again = embed(model, images.requires_grad_(), segments, distribution)
        if not _any_gradient(again, images):
            warnings.warn(
                f"model: {type(model).__name__} passes a gradient of zero to all of its images, so a gradient attack "
                "shows nothing; attack it through attacks.routes(model), or with SquareAttack",
                RuntimeWarning,
                stacklevel=3,
            )
        images.requires_grad_(False)
    return objective, values.detach(), gradient, embeddings.detach()


def _no_gradient(model: nn.Module) -> TypeError:
    return TypeError(
        f"model: the embeddings of {type(model).__name__} carry no gradient to the images; attack it through "
        "attacks.routes(model), or with SquareAttack"
    )


def gradient_flows(model: nn.Module, images: Tensor, norm_mode: str = "eval") -> bool:
    """Whether any gradient reaches the images: True where a random direction of the embeddings has one that is not 0.

    False means that attacks by this model's own gradient show nothing of its robustness (rounding, voting,
    compression): attack it through `routes`. The model is left as it was; nothing is drawn from global random state.

    Args:
        model: images `[B, C, H, W]` → embeddings `[B, D]`; any module.
        images: pixels in [0, 1]; a few are enough.
        norm_mode: as `PGD`.

    Raises:
        ValueError: an unknown norm mode.
        TypeError: the model gives no embeddings.
    """
    with under_attack(model, norm_mode):
        leaf = images.detach().clone().requires_grad_()
        return _any_gradient(embed(model, leaf, None, 0), leaf)


def _any_gradient(embeddings: Tensor, images: Tensor) -> bool:
    if not embeddings.requires_grad:
        return False
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(embeddings.shape, generator=generator).to(embeddings)
    (gradient,) = torch.autograd.grad((embeddings * direction).sum(), images, allow_unused=True)
    return gradient is not None and bool(((gradient != 0) & gradient.isfinite()).any())
