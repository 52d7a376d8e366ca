"""Scores that pairs are judged by: the learned similarity S, the cosine, and their sums."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from robustdml_ext.evaluation.inputs import rounded_cosines, unit
from robustdml_ext.models.similarity import SimilarityNetwork

# Rows and columns of scores made at one time: 16 MB of float32. Square, so that the network's first layer, which each
# tile takes anew on its rows and its columns, costs little beside the pairs.
TILE = 2048
# Components of concatenated pairs made at one time: 32 MB of float32.
GATHERED = 2**23
# Pairs of a callable that knows only all pairs: this many squared are scored for this many kept.
DIAGONAL = 64


class Scorer(Protocol):
    """scorer(queries [N, D], items [M, D]) → scores [N, M]: larger where more alike; need not be symmetric."""

    def __call__(self, queries: Tensor, items: Tensor, /) -> Tensor:
        """Scores of all pairs of a query and an item."""
        ...


class PairScorer(Scorer, Protocol):
    """A scorer that also scores given pairs, without the other combinations of their two sides."""

    def of_pairs(self, queries: Tensor, items: Tensor) -> Tensor:
        """Scores `[P]` of queries `[P, D]` each with its own item, of items `[P, D]`."""
        ...


Sum: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def _paper_sum(learned: Tensor, cosine: Tensor) -> Tensor:
    return learned + cosine


def _published_sum(learned: Tensor, cosine: Tensor) -> Tensor:
    return learned.sigmoid() + (1 + cosine) / 2


class _Cosine:
    def __call__(self, queries: Tensor, items: Tensor, /) -> Tensor:
        return _tiled(_cosines, queries, items, None)

    def of_pairs(self, queries: Tensor, items: Tensor) -> Tensor:
        x, y = unit(queries.double()), unit(items.to(queries.device).double())
        return rounded_cosines((x * y).sum(1))


class _Learned:
    """S of a network, or what `total` makes of S and the cosine."""

    def __init__(self, network: nn.Module, total: Sum | None = None) -> None:
        if not isinstance(network, nn.Module):
            raise TypeError(f"network must be a torch module, got {type(network).__name__}")
        self.network = network
        self.total = total

    def __call__(self, queries: Tensor, items: Tensor, /) -> Tensor:
        def score(x: Tensor, y: Tensor) -> Tensor:
            learned: Tensor = self.network(x, y)
            return learned if self.total is None else self.total(learned, _cosines(x, y))

        with judging(self.network):
            return _tiled(score, queries, items, _device_of(self.network))

    def of_pairs(self, queries: Tensor, items: Tensor) -> Tensor:
        home = queries.device
        device = _device_of(self.network) or home
        scores = [queries.new_empty(0)]
        with judging(self.network):
            at_once = max(1, GATHERED // (2 * queries.shape[1])) if self._takes_pairs() else DIAGONAL
            for x, y in zip(queries.split(at_once), items.split(at_once), strict=True):
                x, y = x.to(device), y.to(device)
                learned = self._pairs(x, y)
                total = learned if self.total is None else self.total(learned, _COSINE.of_pairs(x, y))
                scores.append(total.to(home))
        return torch.cat(scores[1:] or scores)

    def _takes_pairs(self) -> bool:
        return isinstance(self.network, SimilarityNetwork)

    def _pairs(self, x: Tensor, y: Tensor) -> Tensor:
        if not self._takes_pairs():
            return _diagonal(self.network, x, y)
        weight = next(self.network.parameters())
        with torch.autocast(x.device.type, enabled=False):
            pairs = torch.cat([y, x], 1).to(weight.dtype)
            learned: Tensor = nn.Sequential.forward(self.network, pairs)  # type: ignore[arg-type]
        return learned[:, 0].to(torch.promote_types(learned.dtype, torch.float32))


_COSINE = _Cosine()


def similarity_scorer(network: nn.Module) -> PairScorer:
    """S(query, item) of a `models.SimilarityNetwork`: equations 4 to 6 of the prototypes paper, section 3.2.

    The query is the network's `embeddings`, the item its `prototypes`; S is not symmetric. `network` may be any module
    `network(embeddings [N, D], prototypes [M, D]) → [N, M]`; only for a `SimilarityNetwork` are given pairs scored
    without the other combinations of their sides. It runs in eval mode without gradients, and every module's mode is
    put back afterwards. Queries and items are brought to the network's device in parts, scores `[N, M]` to that of the
    queries; beside these no more than 2048 x 2048 scores, and what the network needs for as many, are held.

    Raises: TypeError where the network is no module; the scorer raises what the network does, and TypeError or
    ValueError where it gives no floating-point scores `[N, M]`.
    """
    return _Learned(network)


def cosine_scorer() -> PairScorer:
    """The cosine of query and item, in float64; 0 with a zero vector. Rounded to 2^-46, so that equal rows tie.

    Memory and devices as in `similarity_scorer`; scores are made on the device of the queries.
    """
    return _COSINE


def sum_scorer(network: nn.Module) -> PairScorer:
    """S + cosine, "simply summing both similarities" as the prototypes paper's section 4.2 says; float64.

    S is unbounded, the cosine at most 1 in size: how much each counts depends on how S was trained. Memory, devices
    and errors as in `similarity_scorer`.
    """
    return _Learned(network, _paper_sum)


def published_sum_scorer(network: nn.Module) -> PairScorer:
    """σ(S) + (1 + cosine) / 2, which is how the prototypes paper's published code sums them: both in 0 .. 1; float64.

    Memory, devices and errors as in `similarity_scorer`.
    """
    return _Learned(network, _published_sum)


def _cosine_of_any(network: nn.Module) -> PairScorer:
    return cosine_scorer()


# By name, each from the similarity network, which the cosine has no use for.
SCORERS: dict[str, Callable[[nn.Module], PairScorer]] = {
    "similarity": similarity_scorer,
    "cosine": _cosine_of_any,
    "sum": sum_scorer,
    "published-sum": published_sum_scorer,
}


def as_scorer(scorer: Scorer | nn.Module, name: str = "scorer") -> Scorer:
    """The scorer itself, or that of a network. Raises: TypeError for what cannot be called."""
    if isinstance(scorer, nn.Module):
        return similarity_scorer(scorer)
    if not callable(scorer):
        raise TypeError(f"{name} must be a callable (queries, items) -> scores, got {type(scorer).__name__}")
    return scorer


def all_scores(scorer: Scorer, queries: Tensor, items: Tensor) -> Tensor:
    """What a scorer gives, checked: finite scores `[N, M]`, without gradients.

    Raises: TypeError where it gives no floating-point tensor; ValueError for another shape, or scores that are NaN or
    infinite.
    """
    with torch.no_grad():
        scores = scorer(queries, items)
    _check_scores(scores, [len(queries), len(items)])
    return scores.to(queries.device)


def scores_of_pairs(scorer: Scorer, queries: Tensor, items: Tensor) -> Tensor:
    """Scores `[P]` of queries `[P, D]` each with its own item, checked as in `all_scores`.

    A callable without `of_pairs` is asked for all pairs of 64 at a time.
    """
    with torch.no_grad():
        of_pairs: Callable[[Tensor, Tensor], Tensor] | None = getattr(scorer, "of_pairs", None)
        if of_pairs is not None:
            scores = of_pairs(queries, items)
        else:
            parts = zip(queries.split(DIAGONAL), items.split(DIAGONAL), strict=True)
            scores = torch.cat([queries.new_empty(0), *(_diagonal(scorer, x, y).to(queries.device) for x, y in parts)])
    _check_scores(scores, [len(queries)])
    return scores.to(queries.device)


@contextmanager
def judging(network: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every module has its mode back."""
    training = [module for module in network.modules() if module.training]
    for module in training:
        module.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def _check_scores(scores: object, shape: list[int]) -> None:
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        got = scores.dtype if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"scorer must give a floating-point tensor, got {got}")
    if list(scores.shape) != shape:
        raise ValueError(f"scorer must give scores of shape {shape}, got {list(scores.shape)}")
    finite = scores.isfinite()
    if not finite.all():
        raise ValueError(f"scorer must give finite scores; {int((~finite).sum())} of {scores.numel()} are not")


