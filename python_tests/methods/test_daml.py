"""DAML's J_gen and J_m, and the gradient of each to each player, against equations 5 to 12 written out in loops."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from methods.written_out import batch, network
from torch import Tensor

from robustdml_ext.losses import ContrastiveLoss, LiftedStructureLoss, NPairLoss, TripletLoss
from robustdml_ext.methods import Context, Embedded, HardNegatives, Standard
from robustdml_ext.methods.embedded import SharedHead
from robustdml_ext.methods.feature_loss import apply_loss
from robustdml_ext.methods.synthetic_losses import FORMS
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


@pytest.mark.parametrize("form", FORMS)
def test_ragged_classes_leave_out_what_is_not_there(form: str) -> None:
    """Four, two and two of a class: the second pair of the first has no other pair beside it."""
    labels, model = torch.tensor([3, 0, 3, 0, 7, 7, 3, 3]), model_of(form)
    loss = made(form, negatives=99)
    data, _ = embedded(model, rows=len(labels))
    loss(data, labels, torch.Generator().manual_seed(4), 0)
    tuples = loss.draw(labels, torch.Generator().manual_seed(4))
    assert tuples.valid is not None and not tuples.valid.all()
    generated, metric = written_out(loss, model, data, tuples, labels=labels)
    torch.testing.assert_close(loss.parts["loss/generator"], generated.detach())
    torch.testing.assert_close(loss.parts["loss/metric"], metric.detach())


@pytest.mark.parametrize("form", FORMS)
def test_full_precision_under_autocast(form: str) -> None:
    model, loss = model_of(form).float(), made(form).float()
    _, features = embedded(model.double())
    model.float()
    single = features.detach().float()
    embeddings = model.finish(model.head(single))
    batch = Embedded(embeddings, embeddings, single.bfloat16().float(), SharedHead(model, Context()))
    values = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            value = apply_loss(loss, batch, LABELS, torch.Generator().manual_seed(1), 0)
        values.append(value)
    assert values[0].dtype == torch.float32 and torch.equal(*values)


def test_n_pairs_are_of_other_images_each_time() -> None:
    labels = torch.arange(4).repeat_interleave(4)
    anchors = {tuple(FORMS["npair"].draw(labels, None, torch.Generator().manual_seed(seed)).anchor.tolist())
               for seed in range(5)}  # fmt: skip
    assert len(anchors) == 5


def test_the_generator_learns_at_its_own_rate() -> None:
    model = network()
    method = Standard(model, HardNegatives(TripletLoss(), model.feature_dim, "triplet", lr_scale=3.0).double())
    method.head_lr_scale = 10.0
    rates = {id(p): group["lr"] for group in method.parameter_groups(0.1, 0.0) for p in group["params"]}
    assert all(rates[id(p)] == pytest.approx(0.3) for p in method.loss.generator.parameters())
    assert all(rates[id(p)] == pytest.approx(1.0) for p in model.head.parameters())


def test_labels_are_checked() -> None:
    data, _ = embedded(model_of("triplet"))
    for labels, error in ((LABELS[:5], ValueError), (LABELS + 0.4, TypeError), (LABELS.int(), TypeError)):
        with pytest.raises(error, match="labels: expected"):
            made("triplet")(data, labels, torch.Generator(), 0)


@pytest.mark.parametrize("count", [None, 2])
@pytest.mark.parametrize("form", FORMS)
def test_each_players_gradient_is_of_its_own_terms(form: str, count: int | None) -> None:
    """θ_g descends J_gen, the network λ·J_m, of synthetic negatives that are data or through the generator.

    Equation 7 to the letter gives both the sum's gradient.
    """
    model, options = model_of(form), {"negatives": count, "regularization": 0.6, "adversary": 3.0, "weight": 0.3}
    for kind in ("players", "through", "literal"):
        loss = made(form, gradients=kind, **options)
        data, features = embedded(model)
        actual = loss(data, LABELS, torch.Generator().manual_seed(4), 0)
        tuples = loss.draw(LABELS, torch.Generator().manual_seed(4))
        assert tuples.negatives.shape[1] == (count or {"contrastive": 1, "triplet": 1, "lifted": 5, "npair": 2}[form])
        generated, metric = written_out(loss, model, data, tuples)
        _, as_data = written_out(loss, model, data, tuples, as_data=True)
        torch.testing.assert_close(actual, generated + loss.weight * metric)
        torch.testing.assert_close(loss.parts["loss/generator"], generated.detach())
        torch.testing.assert_close(loss.parts["loss/metric"], metric.detach())
        assert metric > 0.05 and loss.parts["generator/adversary"] > 0.05
        at = players(loss, model, features)
        found = gradients(actual, at)
        of_generator, of_metric = gradients(generated, at), gradients(loss.weight * metric, at)
        of_data = gradients(loss.weight * as_data, at)
        for name, gradient in found.items():
            wanted = of_generator[name]
            if not name.startswith("generator."):
                wanted = of_data[name] if kind == "players" else of_metric[name]
            if kind == "literal":
                wanted = of_generator[name] + of_metric[name]
            torch.testing.assert_close(gradient, wanted, rtol=1e-7, atol=1e-9, msg=f"{form} {kind} {name}")
            # Each path that is closed would have carried something.
            assert of_generator[name].any() or name == "bias"
            assert of_metric[name].any() or name == "bias"
            assert name != "features" or not torch.allclose(of_metric[name], of_data[name])


@pytest.mark.parametrize("form", FORMS)
def test_the_players_want_the_opposite_of_each_other(form: str) -> None:
    """A small step of the generator on J_adv draws f̃⁻ to the anchor; one of the network on J_m drives it away."""

    def apart() -> Tensor:
        with torch.no_grad():
            data, features = embedded(model)
            negatives = model.finish(model.head(loss.generator(features, tuples)))
            return (negatives - data.embeddings[tuples.anchor][:, None]).square().sum(-1).mean()

    loss, model = made(form, regularization=0.0, adversary=1e4, margin=1.0, negatives=99), model_of(form)
    data, features = embedded(model)
    tuples = FORMS[form].draw(LABELS, None, torch.Generator())
    at = players(loss, model, features)
    found = gradients(loss(data, LABELS, torch.Generator(), 0), at)
    before = apart()
    with torch.no_grad():
        for name, parameter in at.items():
            if name.startswith("generator."):
                parameter -= 1e-7 * found[name]
    after_generator = apart()
    assert after_generator < before
    if form == "npair":
        return  # which knows similarities relative to the positive's, not distances
    with torch.no_grad():
        for name in ("weight", "bias"):
            at[name].sub_(1e-5 * found[name])
    assert apart() > after_generator


@pytest.mark.parametrize("term", ["hard", "regularize", "adversary"])
def test_each_term_of_the_generator_does_its_own(term: str) -> None:
    """With one term alone J_gen is that term, times its λ, and descending it lowers it."""
    numbers = {"regularization": 2.0 if term == "regularize" else 0.0, "adversary": 3.0 if term == "adversary" else 0.0}
    loss, model = made("triplet", **numbers), model_of("triplet")
    data, _ = embedded(model)
    optimizer = torch.optim.SGD(loss.generator.parameters(), lr=1e-3)
    parts = []
    for _ in range(2):
        optimizer.zero_grad()
        assert data.features is not None
        tuples = FORMS["triplet"].draw(LABELS, None, torch.Generator())
        output = loss.generator_loss(data, loss.generator(data.features.detach(), tuples), tuples)
        output.backward(retain_graph=True)
        optimizer.step()
        parts.append(dict(loss.parts))
    weights = {"hard": 1.0, "regularize": numbers["regularization"], "adversary": numbers["adversary"]}
    expected = sum(weights[name] * parts[0][f"generator/{name}"] for name in weights)
    torch.testing.assert_close(parts[0]["loss/generator"], expected)
    assert parts[1]["loss/generator"] < parts[0]["loss/generator"]
    if term != "hard":  # J_hard has no weight of its own, so it is always there
        assert weights[term] * parts[1][f"generator/{term}"] < weights[term] * parts[0][f"generator/{term}"]


def test_phases_are_those_of_algorithm_1() -> None:
    """Line 1: the metric alone, on observed negatives; then the generator alone, if asked for; then both."""
    model, form = model_of("triplet"), "triplet"
    loss = made(form, pretrain_epochs=2, generator_epochs=1)
    data, features = embedded(model)
    at = players(loss, model, features)
    moved = []
    for epoch in range(5):
        found = gradients(loss(data, LABELS, torch.Generator(), epoch), at)
        moved.append((found["generator.first.weight"].any().item(), found["features"].any().item()))
        names = set(loss.parts)
        if epoch < 2:
            assert names == {"loss/metric"}
            torch.testing.assert_close(loss.parts["loss/metric"], TripletLoss()(data.embeddings, LABELS).detach())
        else:
            assert "loss/generator" in names and ("loss/metric" in names) == (epoch > 2)
    assert moved == [(False, True)] * 2 + [(True, False)] + [(True, True)] * 2


@pytest.mark.parametrize("form", FORMS)
def test_mining_counts_some_of_the_synthetic_negatives(form: str) -> None:
    model = model_of(form)
    data, _ = embedded(model)
    tuples = FORMS[form].draw(LABELS, None, torch.Generator())
    for mining in ("hardest", "semihard"):
        loss = made(form, mining=mining, negatives=99)
        loss(data, LABELS, torch.Generator(), 0)
        with torch.no_grad():
            assert data.features is not None
            negatives = model.finish(model.head(loss.generator(data.features, tuples)))
        counted = loss.mined(data.embeddings, negatives, tuples)
        assert counted is not None
        apart = (negatives - data.embeddings[tuples.anchor][:, None]).square().sum(-1)
        to_positive = (data.embeddings[tuples.positive] - data.embeddings[tuples.anchor]).square().sum(-1)
        for t, m, *_ in entries(tuples):
            nearest = apart[t, m] == min(apart[t, k] for s, k, *_ in entries(tuples) if s == t)
            between = to_positive[t] < apart[t, m] < to_positive[t] + loss.margin
            assert counted[t, m] == (nearest if mining == "hardest" else between)
        generated = {(t, m): negatives[t, m] for t, m, *_ in entries(tuples) if counted[t, m]}
        if form in ("triplet", "contrastive") and generated:
            expected = metric_of(loss, data.embeddings, tuples, generated)
            torch.testing.assert_close(loss.parts["loss/metric"], torch.as_tensor(expected).detach())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [5], [0, 0, 1, 2]], ids=str)
def test_batches_without_negatives_or_positives_have_finite_gradients(form: str, labels: list[int]) -> None:
    model, loss = model_of(form), made(form)
    data, features = embedded(model, rows=len(labels))
    value = loss(data, torch.tensor(labels), torch.Generator(), 0)
    assert value.isfinite()
    for gradient in gradients(value, players(loss, model, features)).values():
        assert gradient.isfinite().all()


def test_trains_in_a_step_with_its_own_optimizer_group() -> None:
    model = network()
    loss = HardNegatives(TripletLoss(), model.feature_dim, "triplet").double()
    method = Standard(model, loss).train()
    groups = method.parameter_groups(1e-3, 1e-4)
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in method.parameters()}
    output = method.training_step(batch(), torch.Generator(), Context())
    output.loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.generator.parameters())
    assert {"loss/metric", "loss/generator", "generator/hard"} <= set(output.log)


def test_errors_name_the_argument() -> None:
    for options, message in [
        ({"form": "quadruplet"}, "form: expected one of contrastive, triplet, lifted, npair; got 'quadruplet'"),
        ({"mining": "easy"}, "mining"),
        ({"gradients": "none"}, "gradients"),
        ({"adversary": -1.0}, "adversary: expected a number >= 0, got -1.0"),
        ({"regularization": float("nan")}, "regularization"),
        ({"negatives": 0}, "negatives"),
        ({"pretrain_epochs": -1}, "pretrain_epochs"),
        ({"hidden": 0}, "hidden"),
    ]:
        with pytest.raises(ValueError, match=message.split(":")[0]):
            HardNegatives(TripletLoss(), 6, **{"form": "triplet", **options})
