"""One step of projected gradient descent (or ascent) on images, fused: move, project to the ball, clamp to pixels."""

from __future__ import annotations

import torch
from torch import Tensor

from robustdml_ext.ops import _check
from robustdml_ext.ops._registration import define

# Below this norm a gradient has no direction that float32 could hold: it takes no step.
SMALLEST_GRADIENT_NORM = 1e-37


def pgd_step_reference(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    epsilon: Tensor | None,
    step_size: Tensor | None,
    uniform_epsilon: float,
    uniform_step_size: float,
    norm: str,
    minimum: float,
    maximum: float,
) -> Tensor:
    """The step in plain PyTorch; the meaning of the operator `robustdml::pgd_step`."""
    compute = torch.promote_types(adversarial.dtype, torch.float32)
    per_sample = (-1,) + (1,) * (adversarial.dim() - 1)
    radius = uniform_epsilon if epsilon is None else epsilon.to(compute).reshape(per_sample)
    step = uniform_step_size if step_size is None else step_size.to(compute).reshape(per_sample)
    x, g, x0 = adversarial.to(compute), gradient.to(compute), clean.to(compute)
    if norm == "linf":
        moved = x + step * g.sign()
        projected = torch.maximum(torch.minimum(moved, x0 + radius), x0 - radius)
    else:
        length = _norm_per_sample(g).reshape(per_sample)
        directed = (length > SMALLEST_GRADIENT_NORM) & length.isfinite()
        direction = torch.where(directed, g / length, 0.0)
        offset = x - x0 + step * direction
        distance = _norm_per_sample(offset).reshape(per_sample)
        shrink = torch.where(distance > radius, radius / distance, 1.0)
        projected = (x0 + offset * shrink).to(compute)
    # In this very layout, whatever the promotions above made of it.
    return torch.empty_like(adversarial).copy_(projected.clamp(minimum, maximum))


def _norm_per_sample(values: Tensor) -> Tensor:
    """l2 norm of every sample, in float64: squares of small gradients vanish in float32."""
    return values.double().reshape(len(values), values[:1].numel()).square().sum(1).sqrt()


def _pgd_step_reference_(adversarial: Tensor, *arguments: object) -> None:
    adversarial.copy_(pgd_step_reference(adversarial, *arguments))  # type: ignore[arg-type]


_ARGUMENTS = (
    "Tensor gradient, Tensor clean, Tensor? epsilon, Tensor? step_size, float uniform_epsilon, "
    "float uniform_step_size, str norm, float minimum, float maximum"
)
_pgd_step = define(
    f"pgd_step(Tensor adversarial, {_ARGUMENTS}) -> Tensor",
    pgd_step_reference,
    lambda adversarial, *arguments: torch.empty_like(adversarial),
)
_pgd_step_ = define(
    f"pgd_step_(Tensor(a!) adversarial, {_ARGUMENTS}) -> ()", _pgd_step_reference_, lambda *arguments: None
)


def _per_sample(name: str, value: float | Tensor, images: Tensor) -> tuple[Tensor | None, float]:
    """Splits a radius or step size into (one a sample, the same for all)."""
    if isinstance(value, Tensor) and value.dim() > 0:
        _check.tensor(name, value)
        _check.shape(name, value, [images.shape[0]], "[B]")
        # On CUDA the look would wait for the device.
        if value.is_cpu and not torch.compiler.is_compiling() and bool((~(value >= 0)).any()):
            raise ValueError(f"{name}: expected numbers >= 0, got {value.tolist()}")
        wide = torch.promote_types(images.dtype, torch.float32)
        return value.detach().to(images.device, wide).contiguous(), 0.0
    number = float(value)
    if not number >= 0:
        raise ValueError(f"{name}: expected a number >= 0, got {number}")
    return None, number


def _arguments(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    epsilon: float | Tensor,
    step_size: float | Tensor,
    norm: str,
    maximize: bool,
    minimum: float,
    maximum: float,
) -> tuple[object, ...]:
    _check.tensor("adversarial", adversarial)
    if adversarial.dim() < 1:
        raise ValueError(f"adversarial: expected a batch [B, ...], got {_check.describe(adversarial)}")
    _check.like("gradient", gradient, "adversarial", adversarial)
    _check.like("clean", clean, "adversarial", adversarial)
    if norm not in ("linf", "l2"):
        raise ValueError(f"norm: expected 'linf' or 'l2', got {norm!r}")
    if not minimum <= maximum:
        raise ValueError(f"minimum, maximum: expected minimum <= maximum, got {minimum} and {maximum}")
    radii, radius = _per_sample("epsilon", epsilon, adversarial)
    steps, step = _per_sample("step_size", step_size, adversarial)
    if not maximize:
        step, steps = -step, None if steps is None else -steps
    return gradient.detach(), clean.detach(), radii, steps, radius, step, norm, float(minimum), float(maximum)


def pgd_step(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    *,
    epsilon: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    maximize: bool = False,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> Tensor:
    """One projected gradient step from `adversarial`, inside the ball around `clean` and the pixel range.

    l∞:  x' = clamp(x ± α·sign(g))      into [x₀ − ε, x₀ + ε] and [minimum, maximum]
    l2:  x' = clamp(x₀ + P(x − x₀ ± α·g/‖g‖₂)),   P shrinks what is longer than ε to length ε
    (Madry et al. 2018; equation 3 of MDProp minimizes.) Each input is read once and the result written once; for l2 the
    sample's second look is at cached data. The step is not differentiated: the result never requires a gradient.

    Args:
        adversarial: current images x, `[B, ...]`, pixels in [minimum, maximum].
        gradient: gradient g of the objective at x, `[B, ...]`. A gradient without a direction
            (all zero; for l2 also vanishing, infinite or NaN) moves nothing.
        clean: the images x₀ that the ball is around, `[B, ...]`.
        epsilon: radius ε of the ball, in pixels; a number, or one a sample `[B]`.
        step_size: step length α, in pixels; a number, or one a sample `[B]`.
        norm: `"linf"` or `"l2"`.
        maximize: step up the gradient instead of down.
        minimum, maximum: pixel range.

    Returns:
        The next images, `[B, ...]`, with the dtype and memory format of `adversarial`.

    Raises:
        TypeError: an argument is no floating-point tensor, or dtypes differ.
        ValueError: shapes or devices differ, the norm is unknown, a radius or step is negative (looked at
            on the CPU), or minimum > maximum.
    """
    rest = _arguments(adversarial, gradient, clean, epsilon, step_size, norm, maximize, minimum, maximum)
    result: Tensor = _pgd_step(adversarial.detach(), *rest)
    return result


def pgd_step_(
    adversarial: Tensor,
    gradient: Tensor,
    clean: Tensor,
    *,
    epsilon: float | Tensor,
    step_size: float | Tensor,
    norm: str = "linf",
    maximize: bool = False,
    minimum: float = 0.0,
    maximum: float = 1.0,
) -> Tensor:
    """`pgd_step` written over `adversarial`, which must not require a gradient. Returns `adversarial`.

    Raises:
        ValueError: `adversarial` requires a gradient, or as `pgd_step`.
        TypeError: as `pgd_step`.
    """
    rest = _arguments(adversarial, gradient, clean, epsilon, step_size, norm, maximize, minimum, maximum)
    if adversarial.requires_grad:
        raise ValueError("adversarial: requires a gradient and cannot be stepped in place; detach it first")
    _pgd_step_(adversarial, *rest)
    return adversarial
