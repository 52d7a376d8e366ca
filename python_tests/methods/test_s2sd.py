"""S2SD's loss and every gradient against its definition written out plainly in float64."""

from __future__ import annotations

import math
from functools import cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.digits import recall_of, trained, unseen
from methods.written_out import batch, network
from torch import Tensor, nn

from robustdml_ext.assemble import build_loss
from robustdml_ext.attacks import PGD
from robustdml_ext.losses import ArcFaceLoss, MultiSimilarityLoss, ProxyAnchorLoss, TripletLoss
from robustdml_ext.methods import (
    Context,
    Embedded,
    EnergyConfused,
    MDProp,
    Progress,
    SelfDistillation,
    Standard,
    UntargetedAdversarial,
)
from robustdml_ext.methods.embedded import SharedHead
from robustdml_ext.models import Embedder, build_embedder
from robustdml_ext.recipes import RecipeError, resolve

DIMS, GAMMA, FEATURES, T, DELAY = (12, 20), 3.0, 2.0, 0.7, 5


def made(model: Embedder, metric: nn.Module | None = None, **options: object) -> SelfDistillation:
    torch.manual_seed(7)
    fields = {"weight": GAMMA, "feature_weight": FEATURES, "temperature": T, "feature_delay": DELAY, **options}
    return SelfDistillation(metric or MultiSimilarityLoss(), model.feature_dim, DIMS, **fields).double()  # type: ignore[arg-type]


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """(T²/B) Σ_i Σ_j p_ij log(p_ij / q_ij), p the teacher's and q the student's softmax, entry by entry."""
    rows = len(student)
    total = student.new_zeros(())
    for i in range(rows):
        found = []
        for embeddings in (teacher.detach(), student):
            cosines = [torch.cosine_similarity(embeddings[i], embeddings[j], dim=0) / T for j in range(rows)]
            weights = torch.stack([cosine.exp() for cosine in cosines])
            found.append(weights / weights.sum())
        p, q = found
        total = total + sum(p[j] * (p[j] / q[j]).log() for j in range(rows))
    return T**2 * total / rows


def written_out(loss: SelfDistillation, f: Tensor, features: Tensor, labels: Tensor, bridged: bool) -> Tensor:
    """½ [L(f) + mean L(g_k)] + γ·mean D(S^f, S^{g_k}) + γ_φ·D(S^f, S^φ)."""
    metric, start, taught, distilled = MultiSimilarityLoss(), 0, [], []
    for number, dim in enumerate(DIMS):
        weight, bias = loss.first.weight[start : start + dim], loss.first.bias[start : start + dim]
        hidden = (features @ weight.T + bias).clamp(min=0)
        head = hidden @ loss.second[number].weight.T + loss.second[number].bias
        start += dim
        head = head / head.square().sum(1, keepdim=True).sqrt()
        taught.append(metric(head, labels))
        distilled.append(divergence(f, head))
    value = (metric(f, labels) + sum(taught) / len(DIMS)) / 2 + GAMMA * sum(distilled) / len(DIMS)
    return value + FEATURES * divergence(f, features) if bridged else value


@pytest.mark.parametrize("step", [0, DELAY - 1, DELAY])
def test_is_its_definition_with_every_gradient(step: int) -> None:
    data, model = batch(), network()
    method = Standard(model, made(model)).train()
    method.step = step
    output = method.training_step(data, torch.Generator(), Context())
    players = list(method.parameters())
    actual = torch.autograd.grad(output.loss, players)

    model = network()
    loss = made(model)
    features = model.features(data.images)
    expected = written_out(loss, model.finish(model.head(features)), features, data.labels, bridged=step >= DELAY)
    correct = torch.autograd.grad(expected, [*model.parameters(), *loss.parameters()])
    torch.testing.assert_close(output.loss, expected, rtol=1e-10, atol=1e-12)
    for found, right in zip(actual, correct, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-7, atol=1e-10)
    assert ("distillation/features" in output.log) == (step >= DELAY)


