"""Several members attacked at once: sums of objectives and of their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from victims import assert_inside, away, embed, pictures, trained

from robustdml_ext.attacks import (
    PGD,
    AwayFromClean,
    FromStart,
    JointAttack,
    SideBySide,
    Summed,
    TowardsTargets,
)


def test_sum_of_gradients_is_the_gradient_of_the_sum() -> None:
    images = pictures()[0].double()
    members = [nn.Sequential(nn.Flatten(), nn.Linear(64, width)).double() for width in (3, 5)]
    objectives = [AwayFromClean(torch.randn(48, width, dtype=torch.float64), "l2") for width in (3, 5)]
    gradients = []
    for member, objective in zip(members, objectives, strict=True):
        leaf = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(objective(member(leaf)).sum(), leaf)[0])
    together, leaf = SideBySide(members), images.clone().requires_grad_()
    summed = Summed(objectives, [3, 5])
    embeddings = together(leaf)
    assert together.widths == [3, 5] and summed.maximize
    (gradient,) = torch.autograd.grad(summed(embeddings).sum(), leaf)
    torch.testing.assert_close(gradient, sum(gradients))
    # Equation 10 of EAT: one step along the sign of the sum.
    found = JointAttack(PGD(0.1, 1, 0.03)).perturb(list(zip(members, objectives, strict=True)), images)
    torch.testing.assert_close(found, (images + 0.03 * sum(gradients).sign()).clamp(0, 1))


def test_joint_attack_moves_every_member_and_starts_its_objectives() -> None:
    images, members = pictures()[0], [trained(0), trained(1)]
    attack = JointAttack(PGD(0.1, 6, 0.03, random_start=0.01))
    found = attack.perturb(
        [(member, FromStart(AwayFromClean, maximize=True)) for member in members], images,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    assert_inside(found, images, 0.1, "linf")
    for member in members:
        moved = away(member)(embed(member, found)).mean()
        alone = attack.attack.perturb(member, images, away(member), generator=torch.Generator().manual_seed(0))
        assert moved > 0.3 * away(member)(embed(member, alone)).mean()


def test_sums_that_do_not_fit_are_named() -> None:
    bank = torch.randn(48, 8)
    with pytest.raises(ValueError, match="some are to be minimized"):
        Summed([AwayFromClean(bank), TowardsTargets(bank, torch.zeros(48, 1, dtype=torch.int64))], [8, 8])
    with pytest.raises(ValueError, match="widths: expected 1 numbers that add up to 8"):
        Summed([AwayFromClean(bank)], [5])(bank)
    for make in (lambda: Summed([], []), lambda: SideBySide([])):
        with pytest.raises(ValueError, match="expected at least one"):
            make()
