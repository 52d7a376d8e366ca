"""A step with hard negatives: its phases, precision, draws, rates, odd batches and wrong arguments."""

from __future__ import annotations

import pytest
import torch
from methods.daml_written_out import (
    LABELS,
    embedded,
    gradients,
    made,
    model_of,
    players,
)
from methods.written_out import batch, network

from robustdml_ext.losses import TripletLoss
from robustdml_ext.methods import Context, Embedded, HardNegatives, Standard
from robustdml_ext.methods.embedded import SharedHead
from robustdml_ext.methods.feature_loss import Progress, apply_loss
from robustdml_ext.methods.synthetic_losses import FORMS


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
            value = apply_loss(loss, batch, LABELS, torch.Generator().manual_seed(1), Progress())
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
            made("triplet")(data, labels, torch.Generator(), Progress())


def test_phases_are_those_of_algorithm_1() -> None:
    """Line 1: the metric alone, on observed negatives; then the generator alone, if asked for; then both."""
    model, form = model_of("triplet"), "triplet"
    loss = made(form, pretrain_epochs=2, generator_epochs=1)
    data, features = embedded(model)
    at = players(loss, model, features)
    moved = []
    for epoch in range(5):
        found = gradients(loss(data, LABELS, torch.Generator(), Progress(epoch)), at)
        moved.append((found["generator.first.weight"].any().item(), found["features"].any().item()))
        names = set(loss.parts)
        if epoch < 2:
            assert names == {"loss/metric"}
            torch.testing.assert_close(loss.parts["loss/metric"], TripletLoss()(data.embeddings, LABELS).detach())
        else:
            assert "loss/generator" in names and ("loss/metric" in names) == (epoch > 2)
    assert moved == [(False, True)] * 2 + [(True, False)] + [(True, True)] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [5], [0, 0, 1, 2]], ids=str)
def test_batches_without_negatives_or_positives_have_finite_gradients(form: str, labels: list[int]) -> None:
    model, loss = model_of(form), made(form)
    data, features = embedded(model, rows=len(labels))
    value = loss(data, torch.tensor(labels), torch.Generator(), Progress())
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
