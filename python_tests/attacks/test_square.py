"""SquareAttack: squares of ±ε, and no gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from victims import embed, objectives, pictures, trained

from robustdml_ext.attacks import (
    SquareAttack,
)


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
