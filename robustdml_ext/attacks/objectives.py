"""What an attacker descends (or climbs): values per sample, computed from embeddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from robustdml_ext import ops


class Objective:
    """Maps embeddings `[B, D]` to values `[B]`, each of its own row alone; an attack makes them small.

    Attributes:
        maximize: the attack makes them large instead.
    """

    maximize: bool = False

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Values `[B]` of embeddings `[B, D]`."""
        raise NotImplementedError

    def at_start(self, embeddings: Tensor) -> Objective:
        """The objective to use, now that the (detached) embeddings where the attack starts are known."""
        return self

    def better_by(self, embeddings: Tensor, values: Tensor) -> Tensor:
        """What decides which of a sample's iterates an attack keeps, `[B]`: small (or large) as the values are.

        The values themselves, unless these stand in for something without a useful gradient. No gradient is taken.

        Args:
            embeddings: `[B, D]`.
            values: those of the embeddings, `[B]`.
        """
        return values


def merit(objective: object, embeddings: Tensor, values: Tensor) -> Tensor:
    """`Objective.better_by` of any objective; of a mere function, its values, the very tensor."""
    if not isinstance(objective, Objective):
        return values
    with torch.no_grad():
        return objective.better_by(embeddings, values)


class TowardsTargets(Objective):
    """Mean distance to T targets each: equation 3 of MDProp; T = 1 is the single-targeted attack (STAX).

    value_i = (1/T) · Σ_t ‖f_i − bank[targets[i, t]]‖ₚ   (squared: ‖·‖ₚ²)

    For squared l2 this is ‖f_i − c_i‖² plus a constant, with c_i the targets' mean: the mean is taken once,
    and every step then costs what one target costs.

    Args:
        bank: embeddings that targets are picked from, `[N, D]`; no gradient flows to it.
        targets: rows of the bank, int64 `[B, T]`.
        p: 1, 2 or `math.inf`.
        squared: square the norm (the paper's attack).

    Raises:
        TypeError, ValueError, IndexError: as `ops.target_distance`.
    """

    def __init__(self, bank: Tensor, targets: Tensor, p: float = 2, squared: bool = True) -> None:
        self.p, self.squared = p, squared
        bank = bank.detach()
        self._bank, self._targets = bank, targets
        self._spread: Tensor | None = None
        if p == 2 and squared and targets.dim() == 2 and targets.shape[1] > 1:
            compute = bank.to(torch.promote_types(bank.dtype, torch.float32))
            # One target after the other: no [B, T, D] tensor.
            centers = compute.index_select(0, targets[:, 0])
            for t in range(1, targets.shape[1]):
                centers = centers + compute.index_select(0, targets[:, t])
            centers = centers / targets.shape[1]
            self._spread = ops.target_distance(centers, compute, targets)
            self._bank = centers
            self._targets = torch.arange(len(centers), device=centers.device)[:, None]

    def __call__(self, embeddings: Tensor) -> Tensor:
        values = ops.target_distance(
            embeddings.to(self._bank.dtype), self._bank, self._targets, p=self.p, squared=self.squared
        )
        return values if self._spread is None else values + self._spread


class AwayFromClean(Objective):
    """Distance from the clean embeddings, to be made large: an attack that needs no targets.

    At the clean image itself the gradient vanishes, so the attack needs a random start.

    Args:
        clean_embeddings: `[B, D]`; no gradient flows to them.
        metric: `"cosine"`, 1 − cos(f_i, c_i), or `"l2"`, ‖f_i − c_i‖².

    Raises:
        ValueError: an unknown metric.
    """

    maximize = True

    def __init__(self, clean_embeddings: Tensor, metric: str = "cosine") -> None:
        if metric not in ("cosine", "l2"):
            raise ValueError(f"metric: expected 'cosine' or 'l2', got {metric!r}")
        self.metric = metric
        self._clean = clean_embeddings.detach()
        self._own = torch.arange(len(self._clean), device=self._clean.device)[:, None]

    def __call__(self, embeddings: Tensor) -> Tensor:
        embeddings = embeddings.to(self._clean.dtype)
        if self.metric == "l2":
            return ops.target_distance(embeddings, self._clean, self._own)
        return 1 - F.cosine_similarity(embeddings, self._clean, dim=1)


class Joined(Objective):
    """Several objectives on consecutive parts of the batch: one joint attack on several distributions.

    Args:
        objectives: one a part; all are minimized or all maximized.
        sizes: rows of the parts.

    Raises:
        ValueError: numbers differ, or the objectives pull in both directions.
    """

    def __init__(self, objectives: Sequence[Objective], sizes: Sequence[int]) -> None:
        if len(objectives) != len(sizes) or not objectives:
            raise ValueError(f"sizes: expected one an objective, {len(objectives)}; got {list(sizes)}")
        if len({objective.maximize for objective in objectives}) > 1:
            raise ValueError("objectives: some are to be minimized, some maximized; attack them separately")
        self.objectives, self.sizes = list(objectives), list(sizes)
        self.maximize = objectives[0].maximize

    def __call__(self, embeddings: Tensor) -> Tensor:
        parts = torch.split(embeddings, self.sizes)
        return torch.cat([objective(part) for objective, part in zip(self.objectives, parts, strict=True)])

    def at_start(self, embeddings: Tensor) -> Objective:
        parts = torch.split(embeddings, self.sizes)
        started = [objective.at_start(part) for objective, part in zip(self.objectives, parts, strict=True)]
        return Joined(started, self.sizes)

    def better_by(self, embeddings: Tensor, values: Tensor) -> Tensor:
        parts = zip(self.objectives, embeddings.split(self.sizes), values.split(self.sizes), strict=True)
        return torch.cat([merit(objective, part, own) for objective, part, own in parts])


class FromStart(Objective):
    """An objective made from the embeddings where the attack starts, which its first pass gives anyway.

    Args:
        build: embeddings `[B, D]` → the objective.
        maximize: what the built objective's is.
    """

    def __init__(self, build: Callable[[Tensor], Objective], maximize: bool = False) -> None:
        self.build = build
        self.maximize = maximize

    def __call__(self, embeddings: Tensor) -> Tensor:
        raise RuntimeError("FromStart: has no value before the attack has started")

    def at_start(self, embeddings: Tensor) -> Objective:
        built = self.build(embeddings)
        if built.maximize != self.maximize:
            raise ValueError(f"maximize: expected {built.maximize}, as the built objective has it")
        return built
