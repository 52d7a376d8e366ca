"""AdaptivePGD, SquareAttack and momentum: they stay in their balls, and do what their papers say."""

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
    CandidateRank,
    FromStart,
    Joined,
    OutOfTopK,
    SquareAttack,
    TowardsTargets,
)
from robustdml_ext.attacks.adaptive import checkpoints
from robustdml_ext.attacks.balls import improves


def objectives() -> dict[str, Any]:
    (images, labels), model = pictures(), trained()
    bank, own = embed(model, images), torch.arange(len(images))
    return {
        "towards": TowardsTargets(bank, ((own + 1) % len(own))[:, None]),
        "away": AwayFromClean(bank),
        "topk": OutOfTopK(labels, bank, labels, own),
        "rank": CandidateRank(bank, ((own + 1) % len(own))[:, None], "raise", own),
    }


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


class Stepped(nn.Module):
    """Rounds pixels first, so that no gradient passes."""

    def __init__(self) -> None:
        super().__init__()
        self.network = trained()

    def forward(self, images: Tensor) -> Tensor:
        return self.network((images * 16).round() / 16)


@pytest.mark.parametrize("name", ["towards", "away", "topk", "rank"])
def test_square_needs_no_gradient(name: str) -> None:
    model, images = Stepped(), pictures()[0]
    objective = objectives()[name]
    calls: list[bool] = []
    hook = model.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    found = SquareAttack(0.1, 60).perturb(model, images, objective, generator=torch.Generator().manual_seed(0))
    hook.remove()
    assert calls == [False] * 60
    before, after = (objective(embed(model, x)) for x in (images, found))
    gain = after - before if objective.maximize else before - after
    assert (gain >= 0).all() and (gain > 1e-4).float().mean() > 0.7
    more = SquareAttack(0.1, 60, restarts=2).perturb(
        model, images, objective, generator=torch.Generator().manual_seed(0)
    )
    again = objective(embed(model, more))
    assert ((again >= after) if objective.maximize else (again <= after)).all() and (again != after).any()


def test_square_changes_squares_by_epsilon() -> None:
    images = torch.full((3, 2, 16, 16), 0.5)
    seen: list[Tensor] = []

    class Spy(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(images.clone())
            return images.flatten(1)[:, :2]

    SquareAttack(0.125, 40).perturb(Spy(), images, lambda e: -torch.arange(len(e)) * 1.0 + 0 * e[:, 0])
    assert len(seen) == 40 and torch.equal(seen[0], images)
    assert ((seen[1] - images).abs() == 0.125).all() and (seen[1].diff(dim=2) == 0).all()  # vertical stripes
    areas = []
    for query in seen[2:]:  # nothing improves, so each is one square on the clean image
        changed = query != images
        assert torch.equal(changed[:, 0], changed[:, 1])
        for picture, mask in zip(query, changed[:, 0], strict=True):
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            side = int(rows.max() - rows.min()) + 1
            assert mask.sum() == side**2 and int(columns.max() - columns.min()) + 1 == side
            assert all(len(channel[mask].unique()) == 1 for channel in picture)
            areas.append(side**2 / 256)
    assert areas == sorted(areas, reverse=True) and areas[0] > 0.09 and areas[-1] < 0.01


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
