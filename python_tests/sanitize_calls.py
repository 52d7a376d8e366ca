"""Random calls of every public operator, for the sanitizers: a function an operator, a source of randomness a call."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from strategies import in_layout
from torch import Tensor

from robustdml_ext import ops

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = (0, 1, 2, 3, 5, 7, 8, 11, 12, 13, 15, 16, 17, 24, 31, 33, 48, 63, 65, 97, 130)
KINDS = {
    "contrastive": [0.1, 0.9, 2.0],
    "binomial": [2.0, 0.5, 25.0],
    "npair": [],
    "lifted": [1.0, 0.0],
    "triplet_all": [0.2],
    "triplet_semihard": [0.2],
    "triplet_hardest": [0.2],
    "multi_similarity": [2.0, 40.0, 0.5, 0.1],
}


@dataclass
class Source:
    """Randomness of one call; `tame` as long as nothing was drawn that may rightly give a NaN."""

    seed: int
    tame: bool = True
    random: random.Random = field(init=False)
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.generator = torch.Generator().manual_seed(self.seed)

    def size(self, least: int = 0) -> int:
        return max(self.random.choice(SIZES), least)

    def batch(self, width: int) -> int:
        """Rows of a matrix; seldom so many that several threads take part."""
        return self.random.randrange(300, 900) if width < 20 and self.random.random() < 0.03 else self.size()

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def dtype(self) -> torch.dtype:
        return self.random.choice(DTYPES)

    def values(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Numbers of ordinary or extreme size, equal ones, zeros, NaN and infinities, at any strides and alignment."""
        tensor = torch.randn(shape, dtype=torch.float64, generator=self.generator)
        kind = self.random.random()
        if kind < 0.1:
            tensor = torch.full(shape, self.random.choice([0.0, 1.0, -3.5]), dtype=torch.float64)
        elif kind < 0.2:
            tensor *= self.random.choice([1e-45, 1e-20, 1e-10, 1e10, 1e20, 1e38, 1e300])
            self.tame = False
        elif kind < 0.3 and tensor.numel():
            tensor.view(-1)[self.random.randrange(tensor.numel())] = self.random.choice([math.nan, math.inf, -math.inf])
            self.tame = False
        elif kind < 0.4 and shape and shape[0] > 1:
            tensor[self.random.randrange(shape[0])] = tensor[0].clone()
        tensor = tensor.to(dtype)
        layout = self.random.choice(
            ["contiguous"] * 3 + ["sliced", "transposed", "expanded", "channels_last", "shifted"]
        )
        if layout == "shifted":
            # Off every alignment but the element's own.
            buffer = torch.empty(tensor.numel() + 1, dtype=dtype)
            buffer[1:] = tensor.reshape(-1)
            return buffer[1:].view(shape)
        return in_layout(tensor, layout)

    def labels(self, rows: int) -> Tensor:
        classes = self.random.choice([1, 2, 5, max(rows // 2, 1), max(rows, 1)])
        labels = torch.randint(classes, (rows,), generator=self.generator)
        if self.flag():
            labels = labels.sort().values
        stretch = self.random.choice([1, 1, -7, 2**40, 2**61])
        return labels * stretch + self.random.choice([0, -1, 2**50, -(2**63) if stretch > 0 else 2**63 - 1])


def _gradient(source: Source, output: Tensor, *inputs: Tensor) -> list[Tensor]:
    found = torch.autograd.grad(output, inputs, torch.ones_like(output), allow_unused=True)
    return [output.detach(), *(g for g in found if g is not None)]


def pgd_step(s: Source) -> list[Tensor]:
    shape = tuple(s.random.choice([s.size(), s.random.randrange(4)]) for _ in range(s.random.randrange(1, 4)))
    shape = (*shape, 3, 3) if len(shape) == 2 else shape
    dtype = s.dtype()
    x, gradient, clean = (s.values(shape, dtype) for _ in range(3))
    options: dict[str, object] = {"norm": s.random.choice(["linf", "l2"]), "maximize": s.flag()}
    for name in ("epsilon", "step_size"):
        options[name] = torch.rand(shape[0], generator=s.generator) if s.flag() else s.random.random()
    if s.flag():
        return [ops.pgd_step(x, gradient, clean, **options)]  # type: ignore[arg-type]
    return [ops.pgd_step_(x if not x.numel() or 0 not in x.stride() else x.clone(), gradient, clean, **options)]  # type: ignore[arg-type]


def target_distance(s: Source) -> list[Tensor]:
    rows, width, count, dtype = s.size(), s.size(), s.size(1), s.dtype()
    x, bank = s.values((rows, width), dtype).requires_grad_(), s.values((count, width), dtype).requires_grad_()
    targets = torch.randint(count, (rows, s.random.randrange(1, 12)), generator=s.generator)
    value = ops.target_distance(x, bank, targets, p=s.random.choice([1, 2, math.inf]), squared=s.flag())
    return _gradient(s, value, x, *([bank] if s.flag() else []))


def distribution_norm(s: Source) -> list[Tensor]:
    count, dtype = s.random.randrange(1, 5), s.dtype()
    segments = [s.random.choice([0, 1, 2, 3, 8, 17]) for _ in range(count)]
    channels = s.random.choice([1, 2, 3, 8, 17, 33])
    spatial = s.random.choice([(), (), (s.size(),), (s.random.randrange(1, 9), s.random.choice([1, 3, 8, 15]))])
    shape = (sum(segments), channels, *spatial)
    x, residual = s.values(shape, dtype).requires_grad_(), s.values(shape, dtype).requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    weight, bias, mean = (torch.randn(count, channels, dtype=wide, generator=s.generator) for _ in range(3))
    running, training = (mean, torch.ones_like(mean)), s.flag()
    inputs = [x, weight.requires_grad_(), bias.requires_grad_()] + ([residual] if s.flag() else [])
    output = ops.distribution_norm(
        x, weight, bias, *(running if not training or s.flag() else (None, None)), segments, training=training,
        residual=residual if len(inputs) == 4 else None, relu=s.flag(),
    )  # fmt: skip
    # Where all values of a channel are equal or nearly so, the result is of no size in particular.
    s.tame = s.tame and not training and dtype not in (torch.float16,)
    return _gradient(s, output, *inputs)


def pair_loss(s: Source) -> list[Tensor]:
    width, dtype = s.size(), s.dtype()
    rows = s.batch(width)
    kind = s.random.choice(list(KINDS))
    x, labels = s.values((rows, width), dtype).requires_grad_(), s.labels(rows)
    options: dict[str, object] = {"normalize": s.flag(), "reduction": s.random.choice(["mean", "sum"])}
    if kind == "contrastive" or kind.startswith("triplet"):
        options |= {"squared": s.flag(), "reduction": s.random.choice(["mean", "sum", "nonzero"])}
    inputs = [x]
    if s.flag():
        more = s.size(rows) if s.flag() else s.size()
        reference = s.values((more, width), dtype)
        inputs += [reference.requires_grad_()] if s.flag() else []
        chosen = labels[torch.randint(rows, (more,), generator=s.generator)] if rows else s.labels(more)
        options |= {"reference": reference, "reference_labels": chosen}
        if more >= rows and s.flag():
            offset = s.random.randrange(more - rows + 1)
            chosen[offset : offset + rows] = labels  # an anchor's own row has its label
            options["self_offset"] = offset
    s.tame = s.tame and dtype not in (torch.float16,)
    loss = ops.pair_loss(x, labels, kind, parameters=KINDS[kind], **options)  # type: ignore[arg-type]
    return _gradient(s, loss, *inputs)


def proxy_loss(s: Source) -> list[Tensor]:
    rows, classes, width, dtype = s.size(1), s.size(1), s.size(), s.dtype()
    x, proxies = s.values((rows, width), dtype).requires_grad_(), s.values((classes, width), dtype).requires_grad_()
    labels = torch.randint(classes, (rows,), generator=s.generator)
    kind = s.random.choice(["arcface", "normalized_softmax", "proxy_anchor"])
    loss = ops.proxy_loss(x, proxies, labels, kind=kind, scale=s.random.choice([1.0, 32.0, 1000.0]), margin=0.3)
    s.tame = s.tame and dtype not in (torch.float16,)
    return _gradient(s, loss, *s.random.choice([(x, proxies), (x,), (proxies,)]))


def energy_confusion(s: Source) -> list[Tensor]:
    width, dtype = s.size(), s.dtype()
    rows = s.batch(width)
    x, labels = s.values((rows, width), dtype).requires_grad_(), s.labels(rows)
    s.tame = s.tame and dtype != torch.float16
    if s.random.random() < 0.2:
        matrix = s.random.choice([ops.energy_distance, ops.maximum_mean_discrepancy, ops.pairwise_energy_confusion])
        return _gradient(s, matrix(x, labels), x)
    pairs = None
    if rows and s.flag():
        pairs = torch.randint(len(labels.unique()), (s.size(), 2), generator=s.generator)
    reduction = s.random.choice(["sum", "mean"])
    loss = ops.energy_confusion(x, labels, pairs=pairs, logarithmic=s.flag(), reduction=reduction)
    return _gradient(s, loss, x)


def neighbors(s: Source) -> list[Tensor]:
    width, dtype, distance = s.size(), s.dtype(), s.random.choice(["cosine", "euclidean"])
    rows, items = s.batch(width), s.size()
    queries, gallery = s.values((rows, width), dtype), s.values((items, width), dtype) if s.flag() else None
    # A row that is not finite has no neighbors, and infinities fill the places.
    s.tame = False
    call = s.random.random()
    if call < 0.5:
        k = s.random.choice([1, 2, 5, 10, 33, 100, 1024])
        return list(ops.neighbors(queries, gallery, k, distance, exclude_self=gallery is not None and s.flag()))
    if call < 0.8:
        labels = None if gallery is None else s.labels(items)
        return [ops.items_ahead(queries, s.labels(rows), gallery, labels, distance)]
    return list(ops.nearest_centroid(queries, s.values((max(items, 1), width), dtype)))


def similarity(s: Source) -> list[Tensor]:
    rows, classes, hidden, dtype = s.size(), s.size(), s.size(), s.dtype()
    x, prototypes = (
        s.values((rows, hidden), dtype).requires_grad_(),
        s.values((classes, hidden), dtype).requires_grad_(),
    )
    weight, bias = (torch.randn(n, generator=s.generator).requires_grad_() for n in (hidden, 1))
    dropout, slope = s.random.choice([0.0, 0.0, 0.25, 0.1, 0.9]), s.random.choice([0.0, 0.1, 1.0])
    scores = ops.similarity(x, prototypes, weight, bias, negative_slope=slope, dropout=dropout)
    s.tame = s.tame and dtype != torch.float16
    return _gradient(s, scores, x, prototypes, weight, bias)


CALLS: dict[str, Callable[[Source], list[Tensor]]] = {
    call.__name__: call
    for call in (
        pgd_step, target_distance, distribution_norm, pair_loss, proxy_loss, energy_confusion, neighbors, similarity,
    )
}  # fmt: skip
