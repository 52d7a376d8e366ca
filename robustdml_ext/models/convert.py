"""Converts a network's batch norm layers to K distributions, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustdml_ext.models.norm import DistributionNorm, NormContext, check_distribution
from robustdml_ext.models.norm_act import DistributionNormAct, is_norm_act

CONVERTIBLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def convert_norms(
    module: nn.Module, distributions: int, noise_std: float = 0.0, *, generator: torch.Generator | None = None
) -> list[DistributionNorm]:
    """Replaces every batch norm layer in `module`, in place, by a `DistributionNorm` of K distributions.

    All distributions start from the layer's γ, β and running statistics; the auxiliary ones, k ≥ 1, then get
    the optional noise γ^k of MDProp's Algorithm 1 on γ and β. The layers share one `NormContext`. timm's
    layers that are norm, drop and activation in one keep all three (`DistributionNormAct`).

    Args:
        module: the network; itself no batch norm layer.
        distributions: K >= 1.
        noise_std: standard deviation of the noise.
        generator: what the noise is drawn from; None for PyTorch's global one.

    Returns:
        The new layers, in the order of `module.modules()`; none where it has no batch norm.

    Raises:
        TypeError: a layer is a subclass of batch norm that does more than batch norm, or is converted
            already.
        ValueError: `distributions` is below 1, or `noise_std` below 0.
    """
    if noise_std < 0:
        raise ValueError(f"noise_std: expected a number >= 0, got {noise_std}")
    context = NormContext(distributions)

    def convert(name: str, layer: nn.Module) -> nn.Module | None:
        if isinstance(layer, DistributionNorm):
            raise TypeError(f"module: {name or 'it'} is converted already; use to_plain first")
        if not isinstance(layer, _BatchNorm):
            return None
        if is_norm_act(layer):
            return DistributionNormAct.from_plain(layer, context)
        if type(layer) not in CONVERTIBLE:
            raise TypeError(f"module: {name or 'it'} is a {type(layer).__name__}, which cannot be converted")
        return DistributionNorm.from_plain(layer, context)

    norms = [norm for norm in _replace(module, convert) if isinstance(norm, DistributionNorm)]
    if noise_std > 0:
        for norm in norms:
            for values in (norm.weight, norm.bias):
                if values is not None:
                    _add_noise(values, noise_std, generator)
    return norms


def to_plain(module: nn.Module, distribution: int = 0) -> nn.Module:
    """A deep copy of `module` with plain batch norm layers again, those of one distribution.

    Its state dict has the keys and shapes that the network had before `convert_norms`.

    Raises:
        IndexError: there is no such distribution.
    """

    def plain(name: str, layer: nn.Module) -> nn.Module | None:
        return layer.plain(distribution) if isinstance(layer, DistributionNorm) else None

    for layer in module.modules():
        if isinstance(layer, DistributionNorm):
            check_distribution(distribution, layer.context.distributions)
    if isinstance(module, DistributionNorm):
        return module.plain(distribution)
    made = copy.deepcopy(module)
    _replace(made, plain)
    for owner in made.modules():
        # A module's attributes that are no parameters, buffers or modules.
        attributes = vars(owner)
        if isinstance(attributes.get("norm_context"), NormContext):
            attributes["norm_context"] = NormContext(1)
    return made


def _replace(module: nn.Module, replacement: Callable[[str, nn.Module], nn.Module | None]) -> list[nn.Module]:
    """Replaces descendants by what `replacement` gives (None: stays); a layer used twice stays shared."""
    made: dict[nn.Module, nn.Module] = {}
    if replacement("", module) is not None:
        raise TypeError("module: is itself a norm layer and cannot be replaced in place")
    for path, layer in list(module.named_modules(remove_duplicate=False)):
        if not path:
            continue
        if layer not in made:
            new = replacement(path, layer)
            if new is None:
                continue
            made[layer] = new
        parent, _, name = path.rpartition(".")
        setattr(module.get_submodule(parent), name, made[layer])
    return list(made.values())


@torch.no_grad()
def _add_noise(values: Tensor, noise_std: float, generator: torch.Generator | None) -> None:
    device = torch.device("cpu") if generator is None else generator.device
    noise = torch.randn(values[1:].shape, dtype=values.dtype, device=device, generator=generator)
    values[1:].add_(noise.to(values.device), alpha=noise_std)
