"""PGD: it stays in its ball, does its work on any victim, and leaves the victim as it was."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from robustdml_ext.attacks import (
    BIM,
    FGSM,
    PGD,
    AwayFromClean,
    FromStart,
    Joined,
    TowardsTargets,
    under_attack,
)
from robustdml_ext.models import build_embedder


def victim(seed: int = 0) -> nn.Module:
    """A plain network with everything that has a mode: batch norm, a frozen one, instance norm, dropout."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1),
        nn.BatchNorm2d(4, momentum=None), nn.InstanceNorm2d(4, track_running_stats=True), nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(4 * 36, 8),
    )  # fmt: skip
    network[-1].weight.data.mul_(20)
    network[1].eval()
    network[0].weight.requires_grad_(False)
    for norm in (network[1], network[4], network[5]):
        norm.running_mean.uniform_(-0.5, 0.5)
        norm.running_var.uniform_(0.5, 2)
    return network


def snapshot(model: nn.Module) -> dict[str, Any]:
    return {
        "state": {key: value.clone() for key, value in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "tracking": [getattr(module, "track_running_stats", None) for module in model.modules()],
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in model.parameters()],
    }


def assert_untouched(model: nn.Module, before: dict[str, Any]) -> None:
    after = snapshot(model)
    for name in ("training", "tracking", "requires_grad"):
        assert after[name] == before[name], name
    for key, value in before["state"].items():
        assert torch.equal(after["state"][key], value), key
    for a, b in zip(after["grad"], before["grad"], strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b))


def towards(model: nn.Module, images: Tensor, count: int = 1) -> TowardsTargets:
    with under_attack(model, "eval"), torch.no_grad():
        bank = model(images)
    return TowardsTargets(
        bank, torch.stack([(torch.arange(len(images)) + 1 + t) % len(images) for t in range(count)], 1)
    )


IMAGES = torch.rand(6, 1, 6, 6, generator=torch.Generator().manual_seed(5))


