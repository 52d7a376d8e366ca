"""DAML's J_gen and J_m, and the gradient of each to each player, against equations 5 to 12 written out in loops."""

from __future__ import annotations

import pytest
import torch
from methods.daml_written_out import (
    LABELS,
    embedded,
    entries,
    gradients,
    made,
    metric_of,
    model_of,
    players,
    written_out,
)
from torch import Tensor

from robustdml_ext.methods import Progress
from robustdml_ext.methods.synthetic_losses import FORMS


@pytest.mark.parametrize("form", FORMS)
def test_ragged_classes_leave_out_what_is_not_there(form: str) -> None:
    """Four, two and two of a class: the second pair of the first has no other pair beside it."""
    labels, model = torch.tensor([3, 0, 3, 0, 7, 7, 3, 3]), model_of(form)
    loss = made(form, negatives=99)
    data, _ = embedded(model, rows=len(labels))
    loss(data, labels, torch.Generator().manual_seed(4), Progress())
    tuples = loss.draw(labels, torch.Generator().manual_seed(4))
    assert tuples.valid is not None and not tuples.valid.all()
    generated, metric = written_out(loss, model, data, tuples, labels=labels)
    torch.testing.assert_close(loss.parts["loss/generator"], generated.detach())
    torch.testing.assert_close(loss.parts["loss/metric"], metric.detach())


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
        actual = loss(data, LABELS, torch.Generator().manual_seed(4), Progress())
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
    found = gradients(loss(data, LABELS, torch.Generator(), Progress()), at)
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


@pytest.mark.parametrize("form", FORMS)
def test_mining_counts_some_of_the_synthetic_negatives(form: str) -> None:
    model = model_of(form)
    data, _ = embedded(model)
    tuples = FORMS[form].draw(LABELS, None, torch.Generator())
    for mining in ("hardest", "semihard"):
        loss = made(form, mining=mining, negatives=99)
        loss(data, LABELS, torch.Generator(), Progress())
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
