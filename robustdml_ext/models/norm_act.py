"""Batch norm for several distributions where one layer is norm, drop and activation, as in timm's networks."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from robustdml_ext.models.norm import DistributionNorm, NormContext

# Known by name, so that timm need not be installed. Both run the norm, then `drop`, then `act`; timm keeps `act` as an
# identity where a layer has no activation.
_TIMM_LAYERS = ("BatchNormAct2d", "SyncBatchNormAct")


def is_norm_act(layer: nn.Module) -> bool:
    """Whether the layer is one of timm's that hold an activation; not their subclasses, which may do more."""
    kind = type(layer)
    return kind.__module__.partition(".")[0] == "timm" and kind.__name__ in _TIMM_LAYERS


class DistributionNormAct(DistributionNorm):
    """timm's `BatchNormAct2d` for K distributions: norm → drop → activation.

    Statistics, γ and β are a distribution's own, as in `DistributionNorm`; parameters of the activation (PReLU's
    slopes), where it has any, are shared. A ReLU runs inside the norm, and hooks on it then do not.

    Attributes:
        drop, act: modules, under the names that they have in timm's layer.

    Args:
        num_features, context, options: as `DistributionNorm`.
        drop: what runs after the norm; None for nothing.
        act: what runs after that; None for nothing.
    """

    def __init__(
        self,
        num_features: int,
        context: NormContext,
        *,
        drop: nn.Module | None = None,
        act: nn.Module | None = None,
        **options: Any,
    ) -> None:
        super().__init__(num_features, context, **options)
        self.drop = nn.Identity() if drop is None else drop
        self.act = nn.Identity() if act is None else act

    @classmethod
    def from_plain(cls, norm: _BatchNorm, context: NormContext) -> DistributionNormAct:
        """A layer whose K distributions all start from `norm`; its drop and activation are `norm`'s own."""
        made = super().from_plain(norm, context)
        assert isinstance(made, cls)
        # A SyncBatchNormAct has neither before timm's own conversion gives it some.
        made.drop, made.act = getattr(norm, "drop", made.drop), getattr(norm, "act", made.act)
        return made

    @property
    def only_norm(self) -> bool:
        """Whether nothing follows the norm inside of the layer."""
        return isinstance(self.drop, nn.Identity) and isinstance(self.act, nn.Identity)

    def plain(self, distribution: int = 0) -> nn.Module:
        """The plain layer of one distribution, with copies of drop and activation.

        Raises:
            IndexError: there is no such distribution.
        """
        made = super().plain(distribution)
        made.drop, made.act = copy.deepcopy(self.drop), copy.deepcopy(self.act)
        return made.train(self.training)

    def forward(self, input: Tensor, residual: Tensor | None = None, relu: bool = False) -> Tensor:
        """As `DistributionNorm.forward`; then drop and activation.

        Raises:
            ValueError: as there.
        """
        with_relu = isinstance(self.drop, nn.Identity) and type(self.act) is nn.ReLU
        output = super().forward(input, residual, relu or with_relu)
        return output if with_relu else self.act(self.drop(output))  # type: ignore[no-any-return]
