"""Each method's step against the same step written out in separate passes: values, gradients, statistics."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, TowardsTargets, sample_targets
from robustdml_ext.losses import ArcFaceLoss, MultiSimilarityLoss
from robustdml_ext.methods import (
    IAT,
    TRADES,
    Adversarial,
    AdvPropD,
    Batch,
    Context,
    EnergyConfused,
    MDProp,
    Method,
    MixUp,
    Standard,
    UntargetedAdversarial,
)
from robustdml_ext.models import Embedder, build_embedder


def network(distributions: int) -> Embedder:
    torch.manual_seed(0)
    model = build_embedder(
        "small", channels=1, embedding_dim=8, widths=(4, 6), distributions=distributions, norm_noise=0.2
    )
    model = model.double().train()
    for norm in model.norms():
        norm.running_mean.uniform_(-0.2, 0.2)
        norm.running_var.uniform_(0.2, 1)
    return model


def batch(rows: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(rows) % 4
    return Batch(torch.rand(rows, 1, 8, 8, dtype=torch.float64, generator=generator), labels)


def state(method: nn.Module) -> dict[str, Tensor]:
    gradients = {f"{name}.grad": p.grad for name, p in method.named_parameters()}
    return {**gradients, **dict(method.named_buffers())}


def assert_same(actual: dict[str, Any], expected: dict[str, Any]) -> None:
    assert actual.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(actual[key], value, rtol=1e-7, atol=1e-10, msg=key)


def attack(**options: Any) -> PGD:
    return PGD(**{"epsilon": 0.1, "steps": 2, "random_start": 0.02, **options})


def attacked_separately(method: Any, data: Batch, generator: torch.Generator, distributions: list[int]) -> list[Tensor]:
    """One attack after the other, each with the draws that the joint one makes."""
    targets = [sample_targets(data.labels, t, candidates=data.labels, generator=generator) for t in method.targets]
    noise = method.attack.draw_noise(data.images, generator, rows=len(targets) * len(data.labels))
    made = []
    for k, (rows, distribution) in enumerate(zip(targets, distributions, strict=True)):
        own = copy.copy(method.attack)
        own.distribution = distribution
        part = noise.chunk(len(targets))[k]
        start = (data.images + part).clamp(0, 1) if method.targets_from == "start" else data.images
        frozen = copy.deepcopy(method.embedder).eval()
        bank = frozen(start, distribution=distribution).detach()
        made.append(own.perturb(method.embedder, data.images, TowardsTargets(bank, rows), noise=part))
    return made


def losses() -> list[nn.Module]:
    torch.manual_seed(0)
    return [MultiSimilarityLoss(), ArcFaceLoss(4, 8).double()]


@pytest.mark.parametrize("loss", losses(), ids=["multisimilarity", "arcface"])
@pytest.mark.parametrize("targets_from", ["start", "clean"])
@pytest.mark.parametrize("targets", [(1,), (3,), (1, 5), (1, 3, 5)])
def test_mdprop_joint_step_equals_separate_passes(targets: tuple[int, ...], targets_from: str, loss: nn.Module) -> None:
    joint = MDProp(network(1 + len(targets)), copy.deepcopy(loss), targets, attack(), targets_from=targets_from)
    separate = copy.deepcopy(joint)
    data = batch()
    output = joint.training_step(data, torch.Generator().manual_seed(2), Context())
    output.loss.backward()

    generator = torch.Generator().manual_seed(2)
    adversarial = attacked_separately(separate, data, generator, list(range(1, 1 + len(targets))))
    streams = [separate.loss(separate.embedder(data.images), data.labels)]
    for k, images in enumerate(adversarial, start=1):
        assert ((images - data.images).abs() > 0.03).any()
        streams.append(separate.loss(separate.embedder(images, distribution=k), data.labels))
    total = torch.stack(streams).sum()
    total.backward()
    torch.testing.assert_close(output.loss, total)
    assert_same(state(joint), state(separate))
    assert [value.item() for key, value in output.log.items() if key.startswith("loss/")] == pytest.approx(
        [value.item() for value in streams]
    )


@pytest.mark.parametrize("targets", [(1,), (1, 5)])
def test_adversarial_shares_one_norm(targets: tuple[int, ...]) -> None:
    method = Adversarial(network(1), MultiSimilarityLoss(), targets, attack())
    separate = copy.deepcopy(method)
    data = batch()
    output = method.training_step(data, torch.Generator().manual_seed(2), Context())
    output.loss.backward()

    generator = torch.Generator().manual_seed(2)
    adversarial = attacked_separately(separate, data, generator, [0] * len(targets))
    embeddings = separate.embedder(torch.cat([data.images, *adversarial]))
    total = sum(separate.loss(part, data.labels) for part in embeddings.split(len(data.labels)))
    total.backward()
    torch.testing.assert_close(output.loss, total)
    assert_same(state(method), state(separate))


def test_standard_is_the_loss_of_clean_images() -> None:
    method = Standard(network(1), MultiSimilarityLoss())
    separate = copy.deepcopy(method)
    data = batch()
    output = method.training_step(data, torch.Generator(), Context())
    output.loss.backward()
    separate.loss(separate.embedder(data.images), data.labels).backward()
    assert_same(state(method), state(separate))


def test_advprop_is_mdprop_with_single_targets() -> None:
    advprop = AdvPropD(network(2), MultiSimilarityLoss(), attack())
    mdprop = MDProp(network(2), MultiSimilarityLoss(), [1], attack())
    values = [m.training_step(batch(), torch.Generator().manual_seed(0), Context()).loss for m in (advprop, mdprop)]
    assert values[0] == values[1] and advprop.name == "advprop" and isinstance(advprop, MDProp)


def test_joint_loss_spans_the_streams() -> None:
    seen: list[tuple[Tensor, Tensor]] = []

    class Recording(nn.Module):
        def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
            seen.append((embeddings, labels))
            return embeddings.sum()

    data = batch()
    MDProp(network(3), Recording(), (1, 3), attack(), joint_loss=True).training_step(data, torch.Generator(), Context())
    ((embeddings, labels),) = seen
    assert embeddings.shape == (36, 8) and torch.equal(labels, data.labels.repeat(3))


def test_step_costs_what_it_must() -> None:
    """One pass of the attack on K − 1 streams and one of training on K, which alone has weight gradients."""
    method = MDProp(network(3), MultiSimilarityLoss(), (1, 5), attack(steps=1))
    passes: list[tuple[int, list[int], bool, bool]] = []

    def record(module: Any, arguments: Any, keywords: Any) -> None:
        images, weight = arguments[0], module.head.weight
        passes.append((len(images), list(keywords["segments"]), module.training, weight.requires_grad))

    method.embedder.register_forward_pre_hook(record, with_kwargs=True)
    method.training_step(batch(), torch.Generator(), Context()).loss.backward()
    assert passes == [(24, [0, 12, 12], False, False), (36, [12, 12, 12], True, True)]


def test_log_is_detached_and_shows_the_attack() -> None:
    method = MDProp(network(4), MultiSimilarityLoss(), (1, 5, 5), attack())
    log = method.training_step(batch(), torch.Generator().manual_seed(0), Context()).log
    names = ["T1", "T5.2", "T5.3"]
    expected = [f"loss/{n}" for n in ["clean", *names]] + [
        f"objective/{n}/{w}" for n in names for w in ("before", "after")
    ]
    assert list(log) == expected
    assert all(isinstance(value, Tensor) and value.dim() == 0 and not value.requires_grad for value in log.values())


def test_steps_repeat_and_follow_the_generator() -> None:
    def step(seed: int) -> float:
        method = MDProp(network(3), MultiSimilarityLoss(), (1, 5), attack())
        return method.training_step(batch(), torch.Generator().manual_seed(seed), Context()).loss.item()

    torch.manual_seed(1)
    first = step(0)
    torch.manual_seed(2)
    assert step(0) == first != step(1)


def test_parameter_groups_and_inference() -> None:
    method = Standard(network(2), ArcFaceLoss(4, 8, center_lr=0.25))
    method.embedder.head.bias.requires_grad_(False)
    own, centers = method.parameter_groups(0.5, 0.125)
    assert (own["lr"], own["weight_decay"], centers["lr"], centers["weight_decay"]) == (
        0.5,
        0.125,
        0.25,
        0.125,
    )
    assert centers["params"] == [method.loss.centers]
    assert {id(p) for p in own["params"]} == {id(p) for p in method.embedder.parameters() if p.requires_grad}
    method.eval()
    images = batch().images
    assert torch.equal(method.embed(images), method.embedder(images, distribution=0))
    assert torch.equal(method(images), method.embed(images))


def test_a_batch_without_images_is_refused() -> None:
    untargeted, metric = attack(), MultiSimilarityLoss()
    one, three = network(1), network(3)
    made = [
        Standard(one, metric), Standard(one, EnergyConfused(metric, 0.1)), Adversarial(one, metric, (2,), attack()),
        MDProp(three, metric, (1, 5), attack()), UntargetedAdversarial(one, metric, untargeted), MixUp(one, metric),
        IAT(one, metric, untargeted), TRADES(one, metric, untargeted),
    ]  # fmt: skip
    for method in made:
        with pytest.raises(ValueError, match="batch: expected at least one image, got none"):
            method.training_step(batch(0), torch.Generator(), Context())


def test_errors_name_the_argument() -> None:
    with pytest.raises(ValueError, match=r"expected 3 distributions.*\[1, 5\]; got 2"):
        MDProp(network(2), MultiSimilarityLoss(), (1, 5))
    with pytest.raises(ValueError, match="targets"):
        MDProp(network(1), MultiSimilarityLoss(), ())
    with pytest.raises(ValueError, match="targets"):
        Adversarial(network(1), MultiSimilarityLoss(), (0,))
    with pytest.raises(ValueError, match="targets_from"):
        Adversarial(network(1), MultiSimilarityLoss(), targets_from="training")
    method = MDProp(network(2), MultiSimilarityLoss(), (1,))
    with pytest.raises(ValueError, match="no other class"):
        method.training_step(Batch(batch().images, torch.zeros(12, dtype=torch.int64)), torch.Generator(), Context())
    with pytest.raises(NotImplementedError):
        Method(network(1), MultiSimilarityLoss()).training_step(batch(), torch.Generator(), Context())
