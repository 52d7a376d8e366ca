"""DAML's equations 5 to 12 written out in loops, and small batches to hold the method to them."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from methods.written_out import network
from torch import Tensor

from robustdml_ext.losses import ContrastiveLoss, LiftedStructureLoss, NPairLoss, TripletLoss
from robustdml_ext.methods import Context, Embedded, HardNegatives
from robustdml_ext.methods.embedded import SharedHead
from robustdml_ext.models import Embedder
from robustdml_ext.models.generator import Tuples

METRICS = {
    "contrastive": ContrastiveLoss,
    "triplet": TripletLoss,
    "lifted": LiftedStructureLoss,
    "npair": NPairLoss,
}
LABELS = torch.tensor([3, 0, 3, 0, 7, 7, 3])  # three, two and two of a class
MARGIN = 1.2


def made(form: str, **options: Any) -> HardNegatives:
    torch.manual_seed(5)
    numbers = {"margin": 1.8 if form == "contrastive" else MARGIN, "hidden": 5, **options}
    loss = HardNegatives(METRICS[form](), 6, form, **numbers).double()
    with torch.no_grad():
        for parameter in loss.generator.parameters():
            parameter.mul_(2)
    return loss


def embedded(model: Embedder, spread: float = 1.5, rows: int = len(LABELS)) -> tuple[Embedded, Tensor]:
    """A batch whose features are leaves, so that their gradient can be read."""
    features = spread * torch.randn(rows, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    features.requires_grad_()
    embeddings = model.finish(model.head(features))
    return Embedded(embeddings, embeddings, features, SharedHead(model, Context())), features


def model_of(form: str) -> Embedder:
    model = network()
    model.unit_length = form != "npair"
    return model


def one_negative(loss: HardNegatives, features: Tensor, negative: int, anchor: int, positive: int) -> Tensor:
    """Equation 5: three fully connected layers on the concatenated features."""
    generator = loss.generator
    joined = torch.cat([features[negative], features[anchor], features[positive]])
    return generator.third(generator.second(generator.first(joined).relu()).relu())


def squared(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().sum()


def entries(tuples: Tuples) -> list[tuple[int, int, int, int, int]]:
    """t, m, and the rows of x⁻, x and x⁺."""
    count, width = tuples.negatives.shape
    return [
        (t, m, int(tuples.negatives[t, m]), int(tuples.anchor[t]), int(tuples.positive[t]))
        for t, m in itertools.product(range(count), range(width))
        if tuples.valid is None or tuples.valid[t, m]
    ]


def written_out(
    loss: HardNegatives, model: Embedder, batch: Embedded, tuples: Tuples, *, as_data: bool = False,
    labels: Tensor = LABELS,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """J_gen and J_m, term by term; both depend on everything, but for synthetic negatives taken as data."""
    features, f = batch.features, batch.embeddings
    assert features is not None
    generated: dict[tuple[int, int], Tensor] = {}
    terms = []
    for t, m, negative, anchor, positive in entries(tuples):
        synthetic = one_negative(loss, features, negative, anchor, positive)
        synthetic = synthetic.detach() if as_data else synthetic
        generated[t, m] = model.finish(model.head(synthetic)[None])[0]
        hinge = squared(generated[t, m], f[anchor]) - squared(f[positive], f[anchor]) - loss.margin
        hard, regularize = squared(synthetic, features[anchor]), squared(synthetic, features[negative])
        terms.append(hard + loss.regularization * regularize + loss.adversary * hinge.relu())
    return torch.stack(terms).mean(), metric_of(loss, f, tuples, generated, labels)


def metric_of(
    loss: HardNegatives, f: Tensor, tuples: Tuples, generated: dict[tuple[int, int], Tensor], labels: Tensor = LABELS
) -> Tensor:
    anchors, positives = tuples.anchor.tolist(), tuples.positive.tolist()
    if loss.form == "contrastive":
        pull = [squared(f[i], f[j]) for i, j in itertools.permutations(range(len(f)), 2) if labels[i] == labels[j]]
        push = [(loss.margin - squared(x, f[anchors[t]])).relu() for (t, _), x in generated.items()]
        return torch.stack(pull).mean() + sum(push) / max(sum(1 for term in push if term > 0), 1)
    if loss.form == "triplet":
        hinges = [
            (squared(f[positives[t]], f[anchors[t]]) - squared(x, f[anchors[t]]) + loss.margin).relu()
            for (t, _), x in generated.items()
        ]
        return sum(hinges) / max(sum(1 for term in hinges if term > 0), 1)
    terms = []
    for t, (anchor, positive) in enumerate(zip(anchors, positives, strict=True)):
        own = [x for (row, _), x in generated.items() if row == t]
        if loss.form == "npair":
            exponents = [(f[anchor] @ x - f[anchor] @ f[positive]).exp() for x in own]
            terms.append((1 + sum(exponents, f.new_zeros(()))).log())
            continue
        (other,) = (s for s in range(len(anchors)) if (anchors[s], positives[s]) == (positive, anchor))
        theirs = [x for (row, _), x in generated.items() if row == other]
        near = [(loss.margin - squared(x, f[anchor]).sqrt()).exp() for x in own]
        near += [(loss.margin - squared(x, f[positive]).sqrt()).exp() for x in theirs]
        terms.append((sum(near).log() + squared(f[anchor], f[positive]).sqrt()).relu().square() / 2)
    return torch.stack(terms).mean()


def players(loss: HardNegatives, model: Embedder, features: Tensor) -> dict[str, Tensor]:
    """What the gradients are of: θ_g, the head, and the features, which lead to the backbone."""
    named = {f"generator.{name}": parameter for name, parameter in loss.generator.named_parameters()}
    return {**named, "weight": model.head.weight, "bias": model.head.bias, "features": features}


def gradients(of: Tensor, at: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(
        zip(at, torch.autograd.grad(of, list(at.values()), retain_graph=True, materialize_grads=True), strict=True)
    )
