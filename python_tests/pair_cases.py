"""Batches for the tests of `pair_loss`: every kind of loss, labels and points of every sort, with decisions that no
rounding turns over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from hypothesis import assume
from hypothesis import strategies as st
from strategies import dtypes, seeds, values
from torch import Tensor

from robustdml_ext.ops._pair_loss_reference import masks, of_distances, of_similarities
from robustdml_ext.ops.pair_loss import pair_loss

SIMILARITIES = ("binomial", "npair", "multi_similarity")
HINGES = ("contrastive", "triplet_all", "triplet_semihard", "triplet_hardest")
KINDS = (*SIMILARITIES, "lifted", *HINGES)

# The published numbers; for unit vectors.
PUBLISHED: dict[str, tuple[float, ...]] = {
    "contrastive": (0, 1, 1),
    "binomial": (2, 0.5, 25),
    "npair": (),
    "lifted": (1, 0),
    "triplet_all": (0.1,),
    "triplet_semihard": (0.1,),
    "triplet_hardest": (0.1,),
    "multi_similarity": (2, 40, 0.5, 0.1),
}

# Off the vector widths, and around the tiles that kernels cut the pairs into.
batch_sizes = st.sampled_from([0, 1, 2, 5, 31, 95, 96, 97, 130, 193])
dimensions = st.sampled_from([1, 3, 31, 32, 33, 65, 128])
label_styles = st.sampled_from(["few", "one", "distinct", "pairs", "mixed", "huge"])


def make_labels(style: str, size: int, seed: int) -> Tensor:
    """Labels `[size]`: a few classes, one, all distinct, pairs, half of them alone in their class, or huge values."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(size, generator=generator)
    few = torch.randint(4, (size,), generator=generator)
    if style == "one":
        return torch.full((size,), -5)
    if style == "distinct":
        return order
    if style == "pairs":
        return order // 2
    if style == "mixed":
        return torch.where(order % 2 == 0, few, 100 + order)
    if style == "huge":
        return torch.tensor([-(2**63), 2**63 - 1, -1, 2**40])[few]
    return few


