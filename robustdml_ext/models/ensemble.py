"""Several embedders that answer as one."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INFERENCES = ("average", "concatenate", "vote")


class Ensemble(nn.Module):
    """N embedders as one, differentiable in each of them.

    Every member's embedding e_i is scaled to unit length first, so that none outweighs the others:
        "average": (Σ e_i) / ‖Σ e_i‖, `[B, D]`;
        "concatenate": (e_1, …, e_N) / √N, `[B, D_1 + … + D_N]`; its cosine is the mean of the members' cosines;
        "vote": the same embeddings, and figures by voting: `voters` says where each member's columns end, and
            `evaluation` then lets members answer one by one and takes what most of them say. That is the inference of
            EAT, which prefers it to the average as no gradient comes through a vote. An attacker who knows better takes
            that of the embeddings side by side, which is the sum of the members' (equation 10).

    Attributes:
        members: the embedders.
        voters: widths D_1, …, D_N of the members' embeddings where inference is "vote": those of the last pass or,
            before the first one, of the members' `embedding_dim` where all have one. Otherwise None.
        own_route: which of the routes that `attacks.routes` takes into an ensemble is this model itself, up to a
            constant factor: `"average"` or `"sum"`; None for a subclass with a forward of its own.

    Args:
        members: images `[B, C, H, W]` → embeddings `[B, D_i]`; any modules.
        inference: `"average"`, `"concatenate"` or `"vote"`.

    Raises:
        ValueError: no member, or an unknown inference.
        TypeError: a member is no module.
    """

    def __init__(self, members: Iterable[nn.Module], inference: str = "average") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise ValueError("members: expected at least one embedder, got none")
        if inference not in INFERENCES:
            raise ValueError(f"inference: expected one of {', '.join(INFERENCES)}; got {inference!r}")
        self.inference = inference
        self._widths: tuple[int, ...] | None = None

    @property
    def voters(self) -> tuple[int, ...] | None:
        if self.inference != "vote":
            return None
        if self._widths is not None:
            return self._widths
        sizes = [getattr(member, "embedding_dim", None) for member in self.members]
        known = [size for size in sizes if isinstance(size, int)]
        return tuple(known) if len(known) == len(sizes) else None

    @property
    def own_route(self) -> str | None:
        if type(self).forward is not Ensemble.forward:
            return None
        return "average" if self.inference == "average" else "sum"

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings of unit length, in float32 at least.

        Raises:
            ValueError: averaged members differ in their number of dimensions.
        """
        embeddings = [member(images) for member in self.members]
        units = [F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1) for x in embeddings]
        self._widths = tuple(unit.shape[1] for unit in units)
        if self.inference != "average":
            together: Tensor = torch.cat(units, 1) / len(units) ** 0.5
            return together
        if len({unit.shape[1] for unit in units}) > 1:
            sizes = [unit.shape[1] for unit in units]
            raise ValueError(f"members: expected one embedding size to average, got {sizes}")
        average: Tensor = F.normalize(torch.stack(units).mean(0), dim=1)
        return average

    def extra_repr(self) -> str:
        return f"inference={self.inference!r}"