def test_no_teacher_learns_from_its_student() -> None:
    """With L_m switched off, the heads have no gradient, and neither has the embedding's own teacher, the features."""

    class Nothing(nn.Module):
        def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
            return embeddings.sum() * 0

    model = network()
    loss = made(model, Nothing())
    features = torch.randn(6, model.feature_dim, dtype=torch.float64, requires_grad=True)
    embeddings = torch.randn(6, 8, dtype=torch.float64, requires_grad=True)
    data = Embedded(embeddings, embeddings, features, SharedHead(model, Context()))
    value = loss(data, torch.arange(6) % 3, torch.Generator(), Progress(step=DELAY))
    value.backward()
    assert embeddings.grad is not None and embeddings.grad.abs().max() > 1e-4
    assert features.grad is not None and not features.grad.any()
    assert not any(parameter.grad is not None and parameter.grad.any() for parameter in loss.parameters())


@given(
    rows=st.integers(1, 9),
    classes=st.integers(1, 9),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    temperature=st.sampled_from([0.05, 1.0, 20.0]),
)
def test_any_batch_has_a_finite_loss_at_least_the_metrics(
    rows: int, classes: int, scale: float, temperature: float
) -> None:
    model = network()
    loss = made(model, temperature=temperature)
    torch.manual_seed(rows)
    features = (scale * torch.randn(rows, model.feature_dim, dtype=torch.float64)).requires_grad_()
    embeddings = model.finish(model.head(features))
    data = Embedded(embeddings, embeddings, features, SharedHead(model, Context()))
    value = loss(data, torch.arange(rows) % classes, torch.Generator(), Progress(step=DELAY))
    value.backward()
    assert value.isfinite() and features.grad is not None and features.grad.isfinite().all()
    halves = (loss.parts["loss/metric"] + loss.parts["loss/heads"]) / 2
    assert value >= halves - 1e-9  # no divergence is negative


def test_a_space_teaches_itself_nothing() -> None:
    model = network()
    loss = made(model)
    embeddings = torch.randn(7, 8, dtype=torch.float64)
    assert loss.divergence(loss.similarities(embeddings), 5 * embeddings) == pytest.approx(0, abs=1e-12)
    assert loss.divergence(loss.similarities(embeddings), torch.eye(7, 8, dtype=torch.float64)) > 0.01


def test_single_precision_is_kept_under_autocast_with_features_of_half() -> None:
    model = network().float()
    loss = made(model).float()
    features = torch.randn(12, model.feature_dim).bfloat16()
    embeddings = model.finish(model.head(features.float()))
    data = Embedded(embeddings, embeddings, features, SharedHead(model, Context()))
    with torch.autocast("cpu", torch.bfloat16):
        value = Standard(model, loss).metric(data, batch().labels, torch.Generator())
    assert value.dtype == torch.float32
    wide = Embedded(embeddings.double(), embeddings.double(), features.double(), SharedHead(model, Context()))
    expected = loss.double()(wide, batch().labels, torch.Generator(), Progress())
    assert value.item() == pytest.approx(expected.item(), rel=2e-6)


@pytest.mark.parametrize("joint", [False, True])
def test_mdprop_distills_within_every_distribution(joint: bool) -> None:
    """The loss of K streams is the sum of S2SD's over them (over all together, where pairs may span them)."""
    data = batch()
    torch.manual_seed(0)
    model = build_embedder("small", channels=1, embedding_dim=8, widths=(4, 6), distributions=3).double().train()
    seen: list[Embedded] = []

    class Watched(SelfDistillation):
        def forward(self, embedded, labels, generator, progress):  # type: ignore[no-untyped-def]
            seen.append(embedded)
            return super().forward(embedded, labels, generator, progress)

    loss = Watched(MultiSimilarityLoss(), model.feature_dim, DIMS, weight=GAMMA).double()
    method = MDProp(model, loss, (1, 5), PGD(0.05, 1, random_start=0.01), joint_loss=joint).train()
    output = method.training_step(data, torch.Generator().manual_seed(2), Context())
    assert [len(part.embeddings) for part in seen] == ([36] if joint else [12] * 3)
    features = [part.features for part in seen]
    assert all(part is not None for part in features)
    if not joint:
        names = ("clean", "T1", "T5")
        torch.testing.assert_close(output.loss.detach(), torch.stack([output.log[f"loss/{n}"] for n in names]).sum())
        assert not torch.allclose(features[0], features[1])  # type: ignore[arg-type]
    for name in ("loss/heads", "distillation/heads"):
        assert float(output.log[name]) > 0
    output.loss.backward()
    assert all(parameter.grad is not None for parameter in method.parameters())


