"""AdaptivePGD: its paper's checkpoints and algorithm, and at least what PGD reaches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from victims import embed, objectives, pictures, trained

from robustdml_ext.attacks import (
    PGD,
    AdaptivePGD,
)
from robustdml_ext.attacks.adaptive import checkpoints


def test_checkpoints_are_the_papers() -> None:
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(10) == [3, 5, 6, 7, 8, 9, 10]
    assert checkpoints(1) == [1]


def written_out(f: Any, x0: Tensor, epsilon: float, steps: int) -> Tensor:
    """Algorithm 1 of Croce & Hein for one sample and a value to be made small, line by line."""

    def project(x: Tensor) -> Tensor:
        return x.clamp(x0 - epsilon, x0 + epsilon).clamp(0, 1)

    def gradient(x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return torch.autograd.grad(f(x), x)[0]

    eta, value = 2 * epsilon, lambda x: float(f(x).detach())
    xs = [x0, project(x0 - eta * gradient(x0).sign())]
    best = min(xs, key=value)
    etas, bests, improved, looks = [eta], [value(x0)], [value(xs[1]) < value(x0)], [0, *checkpoints(steps)]
    k = 1
    while True:
        if k in looks:
            j = looks.index(k)
            since = improved[looks[j - 1] : k]
            first = sum(since) < 0.75 * (k - looks[j - 1])
            second = len(etas) > 1 and etas[-1] == etas[-2] and bests[-1] == value(best)
            etas.append(eta / 2 if first or second else eta)
            if first or second:
                eta, xs[-1] = eta / 2, best
            bests.append(value(best))
        if k == steps:
            return best
        z = project(xs[-1] - eta * gradient(xs[-1]).sign())
        xs.append(project(xs[-1] + 0.75 * (z - xs[-1]) + 0.25 * (xs[-1] - xs[-2])))
        improved.append(value(xs[-1]) < value(xs[-2]))
        if value(xs[-1]) < value(best):
            best = xs[-1]
        k += 1


def test_adaptive_is_the_papers_algorithm() -> None:
    class Wavy(nn.Module):
        """Valleys of many widths, so that samples halve their steps at different checkpoints."""

        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1)

    center = torch.rand(40, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    rate = torch.linspace(1, 60, 40, dtype=torch.float64)[:, None]
    images = torch.rand(40, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def objective(rows: Tensor, pick: slice = slice(None)) -> Tensor:
        away = rows - center[pick]
        return (away.square() + 0.2 * torch.cos(rate[pick] * away)).sum(1)

    # At 40 steps both conditions decide, each for samples of its own.
    for steps in (1, 9, 40):
        found = AdaptivePGD(0.2, steps).perturb(Wavy(), images, objective)
        for i in range(40):
            row = slice(i, i + 1)
            one = written_out(lambda x, row=row: objective(x.flatten(1), row).sum(), images[row], 0.2, steps)
            torch.testing.assert_close(found[row], one, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["towards", "away", "topk", "rank"])
def test_adaptive_reaches_at_least_what_pgd_does(name: str) -> None:
    model, images, objective = trained(), pictures()[0], objectives()[name]
    reached = {"pgd": 0.0, "adaptive": 0.0}
    for seed in range(4):
        for kind, attack in (
            ("pgd", PGD(0.06, 20, random_start=0.06, keep_best=True)),
            ("adaptive", AdaptivePGD(0.06, 20, random_start=0.06)),
        ):
            found = attack.perturb(model, images, objective, generator=torch.Generator().manual_seed(seed))
            value = float(objective(embed(model, found)).mean())
            reached[kind] += -value if objective.maximize else value
    assert reached["adaptive"] <= reached["pgd"] + 1e-4 * abs(reached["pgd"])


def test_adaptive_keeps_the_best_and_improves_with_restarts() -> None:
    model, images = trained(), pictures()[0]
    objective = objectives()["topk"]
    for norm, epsilon in (("linf", 0.05), ("l2", 0.4)):
        values = {}
        for restarts in (1, 3):
            attack = AdaptivePGD(epsilon, 8, norm, random_start=epsilon, restarts=restarts)
            found = attack.perturb(model, images, objective, generator=torch.Generator().manual_seed(0))
            embeddings = embed(model, found)
            values[restarts] = objective.better_by(embeddings, objective(embeddings))
        # Where the search is the same one, rounding may still part two equally good iterates.
        assert (values[3] <= values[1] + 1e-5).all() and (values[3] < values[1] - 1e-4).any()
        started = objective(embed(model, images))
        assert (objective(embed(model, AdaptivePGD(epsilon, 8, norm).perturb(model, images, objective)))
                <= started + 1e-5).all()  # fmt: skip
