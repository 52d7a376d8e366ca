"""EAT against Algorithm 1 written out, and without its key ideas: the split, the self-transfer, β."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from methods.written_out import batch, network, pgd, proxy_anchor
from torch import Tensor

from robustdml_ext.attacks import PGD
from robustdml_ext.losses import ProxyAnchorLoss
from robustdml_ext.methods import EAT, Batch, Context, NaiveEnsemble, split_into_parts
from robustdml_ext.models import EmbedderEnsemble

EPSILON, STEPS, START, N = 0.1, 3, 0.02, 3
PARTS = torch.tensor([0, 1, 2] * 5)


def method(parts: Tensor | None = PARTS, **options: Any) -> EAT:
    ensemble = EmbedderEnsemble([network(seed) for seed in range(N)], "concatenate")
    torch.manual_seed(7)
    losses = [ProxyAnchorLoss(4, 8).double() for _ in range(N)]
    return EAT(ensemble, losses, parts, PGD(EPSILON, STEPS, random_start=START), **options)


def algorithm_1(eat: EAT, data: Batch, beta: float, split: bool, self_transfer: bool) -> Tensor:
    """Lines 4 to 10, one member after the other: the sum of the members' losses."""
    generator, total = torch.Generator().manual_seed(2), torch.zeros((), dtype=torch.float64)
    members, assigned = list(eat.ensemble.members), []
    together = eat.attack.draw_noise(data.images, generator) if self_transfer else None
    for i in range(N):  # all on the members as they are before any of them trains
        assert data.indices is not None
        rows = [r for r in range(len(data.labels)) if not split or PARTS[data.indices[r]] != i]
        noise = eat.attack.draw_noise(data.images[rows], generator) if together is None else together[rows]
        assert noise is not None
        attacked = members if self_transfer else [members[i]]
        assigned.append((rows, pgd(attacked, data.images[rows], noise, EPSILON, STEPS)))
    for i, (rows, adversarial) in enumerate(assigned):
        labels, proxies = data.labels[rows], eat.loss[i].proxies
        clean, moved = members[i](torch.cat([data.images[rows], adversarial])).chunk(2)
        total = total + beta * proxy_anchor(clean, proxies, labels)
        total = total + (1 - beta) * proxy_anchor(moved, proxies, labels)
    return total


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("self_transfer", [False, True])
@pytest.mark.parametrize("split", [False, True])
def test_a_step_is_algorithm_1(split: bool, self_transfer: bool, beta: float) -> None:
    joint = method(PARTS if split else None, beta=beta, self_transfer=self_transfer)
    plain, data = copy.deepcopy(joint), batch()
    output = joint.training_step(data, torch.Generator().manual_seed(2), Context())
    output.loss.backward()
    loss = algorithm_1(plain, data, beta, split, self_transfer)
    loss.backward()
    torch.testing.assert_close(output.loss, loss, rtol=1e-8, atol=1e-10)
    for (name, p), q in zip(joint.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-6, atol=1e-9, msg=name)
    for (name, b), c in zip(joint.named_buffers(), plain.named_buffers(), strict=True):
        torch.testing.assert_close(b, c[1], rtol=1e-8, atol=1e-10, msg=name)


@pytest.mark.parametrize(
    "off", [{"parts": None}, {"self_transfer": False}, {"beta": 1.0}, {"label_vectors": "embeddings"}]
)
def test_every_idea_changes_the_step(off: dict[str, Any]) -> None:
    data = batch()
    gradients = []
    for options in ({}, off):
        eat = method(**options)
        eat.training_step(data, torch.Generator().manual_seed(2), Context()).loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in eat.ensemble.members[0].parameters()]))
    assert (gradients[0] - gradients[1]).norm() > 0.05 * gradients[0].norm()


def test_no_member_sees_its_own_part(monkeypatch: pytest.MonkeyPatch) -> None:
    eat, data, seen = method(), batch(), {}
    for number, member in enumerate(eat.ensemble.members):
        forward = member.forward

        def spy(images: Tensor, *rest: Any, number: int = number, forward: Any = forward, **options: Any) -> Tensor:
            if torch.is_grad_enabled() and eat.ensemble.members[number].training:
                seen[number] = images
            return forward(images, *rest, **options)

        monkeypatch.setattr(member, "forward", spy)
    eat.train()
    eat.training_step(data, torch.Generator().manual_seed(2), Context())
    assert data.indices is not None
    for number in range(N):
        kept = data.images[PARTS[data.indices] != number]
        assert torch.equal(seen[number][: len(kept)], kept)
        assert len(seen[number]) == 2 * len(kept)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 9))