def test_an_attack_climbs_the_metric_loss_alone() -> None:
    data, found = batch(), []
    for wrap in (False, True):
        model = network()
        loss = made(model, TripletLoss()) if wrap else TripletLoss()
        method = UntargetedAdversarial(model, loss, PGD(0.1, 2, random_start=0.01), attack_objective="loss").train()
        found.append(method.perturbed(data, torch.Generator().manual_seed(3), Context()))
    assert torch.equal(*found) and not torch.equal(found[0], data.images)


def test_joins_energy_confusion() -> None:
    data, model = batch(), network()
    plain = Standard(model, made(model)).train().training_step(data, torch.Generator(), Context())
    both = Standard(model, EnergyConfused(made(model), 0.3)).train().training_step(data, torch.Generator(), Context())
    torch.testing.assert_close(both.loss - plain.loss, both.log["loss/confusion"])
    assert {"loss/metric", "loss/heads", "distillation/heads"} <= set(both.log)


@pytest.mark.parametrize("name", ["arcface", "proxyanchor", "normalizedsoftmax"])
def test_losses_with_parameters_have_them_in_every_space(name: str) -> None:
    recipe = resolve("standard", {"loss": name, "s2sd": True, "embedding_dim": 8, "s2sd_dims": (12, 20)})
    loss = build_loss(recipe, classes=4, feature_dim=6)
    assert isinstance(loss, SelfDistillation) and loss.head_losses is not None
    groups = loss.parameter_groups(1e-3)
    grouped = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(grouped) == sorted(id(parameter) for parameter in loss.parameters())
    kinds = {ArcFaceLoss: "arcface", ProxyAnchorLoss: "proxyanchor"}
    assert kinds.get(type(loss.metric), "normalizedsoftmax") == name
    model = network()
    features = torch.randn(8, 6)
    embeddings = torch.randn(8, 8)
    data = Embedded(embeddings, embeddings, features, SharedHead(model.float(), Context()))
    loss(data, torch.arange(8) % 4, torch.Generator(), Progress()).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in loss.head_losses.parameters())


def test_dimensions_are_the_published_multiples() -> None:
    assert resolve("mdprop", {"dataset": "cub200", "s2sd": True}).head_dims == (512, 1024, 1536, 2048)
    assert resolve("mdprop", {"s2sd": True, "embedding_dim": 16}).head_dims == (64, 128, 192, 256)
    assert resolve("mdprop", {"s2sd": True, "s2sd_dims": (3, 4)}).head_dims == (3, 4)
    recipe = resolve("mdprop", {"dataset": "cub200", "s2sd": True})
    numbers = (recipe.s2sd_weight, recipe.s2sd_feature_weight, recipe.s2sd_temperature, recipe.s2sd_feature_delay)
    assert numbers == (50, 50, 1, 1000)
    scratch = resolve("mdprop", {"dataset": "cub200", "s2sd": True, "arch": "small"})
    assert (scratch.s2sd_weight, scratch.s2sd_feature_weight, scratch.weights) == (1, 1, "none")
    scratch = resolve("mdprop", {"dataset": "cub200", "s2sd": True, "weights": "none"})
    assert (scratch.s2sd_weight, scratch.s2sd_feature_weight, scratch.arch) == (1, 1, "resnet50")
    asked = resolve("mdprop", {"s2sd": True, "s2sd_weight": 7.0})
    assert (asked.s2sd_weight, asked.s2sd_feature_weight) == (7, 1)


