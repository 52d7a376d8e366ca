"""Figures of an attacked subject: ranks, the work they take, and where they are computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import RECALLS, Projection, blobs

from robustdml_ext.evaluation import (
    attacked,
)
from robustdml_ext.evaluation.attacked import attack_subject
from robustdml_ext.evaluation.figures import Wanted, clean_ranks, measure, measure_attacked
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.threats import standard_threat


class Constant(Projection):
    def forward(self, images: Tensor) -> Tensor:
        return self.weight[:1].expand(len(images), -1) + 0 * images.flatten(1)[:, :37]


@pytest.mark.parametrize("name", ["gallery-raise", "gallery-lower", "candidate-raise", "candidate-lower"])
@pytest.mark.parametrize("gallery", [None, blobs(24, seed=3)])
def test_where_nothing_changes_ranks_do_not(name: str, gallery: list[tuple[Tensor, Tensor]] | None) -> None:
    # Of so many numbers that the order in which they are added shows.
    subject = Subject(Constant(size=37), blobs(), gallery)
    threat = standard_threat(name, 0.05, steps=1, route="whole")
    found = attack_subject(subject, threat)
    assert found.candidates is not None
    figures = measure_attacked(subject, found, threat, RECALLS)
    assert figures.metrics["rank"] == clean_ranks(subject, found, threat)
    # Everything ties: the index alone decides.
    own = subject.own
    before = found.candidates[:, 0] - (0 if own is None else (own < found.candidates[:, 0]).long())
    others = len(subject.gallery_labels) - 1 - (own is not None)
    assert figures.metrics["rank"] == pytest.approx((before / others).mean().item())
    assert torch.equal(figures.ahead, measure(subject, subject.clean(), RECALLS).ahead)


def test_the_items_pushed_back_are_looked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, original = [], attacked.nearest_right
    monkeypatch.setattr(attacked, "nearest_right", lambda *args: calls.append(args[-1]) or original(*args))
    subject = Subject(Projection(), blobs())
    for epsilon in (0.01, 0.1):
        for name in ("candidate-lower", "gallery-lower"):
            attack_subject(subject, standard_threat(name, epsilon, steps=1, route="whole"))
    assert calls == [torch.device("cpu")]


def test_figures_are_computed_where_the_model_is_but_for_want_of_float64() -> None:
    images = blobs()
    assert Subject(Projection(), images, device="cuda:1").measured_on == torch.device("cuda:1")
    subject = Subject(Projection(), images)
    clean = subject.clean()
    subject.device = torch.device("mps")
    assert subject.measured_on == torch.device("cpu")
    # Fails at the first tensor that is sent to mps, which this build or machine may lack.
    assert measure(subject, clean, Wanted((1,))).metrics["recall@1"] == 1