@dataclass(frozen=True)
class Case:
    """The arguments of one call of `pair_loss`."""

    kind: str
    parameters: tuple[float, ...]
    embeddings: Tensor
    labels: Tensor
    reference: Tensor | None = None
    reference_labels: Tensor | None = None
    self_offset: int | None = None
    normalize: bool = False
    squared: bool = False
    reduction: str = "mean"

    def loss(self, embeddings: Tensor | None = None, reference: Tensor | None = None) -> Tensor:
        """The operator's value, of other points where given."""
        return pair_loss(
            self.embeddings if embeddings is None else embeddings,
            self.labels,
            self.kind,
            parameters=self.parameters,
            reference=self.reference if reference is None else reference,
            reference_labels=self.reference_labels,
            self_offset=self.self_offset,
            normalize=self.normalize,
            squared=self.squared,
            reduction=self.reduction,
        )

    def raw(self) -> tuple[object, ...]:
        """The arguments as the registered operator takes them."""
        return (
            self.embeddings,
            self.labels,
            self.reference,
            self.reference_labels,
            -1 if self.self_offset is None else self.self_offset,
            self.kind,
            list(self.parameters),
            self.normalize,
            self.squared,
            self.reduction,
        )

    def to(self, target: str | torch.dtype) -> Case:
        """The same case on another device, or in another dtype."""
        moved = {name: getattr(self, name) for name in ("embeddings", "reference")}
        if isinstance(target, str):
            moved |= {name: getattr(self, name) for name in ("labels", "reference_labels")}
        return replace(self, **{name: tensor.to(target) for name, tensor in moved.items() if tensor is not None})

    def disturbed(self, seed: int) -> tuple[Case, Callable[[Tensor], Tensor]]:
        """The same loss by other roundings: points moved by less than one of them, dimensions permuted.

        Returns:
            The case, and what brings gradients back into order.
        """
        generator = torch.Generator().manual_seed(seed)
        dims = torch.randperm(self.embeddings.shape[1], generator=generator)

        def moved(points: Tensor) -> Tensor:
            eps = torch.finfo(points.dtype).eps
            return points * (1 + eps * (torch.rand(points.shape, generator=generator, dtype=points.dtype) - 0.5))

        other = replace(self, embeddings=moved(self.embeddings[:, dims]))
        if self.reference is not None:
            other = replace(other, reference=moved(self.reference[:, dims]))
        return other, lambda gradient: gradient[:, dims.argsort()]

    def points(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Anchors and what they are compared with, in float64 and, where asked for, at unit length; both masks."""
        x = self.embeddings.double()
        y = x if self.reference is None else self.reference.double()
        if self.normalize:
            x, y = (torch.nn.functional.normalize(each, dim=1, eps=1e-300) for each in (x, y))
        return x, y, *masks(self.labels, self.reference_labels, -1 if self.self_offset is None else self.self_offset)

    def steepness(self) -> float:
        """What a rounding of a similarity is amplified by, as part of an exponent."""
        x, y, *_ = self.points()
        if self.kind not in SIMILARITIES or not x.numel() or not y.numel():
            return 1.0
        slope = 1.0
        if self.kind != "npair":
            alpha, beta, eta, *_ = self.parameters
            slope = max(alpha, alpha * eta if self.kind == "binomial" else beta)
        return 1 + slope * (x @ y.T).abs().max().item() / 4

    def terms(self) -> tuple[float, float]:
        """What a rounding is relative to in the gradients of embeddings and reference: sums that may cancel to little.

        Each term, times what its own rounding is amplified by: the steepness of an exponent, the cancellation in the
        distance of near points; times a quarter of the root of their number, as roundings add up at random.
        """
        x, y, positive, negative = self.points()
        if not x.numel() or not y.numel():
            return 0.0, 0.0
        s = (x @ y.T).requires_grad_()
        arguments = (positive, negative, self.kind, self.parameters, self.reduction)
        lengths = x.square().sum(1)[:, None] + y.square().sum(1)
        squares = (lengths - 2 * s).clamp(min=1e-12)
        distances = squares if self.squared else squares.sqrt()
        if self.kind in SIMILARITIES:
            loss = of_similarities(s, *arguments)
        else:
            loss = of_distances(distances, *arguments, self.reference is None)
        if not loss.requires_grad:
            return 0.0, 0.0
        weights = torch.autograd.grad(loss, s)[0].abs() * self.steepness()
        of_x, of_y = weights @ y.abs(), weights.T @ x.abs()
        if self.kind not in SIMILARITIES:
            of_x, of_y = of_x + weights.sum(1)[:, None] * x.abs(), of_y + weights.sum(0)[:, None] * y.abs()
            if not self.squared:
                cancelled = weights * lengths / distances.detach()
                of_x, of_y = of_x + cancelled.sum(1)[:, None], of_y + cancelled.sum(0)[:, None]
        if self.normalize:
            of_x = of_x * _inverse(self.embeddings)
            of_y = of_y * _inverse(self.embeddings if self.reference is None else self.reference)
        if self.reference is None:
            of_x = of_y = of_x + of_y
        many = max(1, max(s.shape) ** 0.5 / 4)
        return many * of_x.max().item(), many * of_y.max().item()

    def decisions(self) -> Tensor:
        """How far, in similarity or distance, everything that is decided lies from being decided otherwise: `[K]`."""
        x, y, positive, negative = self.points()
        none = torch.full((1,), torch.inf, dtype=torch.float64)
        if not len(x) or not len(y) or self.kind in ("binomial", "npair", "lifted"):
            return none

        if self.kind == "multi_similarity":
            s, epsilon = x @ y.T, self.parameters[3]
            least = s.masked_fill(~positive, torch.inf).amin(1, keepdim=True)
            most = s.masked_fill(~negative, -torch.inf).amax(1, keepdim=True)
            found = [(s - most - epsilon)[positive], (s - least + epsilon)[negative]]
            return torch.cat([*found, none]).abs()
        v = (x.square().sum(1)[:, None] + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
        v = v if self.squared else v.sqrt()
        if self.kind == "contrastive":
            return torch.cat([(v - self.parameters[0])[positive], (v - self.parameters[1])[negative], none]).abs()
        (margin,) = self.parameters
        if self.kind == "triplet_hardest":
            far = v.masked_fill(~positive, -torch.inf).sort(1, descending=True).values
            near = v.masked_fill(~negative, torch.inf).sort(1).values
            found = [far[:, 0] - near[:, 0] + margin]
            if v.shape[1] > 1:
                found += [far[:, 0] - far[:, 1], near[:, 1] - near[:, 0]]
            distances = torch.cat([*found, none]).nan_to_num(torch.inf).abs()
            return distances[distances > 0]  # ties of zero rows are exact, and go to the smallest index
        found = [none]
        for i in range(len(x)):
            excess = v[i, positive[i]][:, None] - v[i, negative[i]]
            found += [(excess + margin).flatten().abs()]
            found += [excess.flatten().abs()] if self.kind == "triplet_semihard" else []
        return torch.cat(found)


def _inverse(points: Tensor) -> Tensor:
    """1/norm of each row, 0 for rows of zeros: `[B, 1]`."""
    norms = points.norm(dim=1, keepdim=True)
    return torch.where(norms > 0, 1 / norms, 0.0)


def separated(case: Case) -> bool:
    """Whether float32 decides everything as float64 does."""
    x = case.embeddings.double()
    scale = 4.0 if case.normalize or not x.numel() else 4 * x.square().sum(1).max().item()
    if not case.squared and case.kind not in SIMILARITIES:
        scale = scale**0.5
    return bool(case.decisions().min() > 64 * torch.finfo(torch.float32).eps * scale)


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...] = KINDS) -> tuple[Case, torch.dtype]:
    """A case, its points rounded to a drawn dtype (held in float64)."""
    kind, dtype = draw(st.sampled_from(kinds)), draw(dtypes())
    size, dim, seed = draw(batch_sizes), draw(dimensions), draw(seeds())
    style, points = draw(label_styles), draw(st.sampled_from(["normal", "zeros"]))
    compared = draw(st.sampled_from(["batch", "batch", "memory", "gathered"]))
    others = draw(batch_sizes)
    normalize, squared = draw(st.booleans()), draw(st.booleans()) and kind in HINGES
    if kind in ("triplet_all", "triplet_semihard") and size * size * others > 40**3:
        # Of more triplets some always lie at a decision; those are drawn on a lattice, in a test of their own.
        size, others = min(size, 31), min(others, 31)
    reduction = draw(st.sampled_from(["mean", "sum", "nonzero"] if kind in HINGES else ["mean", "sum"]))
    power, spread = draw(st.sampled_from([1, 2])), draw(st.sampled_from([0.5, 1.0, 2.0]))

    total = size + (0 if compared == "batch" else others)
    labels = make_labels(style, total, seed)
    for attempt in range(30):
        x = values((total, dim), torch.float64, "cpu", seed + attempt, spread / dim**0.25).to(dtype).double()
        if points == "zeros":
            x[attempt % 3 :: 4] = 0
        mean = 2.0 if normalize else 2 * spread**2 * dim**0.5  # of the squared distances, about
        mean = mean if squared else mean**0.5
        parameters = {
            **PUBLISHED,
            "contrastive": (0.3 * mean, mean, power),
            "lifted": (mean, 0.1 * mean),
            "triplet_all": (0.2 * mean,),
            "triplet_semihard": (0.2 * mean,),
            "triplet_hardest": (0.2 * mean,),
        }[kind]
        case = Case(kind, parameters, x, labels, None, None, None, normalize, squared, reduction)
        if compared == "memory":
            case = replace(
                case, embeddings=x[:size], labels=labels[:size], reference=x[size:], reference_labels=labels[size:]
            )
        elif compared == "gathered":
            offset = seed % (others + 1)
            own = slice(offset, offset + size)
            case = replace(
                case, embeddings=x[own], labels=labels[own], reference=x, reference_labels=labels, self_offset=offset
            )
        if separated(case):
            return case, dtype
    assume(False)
    raise AssertionError


@st.composite
def lattice_cases(draw: st.DrawFn) -> tuple[Case, torch.dtype]:
    """Hinges over points of ±1: squared distances are multiples of 4, exact in every dtype, with exact ties."""
    kind, dtype = draw(st.sampled_from(HINGES)), draw(dtypes())
    size, dim, seed = draw(batch_sizes), draw(dimensions), draw(seeds())
    x = values((size, dim), torch.float64, "cpu", seed).sign()
    margin = 4 * draw(st.integers(0, 3)) + draw(st.sampled_from([1.0, 2.0, 3.0]))
    parameters = (margin, dim + margin, draw(st.sampled_from([1.0, 2.0]))) if kind == "contrastive" else (margin,)
    reduction = draw(st.sampled_from(["mean", "sum", "nonzero"]))
    labels = make_labels(draw(label_styles), size, seed)
    return Case(kind, parameters, x, labels, squared=True, reduction=reduction), dtype
