"""What every operator file shares: how its reference and its autograd formula are registered."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from robustdml_ext._load import LIBRARY, NAMESPACE

P = ParamSpec("P")
R = TypeVar("R")


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any] | None = None) -> Any:
    """Defines an operator and registers its reference and its shapes.

    The reference is registered for every device (`CompositeExplicitAutograd`), so where a kernel library is missing
    the dispatcher itself falls back to it.

    Returns:
        The operator's overload, callable without another look-up.
    """
    name = schema.split("(", 1)[0]
    LIBRARY.define(schema)
    LIBRARY.impl(name, reference, "CompositeExplicitAutograd")
    if fake is not None:
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def register_autograd(operator: Any, function: type[torch.autograd.Function]) -> None:
    """Registers `function` as the operator's autograd formula.

    `torch.library.register_autograd` would do, at 50 µs a call in eager mode (measured on one core) where this takes
    20: a norm layer of a small network takes less time than the difference.
    """

    def kernel(*arguments: Any) -> Any:
        if torch.is_grad_enabled():
            return function.apply(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return operator(*arguments)

    LIBRARY.impl(operator._schema.name.split("::")[1], kernel, "Autograd")


def below_autograd(operator: Any, *arguments: Any) -> Any:
    """Calls the operator's kernel from inside its own autograd formula."""
    with torch._C._AutoDispatchBelowAutograd():
        return operator(*arguments)


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The matrix products of `function` in the precision of its tensors, whatever the caller's autocast says."""

    @wraps(function)
    def run(*arguments: P.args, **keywords: P.kwargs) -> R:
        device = next(a.device.type for a in arguments if isinstance(a, Tensor))
        with torch.autocast(device, enabled=False):
            return function(*arguments, **keywords)

    return run