def test_errors_name_the_argument() -> None:
    metric = MultiSimilarityLoss()
    for options, message in (
        ({"dims": ()}, "dims: expected at least one number, each >= 1"),
        ({"dims": (4, 0)}, "dims: expected at least one number, each >= 1"),
        ({"weight": -1.0}, "weight: expected a number >= 0, got -1"),
        ({"feature_weight": math.inf}, "feature_weight: expected a number"),
        ({"temperature": 0.0}, "temperature: expected a number above 0, got 0"),
        ({"feature_delay": -1}, "feature_delay: expected >= 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            SelfDistillation(metric, 8, **options)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="metric: expected a loss, got str"):
        SelfDistillation("multisimilarity", 8)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="head_loss: expected what makes the loss of a head"):
        SelfDistillation(ProxyAnchorLoss(4, 8), 8)
    model = network()
    with pytest.raises(ValueError, match="embedded: expected features"):
        rows = torch.randn(4, 8, dtype=torch.float64)
        made(model)(
            Embedded(rows, rows, None, SharedHead(model, Context())), torch.arange(4), torch.Generator(), Progress()
        )
    for fields, message in (
        ({"method": "daml", "s2sd": True}, "s2sd and hard_negatives each take the place"),
        ({"method": "prototypes", "s2sd": True}, "s2sd join metric losses"),
        ({"method": "at", "label_vectors": "embeddings", "s2sd": True}, "label_vectors with s2sd must be classes"),
        ({"method": "standard", "s2sd": True, "s2sd_dims": (0,)}, "s2sd_dims must hold numbers above 0"),
    ):
        with pytest.raises(RecipeError, match=message):
            resolve(fields.pop("method"), fields)  # type: ignore[arg-type]


def small(gamma: float | None, made: list[Standard]) -> Standard:
    """Embeddings of a quarter of the features' dimensions, for which S2SD is."""
    embedder = build_embedder("small", channels=1, embedding_dim=16)
    loss: nn.Module = MultiSimilarityLoss()
    if gamma is not None:
        loss = SelfDistillation(
            loss, embedder.feature_dim, (64, 128), weight=gamma, feature_weight=gamma, feature_delay=40
        )
    made.append(Standard(embedder, loss))
    return made[-1]


@cache
def on_digits(gamma: float | None) -> tuple[float, float]:
    """Mean over seeds of Recall@1 on unseen digits, and of the divergence from what the heads find alike in them.

    γ = 0 has the heads and distills nothing; None is the plain loss.
    """
    recalls, divergences = [], []
    ((images, _),) = unseen()
    for seed in (0, 1, 2):
        made: list[Standard] = []
        model = trained(partial(small, gamma, made), seed, steps=200)
        recalls.append(recall_of(model)[1])
        loss = made[0].loss
        if isinstance(loss, SelfDistillation) and isinstance(model, Embedder):
            with torch.no_grad():
                features = model.features(images)
                student = loss.similarities(model.finish(model.head(features)))
                found = [loss.divergence(student, model.finish(head)) for head in loss.outputs(features)]
            divergences.append(float(torch.stack(found).mean()))
    return sum(recalls) / len(recalls), sum(divergences) / max(len(divergences), 1)


@pytest.mark.slow
def test_unseen_digits_are_found_better_by_small_embeddings() -> None:
    assert on_digits(5.0)[0] > on_digits(None)[0] + 0.01


@pytest.mark.slow
def test_the_embedding_learns_what_the_heads_find_alike() -> None:
    """On images that none of them was trained on."""
    assert 0 < on_digits(5.0)[1] < 0.75 * on_digits(0.0)[1]
