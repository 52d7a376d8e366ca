"""The surrogate that black-box attacks are made on: what it is taught, and by which generator."""

from __future__ import annotations

import pytest
import torch
from toys import Projection, blobs

from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.surrogate import _remembered, distilled_surrogate


def test_the_surrogate_is_taught_images_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdml_ext.evaluation.surrogate._MOST_IMAGES", 12)
    batches = blobs(60)
    pixels, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    order = labels.argsort(stable=True)
    sorted_by_class = list(zip(pixels[order].split(7), labels[order].split(7), strict=True))
    subject = Subject(Projection(), sorted_by_class, blobs(20, seed=3))
    remembered, rows = _remembered(subject)
    assert len(rows) == len(remembered) == 12 and rows[0] == 0 and rows[-1] == 79 and rows.diff().min() >= 7
    everything = torch.cat([pixels[order], *[x for x, _ in blobs(20, seed=3)]])
    assert torch.equal(remembered, everything[rows])
    assert set(subject.all_labels[rows[rows < 60]].tolist()) == {0, 1, 2, 3}


def test_teaching_leaves_every_generator_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustdml_ext.evaluation.surrogate._UPDATES", 2)
    seeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    state = torch.get_rng_state()
    first, second = (distilled_surrogate(Subject(Projection(), blobs()), seed=3) for _ in range(2))
    assert seeded == [] and torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