def _diagonal(scorer: Scorer | nn.Module, x: Tensor, y: Tensor) -> Tensor:
    scores = scorer(x, y)
    _check_scores(scores, [len(x), len(y)])
    return scores.diagonal()


def _device_of(network: nn.Module) -> torch.device | None:
    return next((parameter.device for parameter in network.parameters()), None)


def _cosines(queries: Tensor, items: Tensor) -> Tensor:
    with torch.autocast(queries.device.type, enabled=False):
        return rounded_cosines(unit(queries.double()) @ unit(items.double()).T)


def _tiled(
    score: Callable[[Tensor, Tensor], Tensor], queries: Tensor, items: Tensor, device: torch.device | None
) -> Tensor:
    """score(queries, items) `[N, M]` on the device of the queries, made on `device` in tiles."""
    home = queries.device
    device = device or home
    if len(queries) <= TILE and len(items) <= TILE:
        return score(queries.to(device), items.to(device)).to(home)
    scores: Tensor | None = None
    for top in range(0, len(queries), TILE):
        rows = queries[top : top + TILE].to(device)
        for start in range(0, len(items), TILE):
            tile = score(rows, items[start : start + TILE].to(device))
            if scores is None:
                scores = torch.empty(len(queries), len(items), dtype=tile.dtype, device=home)
            scores[top : top + TILE, start : start + TILE] = tile
    return queries.new_empty(len(queries), len(items)) if scores is None else scores
