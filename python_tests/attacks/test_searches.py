"""What PGD with momentum, AdaptivePGD and SquareAttack share: balls, seeds, what is kept, errors."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from victims import assert_inside, embed, pictures, trained

from robustdml_ext.attacks import (
    PGD,
    AdaptivePGD,
    AwayFromClean,
    FromStart,
    Joined,
    OutOfTopK,
    SquareAttack,
    TowardsTargets,
)
from robustdml_ext.attacks.balls import improves


@settings(max_examples=25)
@given(
    kind=st.sampled_from(["adaptive", "square", "momentum"]), epsilon=st.sampled_from([0.0, 0.01, 0.3]),
    each=st.booleans(), steps=st.integers(2, 9), norm=st.sampled_from(["linf", "l2"]), restarts=st.integers(1, 2),
    name=st.sampled_from(["towards", "away"]), wide=st.booleans(), seed=st.integers(0, 100),
)  # fmt: skip
def test_inside_the_ball_model_left_and_seeded(
    kind: str, epsilon: float, each: bool, steps: int, norm: str, restarts: int, name: str, wide: bool, seed: int
) -> None:
    model, images = copy.deepcopy(trained()), pictures()[0][:12]
    objective = TowardsTargets(torch.eye(8)[:3], torch.arange(12)[:, None] % 3)
    if name == "away":
        objective = AwayFromClean(embed(model, images))
    if wide:
        model, images = model.double(), images.double()
        objective = FromStart(lambda start: AwayFromClean(start), maximize=True)
    radius = torch.linspace(0, epsilon, 12) if each else epsilon
    if kind == "square":
        norm = "linf"
        attack: Any = SquareAttack(radius, steps, restarts=restarts)
    elif kind == "adaptive":
        attack = AdaptivePGD(radius, steps, norm, random_start=0.01, restarts=restarts)
    else:
        attack = PGD(radius, steps, None, norm, random_start=0.01, restarts=restarts, momentum=0.9)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    global_state = torch.random.get_rng_state()
    first, second = (
        attack.perturb(model, images, objective, generator=torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert model.training and all(p.requires_grad and p.grad is None for p in model.parameters())
    model.eval()
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), global_state)
    assert torch.equal(first, second)
    assert_inside(first, images, radius, norm)


def test_momentum_is_mi_fgsm() -> None:
    model, images = copy.deepcopy(trained()).double(), pictures()[0].double()
    bank = embed(model, images)
    objective = TowardsTargets(bank, ((torch.arange(48) + 1) % 48)[:, None])
    for norm in ("linf", "l2"):
        epsilon, step = (0.1, 0.03) if norm == "linf" else (1.0, 0.3)
        found = PGD(epsilon, 4, step, norm, momentum=0.7).perturb(model, images, objective)
        x, direction = images.clone(), torch.zeros_like(images)
        for _ in range(4):
            leaf = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(objective(model(leaf)).sum(), leaf)
            direction = 0.7 * direction + gradient / gradient.abs().mean((1, 2, 3), keepdim=True)
            if norm == "linf":
                x = (x - step * direction.sign()).clamp(images - epsilon, images + epsilon)
            else:
                x = x - step * direction / direction.flatten(1).norm(dim=1)[:, None, None, None]
                offset = x - images
                length = offset.flatten(1).norm(dim=1)[:, None, None, None]
                x = images + offset * (epsilon / length).clamp(max=1)
            x = x.clamp(0, 1)
        torch.testing.assert_close(found, x, rtol=0, atol=1e-6)
        without = PGD(epsilon, 4, step, norm).perturb(model, images, objective)
        assert (without - found).abs().max() > 1e-3


def test_autocast_and_several_distributions() -> None:
    from robustdml_ext.models import build_embedder

    torch.manual_seed(0)
    model = build_embedder("small", channels=1, embedding_dim=8, widths=(4, 8), distributions=2, norm_noise=0.1)
    images = pictures()[0]
    away = FromStart(lambda start: AwayFromClean(start), maximize=True)
    for attack in (AdaptivePGD(0.1, 6, random_start=0.01), SquareAttack(0.1, 6), PGD(0.1, 6, momentum=1.0)):
        with torch.autocast("cpu", torch.bfloat16):
            found = attack.perturb(model, images, away, generator=torch.Generator().manual_seed(0))
        assert found.dtype == torch.float32
        assert_inside(found, images, 0.1, "linf")
    first, second = (
        AdaptivePGD(0.1, 6, random_start=0.01, distribution=k).perturb(
            model, images, away, generator=torch.Generator().manual_seed(0)
        )
        for k in (0, 1)
    )
    assert (first - second).abs().max() > 0.01


def test_errors_name_the_argument() -> None:
    for make, message in [
        (lambda: AdaptivePGD(-1.0, 2), "epsilon"), (lambda: AdaptivePGD(0.1, 0), "steps"),
        (lambda: AdaptivePGD(0.1, 2, "l1"), "norm"), (lambda: AdaptivePGD(0.1, 2, restarts=2), "random_start"),
        (lambda: AdaptivePGD(0.1, 2, momentum=0.0), "momentum"), (lambda: PGD(0.1, 2, momentum=-1.0), "momentum"),
        (lambda: AdaptivePGD(0.1, 2, norm_mode="batch"), "norm_mode"), (lambda: SquareAttack(0.1, 1), "queries"),
        (lambda: SquareAttack(0.1, 5, "l2"), "norm: SquareAttack offers 'linf' only"),
        (lambda: SquareAttack(0.1, 5, restarts=0), "restarts"), (lambda: SquareAttack(0.1, 5, area=2.0), "area"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="images"):
        SquareAttack(0.1, 2).perturb(nn.Identity(), torch.rand(3, 4), lambda e: e[:, 0])


def margins(objective: OutOfTopK, embeddings: Tensor) -> Tensor:
    return objective.better_by(embeddings, objective(embeddings))


def test_the_hard_margin_decides_what_is_kept() -> None:
    (images, labels), model = pictures(), trained()
    gallery, own = embed(model, images), torch.arange(len(images))
    # So smooth that the values hardly tell which iterates succeed.
    objective = OutOfTopK(labels, gallery, labels, own, temperature=0.5)
    similarity = (gallery @ gallery.T).fill_diagonal_(-torch.inf)
    same = labels[:, None] == labels
    expected = similarity.masked_fill(~same, -torch.inf).amax(1) - similarity.masked_fill(same, -torch.inf).amax(1)
    torch.testing.assert_close(margins(objective, gallery), expected)

    def by_value(embeddings: Tensor) -> Tensor:
        return objective(embeddings)

    for attack in (PGD(0.1, 12, 0.05, keep_best=True), AdaptivePGD(0.1, 12)):
        by_margin = margins(objective, embed(model, attack.perturb(model, images, objective)))
        found = margins(objective, embed(model, attack.perturb(model, images, by_value)))
        # The search is the same one, and the best of its iterates by another measure.
        assert (by_margin <= found + 1e-5).all() and (by_margin < found - 1e-3).any()
    halves = [OutOfTopK(labels[part], gallery, labels, own[part]) for part in (slice(0, 24), slice(24, 48))]
    joined = Joined(halves, [24, 24])
    torch.testing.assert_close(joined.better_by(gallery, joined(gallery)), expected)


def test_any_number_beats_none() -> None:
    nan = float("nan")
    values, best = torch.tensor([1.0, nan, nan, 2.0]), torch.tensor([nan, nan, 1.0, 1.0])
    assert improves(values, best, True).tolist() == [True, False, False, True]
    assert improves(values, best, False).tolist() == [True, False, False, False]
    images = torch.full((3, 1, 4, 4), 0.5)

    def objective(embeddings: Tensor) -> Tensor:
        # No number at the clean image, though a gradient.
        return torch.where((embeddings == 0.5).all(1), nan, 0.0) + embeddings.mean(1)

    for attack in (SquareAttack(0.1, 5), PGD(0.1, 2, keep_best=True), AdaptivePGD(0.1, 2)):
        start = {} if isinstance(attack, SquareAttack) else {"noise": torch.zeros_like(images)}
        found = attack.perturb(nn.Flatten(), images, objective, generator=torch.Generator().manual_seed(0), **start)
        assert objective(found.flatten(1)).isfinite().all()
