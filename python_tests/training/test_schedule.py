"""Learning rates by epoch: their formulas, and the same ones in a resumed run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from training.tiny import same, tiny_recipe, tiny_trainer

from robustdml_ext.training import RunRefusedError
from robustdml_ext.training.checkpoint import load_checkpoint
from robustdml_ext.training.schedule import Schedule, learning_rate_factor


def test_factors() -> None:
    cosine = tiny_recipe(schedule="cosine", epochs=4)
    expected = [(1 + math.cos(math.pi * share)) / 2 for share in (0, 1 / 4, 1 / 2, 3 / 4, 1, 1)]
    assert [learning_rate_factor(cosine, epoch, 4) for epoch in range(6)] == pytest.approx(expected)
    step = tiny_recipe(schedule="step", schedule_step=2, schedule_gamma=0.5)
    assert [learning_rate_factor(step, epoch, 5) for epoch in range(5)] == [1, 1, 0.5, 0.5, 0.25]
    assert learning_rate_factor(tiny_recipe(), 100, 200) == 1


def test_every_group_keeps_its_proportion() -> None:
    weights = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [weights[0]], "lr": 0.1}, {"params": [weights[1]], "lr": 10.0}])
    schedule = Schedule(optimizer, tiny_recipe(schedule="step", schedule_step=1, schedule_gamma=0.5), 4)
    for epoch in (3, 1):  # in any order: a function of the epoch alone
        schedule.begin(epoch)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.1 * 0.5**epoch, 10 * 0.5**epoch])


@pytest.mark.parametrize("fields", [{"schedule": "cosine"}, {"schedule": "step", "schedule_step": 1}])
def test_a_resumed_run_has_the_same_rates(tmp_path: Path, fields: dict[str, Any]) -> None:
    recipe = tiny_recipe(epochs=3, save_every=20, keep=9, **fields)
    tiny_trainer(tmp_path / "whole", recipe).run()
    broken = tiny_trainer(tmp_path / "broken", recipe)
    broken.method.die_at = 22  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    tiny_trainer(tmp_path / "broken", recipe).run(go_on=True)
    whole, resumed = (load_checkpoint(tmp_path / name / "last.pt") for name in ("whole", "broken"))
    assert same(whole["method"], resumed["method"]) and same(whole["optimizer"], resumed["optimizer"])
    rate = whole["optimizer"]["param_groups"][0]["lr"]
    assert rate == pytest.approx(0.01 * learning_rate_factor(recipe, 2, 3)) and rate < 0.01
    plain = tiny_trainer(tmp_path / "plain", tiny_recipe(epochs=3))
    plain.run()
    assert not same(whole["method"], load_checkpoint(tmp_path / "plain" / "last.pt")["method"])


def test_a_cosine_cannot_be_stretched(tmp_path: Path) -> None:
    tiny_trainer(tmp_path, tiny_recipe(schedule="cosine", epochs=1)).run()
    with pytest.raises(RunRefusedError, match="epochs: the run has 1, asked for 2"):
        tiny_trainer(tmp_path, tiny_recipe(schedule="cosine", epochs=2)).run(go_on=True)