@settings(max_examples=25)
@given(
    epsilon=st.sampled_from([0.0, 0.01, 0.3]), per_sample=st.booleans(), steps=st.integers(1, 4),
    norm=st.sampled_from(["linf", "l2"]), start=st.sampled_from([0.0, 0.05, 1.0]), keep_best=st.booleans(),
    restarts=st.integers(1, 2), norm_mode=st.sampled_from(["eval", "train"]), training=st.booleans(),
    away=st.booleans(), seed=st.integers(0, 100),
)  # fmt: skip
def test_inside_the_ball_and_victim_untouched(
    epsilon: float, per_sample: bool, steps: int, norm: str, start: float, keep_best: bool, restarts: int,
    norm_mode: str, training: bool, away: bool, seed: int,
) -> None:  # fmt: skip
    model = victim()
    if training:
        model.train()
    next(p for p in model.parameters() if p.requires_grad).grad = torch.ones(4)
    radius = torch.linspace(0, epsilon, 6) if per_sample else epsilon
    attack = PGD(radius, steps, None, norm, start, restarts if start else 1, keep_best, norm_mode)
    objective = AwayFromClean(torch.randn(6, 8)) if away else towards(model, IMAGES, 2)
    before, images = snapshot(model), IMAGES.clone()
    with torch.no_grad():
        adversarial = attack.perturb(model, IMAGES, objective, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(images, IMAGES) and not adversarial.requires_grad
    assert adversarial.dtype == IMAGES.dtype and adversarial.is_leaf
    assert_untouched(model, before)
    assert adversarial.min() >= 0 and adversarial.max() <= 1
    distance = (adversarial - IMAGES).flatten(1).norm(dim=1, p=float("inf") if norm == "linf" else 2)
    assert (distance <= torch.as_tensor(radius) + 1e-6).all()
    if epsilon == 0.3 and not per_sample:
        assert distance.min() > 1e-3


@pytest.mark.parametrize("norm_mode", ["eval", "train"])
def test_restores_after_an_exception(norm_mode: str) -> None:
    model = victim().train()
    before = snapshot(model)

    def fails(embeddings: Tensor) -> Tensor:
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        PGD(0.1, 2, norm_mode=norm_mode).perturb(model, IMAGES, fails)
    assert_untouched(model, before)


def test_norm_modes_use_the_statistics_they_name() -> None:
    model = victim().train()
    images = IMAGES
    seen: list[Tensor] = []

    def record(embeddings: Tensor) -> Tensor:
        seen.append(embeddings.detach())
        return embeddings.sum(1)

    for mode in ("eval", "train"):
        PGD(0.1, 1, norm_mode=mode).perturb(model, images, record)
    by_running, by_batch = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    for norm in (by_batch[1], by_batch[4], by_batch[5]):
        norm.train()
    torch.testing.assert_close(seen[0], by_running(images).detach())
    torch.testing.assert_close(seen[1], by_batch(images).detach())
    assert (seen[0] - seen[1]).abs().max() > 1e-2


def test_norm_modes_on_an_embedder_match_a_plain_one() -> None:
    torch.manual_seed(0)
    model = build_embedder("small", channels=1, embedding_dim=8, distributions=2, widths=(4, 8)).train()
    from robustdml_ext.models import to_plain

    plain = to_plain(model)
    objective = towards(model, IMAGES)
    before = snapshot(model)
    for mode in ("eval", "train"):
        ours, theirs = (PGD(0.1, 3, norm_mode=mode).perturb(m, IMAGES, objective) for m in (model, plain))
        assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.03  # a sign of a gradient near 0 may flip
    assert_untouched(model, before)


def test_fgsm_and_bim_are_what_they_are() -> None:
    model = victim().eval()
    objective = towards(model, IMAGES)
    x = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(objective(model(x)).sum(), x)
    expected = (IMAGES - 0.05 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(0.05).perturb(model, IMAGES, objective), expected)
    torch.testing.assert_close(BIM(0.05, 1).perturb(model, IMAGES, objective), expected)
    bim = BIM(0.05, 4, 0.02)
    assert (bim.random_start, bim.step_size, bim.steps) == (0.0, 0.02, 4)
    assert torch.equal(bim.perturb(model, IMAGES, objective), PGD(0.05, 4, 0.02).perturb(model, IMAGES, objective))


def test_reaches_its_aim_better_with_more_steps_and_keeps_the_best() -> None:
    model = victim().eval()
    objective = towards(model, IMAGES, 2)

    def value(images: Tensor) -> Tensor:
        return objective(model(images)).detach()

    start, one = value(IMAGES), value(FGSM(0.1).perturb(model, IMAGES, objective))
    many = value(PGD(0.1, 20, 0.02).perturb(model, IMAGES, objective))
    assert one.mean() < start.mean() and many.mean() < one.mean()
    # Steps far too long jump over the minimum, so that the best iterate is rarely the last one.
    wild = {"epsilon": 0.1, "steps": 7, "step_size": 0.15}
    last = value(PGD(**wild).perturb(model, IMAGES, objective))
    best = value(PGD(**wild, keep_best=True).perturb(model, IMAGES, objective))
    iterates = torch.stack([value(PGD(**{**wild, "steps": n}).perturb(model, IMAGES, objective)) for n in range(1, 8)])
    torch.testing.assert_close(best, torch.minimum(iterates.amin(0), start))
    assert (best < last - 1e-4).any()
    generator = torch.Generator().manual_seed(0)
    several = value(PGD(**wild, random_start=0.1, restarts=4).perturb(model, IMAGES, objective, generator=generator))
    generator.manual_seed(0)
    single = value(PGD(**wild, random_start=0.1).perturb(model, IMAGES, objective, generator=generator))
    assert (several <= single + 1e-6).all() and (several < single - 1e-4).any()


def test_climbs_away_from_the_clean_embedding() -> None:
    model = victim().eval()
    clean = model(IMAGES).detach()
    for metric in ("l2", "cosine"):
        objective = AwayFromClean(clean, metric)
        still = BIM(0.1, 3).perturb(model, IMAGES, objective)
        moved = PGD(0.1, 3, random_start=0.01).perturb(model, IMAGES, objective)
        assert objective(model(moved)).min() > 10 * objective(model(still)).max() or metric == "cosine"
        assert objective(model(moved)).mean() > 0.005


def test_random_start_is_seeded_and_uniform() -> None:
    images = torch.full((50, 1, 8, 8), 0.5)
    linf, l2 = PGD(0.1, 1, random_start=0.1), PGD(0.1, 1, norm="l2", random_start=0.1)
    draw = linf.draw_noise(images, torch.Generator().manual_seed(3))
    assert torch.equal(draw, linf.draw_noise(images, torch.Generator().manual_seed(3)))
    assert not torch.equal(draw, linf.draw_noise(images, torch.Generator().manual_seed(4)))
    assert draw.abs().max() <= 0.1 and abs(float(draw.std()) - 0.1 / 3**0.5) < 2e-3
    lengths = l2.draw_noise(images).flatten(1).norm(dim=1)
    assert lengths.max() <= 0.1 + 1e-6 and lengths.min() > 0.08  # in 64 dimensions a ball is mostly its rim
    assert linf.draw_noise(images, rows=7).shape == (7, 1, 8, 8)
    assert PGD(0.1, 1).draw_noise(images) is None


def test_given_noise_is_where_it_starts() -> None:
    model, noise = victim().eval(), torch.full_like(IMAGES, 0.03)
    seen: list[Tensor] = []
    objective = FromStart(lambda start: seen.append(start) or AwayFromClean(start), maximize=True)
    PGD(0.02, 2).perturb(model, IMAGES, objective, noise=noise)
    torch.testing.assert_close(seen[0], model((IMAGES + 0.02).clamp(0, 1)).detach())
    assert len(seen) == 1


def test_joint_attack_equals_separate_ones() -> None:
    torch.manual_seed(0)
    model = build_embedder("small", channels=1, embedding_dim=8, distributions=3, norm_noise=0.3).double().train()
    images, noise = torch.rand(2, 12, 1, 8, 8, dtype=torch.float64).unbind()
    noise = noise * 0.01
    parts = [slice(0, 5), slice(5, 12)]
    bank = torch.nn.functional.normalize(torch.randn(9, 8, dtype=torch.float64), dim=1)
    objectives = [
        TowardsTargets(bank, torch.randint(9, (5, 1))),
        TowardsTargets(bank, torch.randint(9, (7, 3))),
    ]
    for mode in ("eval", "train"):
        joint = PGD(0.1, 3, norm_mode=mode).perturb(
            model, images, Joined(objectives, [5, 7]), segments=[0, 5, 7], noise=noise
        )
        for k, (rows, objective) in enumerate(zip(parts, objectives, strict=True), start=1):
            attack = PGD(0.1, 3, norm_mode=mode, distribution=k)
            separate = attack.perturb(model, images[rows], objective, noise=noise[rows])
            torch.testing.assert_close(joint[rows], separate)
            clean = PGD(0.1, 3, norm_mode=mode).perturb(model, images[rows], objective, noise=noise[rows])
            assert (joint[rows] - clean).abs().max() > 0.01


def test_images_keep_their_precision_and_layout() -> None:
    model = build_embedder("small", channels=3, embedding_dim=8, widths=(4, 8))
    images = torch.rand(4, 3, 8, 8).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        adversarial = PGD(0.1, 2).perturb(model, images, towards(model, images))
    assert adversarial.dtype == torch.float32 and adversarial.is_contiguous(memory_format=torch.channels_last)
    assert ((adversarial - images).abs() > 0.01).any()
    with torch.inference_mode():
        inner = PGD(0.1, 2).perturb(model, images * 1.0, lambda embeddings: embeddings[:, 0])
    assert ((inner - images).abs() > 0.01).any()


def test_no_weight_gradients_are_computed() -> None:
    model = build_embedder("small", channels=1, embedding_dim=8, widths=(4, 8)).train()
    seen: list[bool] = []
    hook = model.head.register_forward_hook(
        lambda module, arguments, output: seen.append(any(p.requires_grad for p in model.parameters()))
    )
    PGD(0.1, 2).perturb(model, IMAGES, lambda embeddings: embeddings[:, 0])
    hook.remove()
    assert seen == [False, False] and all(p.requires_grad and p.grad is None for p in model.parameters())


def test_errors_name_the_argument() -> None:
    model = victim()
    for arguments, message in [
        ({"epsilon": -1.0}, "epsilon"), ({"steps": 0}, "steps"), ({"norm": "l1"}, "norm"),
        ({"restarts": 0}, "restarts"),
        ({"restarts": 2}, "random_start"), ({"random_start": -0.1}, "random_start"),
        ({"norm_mode": "batch"}, "norm_mode"), ({"epsilon": float("nan")}, "epsilon"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            PGD(**{"epsilon": 0.1, "steps": 2, **arguments})
    attack = PGD(0.1, 1)
    with pytest.raises(TypeError, match="uint8"):
        attack.perturb(model, torch.zeros(2, 1, 6, 6, dtype=torch.uint8), lambda e: e[:, 0])
    with pytest.raises(ValueError, match=r"pixels in \[0, 1\]"):
        attack.perturb(model, IMAGES * 255, lambda e: e[:, 0])
    with pytest.raises(TypeError, match="one distribution"):
        attack.perturb(model, IMAGES, lambda e: e[:, 0], segments=[3, 3])
    with pytest.raises(TypeError, match=r"Sequential should give embeddings \[6, D\]"):
        attack.perturb(nn.Sequential(nn.Conv2d(1, 1, 1)), IMAGES, lambda e: e[:, 0])
    with pytest.raises(ValueError, match="noise"):
        attack.perturb(model, IMAGES, lambda e: e[:, 0], noise=torch.zeros(1))