def test_parts_are_even_in_all_and_in_every_class(labels: list[int], count: int, seed: int) -> None:
    classes = torch.tensor(labels)
    parts = split_into_parts(classes, count, seed)
    assert torch.equal(parts, split_into_parts(classes, count, seed))
    for chosen in (torch.ones(len(labels), dtype=torch.bool), *(classes == c for c in set(labels))):
        sizes = torch.bincount(parts[chosen], minlength=count)
        assert sizes.max() - sizes.min() <= 1


def test_another_seed_is_another_split() -> None:
    classes = torch.arange(90) % 3
    assert not torch.equal(split_into_parts(classes, 3, 0), split_into_parts(classes, 3, 1))


def test_a_naive_ensemble_trains_each_member_as_if_alone() -> None:
    data = batch(36)
    ensemble = EmbedderEnsemble([network(seed) for seed in range(N)], "concatenate")
    torch.manual_seed(7)
    losses = [ProxyAnchorLoss(4, 8).double() for _ in range(N)]
    naive = NaiveEnsemble(ensemble, losses, PGD(EPSILON, STEPS, random_start=START), label_vectors="classes")
    plain = copy.deepcopy(naive)
    assert naive.plans == N
    output = naive.training_step(data, torch.Generator().manual_seed(2), Context())
    generator, total = torch.Generator().manual_seed(2), torch.zeros((), dtype=torch.float64)
    for i, rows in enumerate(torch.arange(36).chunk(N)):
        noise = naive.attack.draw_noise(data.images[rows], generator)
        assert noise is not None
        adversarial = pgd([plain.ensemble.members[i]], data.images[rows], noise, EPSILON, STEPS)
        clean, moved = plain.ensemble.members[i](torch.cat([data.images[rows], adversarial])).chunk(2)
        for embeddings in (clean, moved):
            total = total + 0.5 * proxy_anchor(embeddings, plain.loss[i].proxies, data.labels[rows])
    torch.testing.assert_close(output.loss, total, rtol=1e-8, atol=1e-10)
    with pytest.raises(ValueError, match="one batch a member"):
        naive.training_step(batch(10), torch.Generator().manual_seed(2), Context())


@pytest.mark.parametrize("self_transfer", [True, False])
def test_a_member_whose_part_the_whole_batch_is_learns_nothing_from_it(self_transfer: bool) -> None:
    eat, data = method(self_transfer=self_transfer), batch(6)
    assert data.indices is not None
    eat.training_step(
        data._replace(indices=torch.tensor([0, 3, 6, 9, 12, 0])), torch.Generator(), Context()
    ).loss.backward()
    for number, (member, loss) in enumerate(zip(eat.ensemble.members, eat.losses, strict=True)):
        moved = sum(float(p.grad.abs().sum()) for p in (*member.parameters(), *loss.parameters()) if p.grad is not None)
        assert (moved == 0) == (number == 0)


def test_what_does_not_fit_is_named() -> None:
    ensemble = EmbedderEnsemble([network(0), network(1)], "concatenate")
    losses = [ProxyAnchorLoss(4, 8) for _ in range(2)]
    for arguments, options, named in (
        ((ensemble, losses[:1]), {}, "losses"),
        ((ensemble, losses, torch.tensor([0, 0])), {}, "parts"),
        ((ensemble, losses, torch.tensor([0, 1, 2])), {}, "parts"),
        ((ensemble, losses), {"beta": -0.1}, "beta"),
        ((ensemble, losses), {"attack": PGD(0.1, 2)}, "random_start"),
    ):
        with pytest.raises(ValueError, match=named):
            EAT(*arguments, **options)  # type: ignore[arg-type]
    eat = method()
    with pytest.raises(ValueError, match="indices"):
        eat.training_step(batch()._replace(indices=None), torch.Generator(), Context())
    with pytest.raises(ValueError, match="at most 3 processes"):
        eat.join(Context(4, 0))
    with pytest.raises(TypeError, match="Embedders"):
        EmbedderEnsemble([torch.nn.Identity()])  # type: ignore[list-item]
