"""Some images under attack: the attack is the suite's own, and its images can be looked at."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from toys import Projection, Quantized, Vote, blobs

from robustdml_ext.evaluation import (
    ClassThreat,
    Subject,
    ThreatModel,
    attack_classified_images,
    attack_dataset,
    attack_images,
    standard_threat,
)
from robustdml_ext.evaluation.answers import right
from robustdml_ext.models import Ensemble, PrototypicalClassifier, PrototypicalHeads

STAX = ThreatModel("stax", 0.1, 4)
ROWS = torch.tensor([40, 3, 17, 62, 0])


def _pixels(images: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.cat([pixels for pixels, _ in images])


@pytest.mark.parametrize("name", ["stax", "mtax", "out", "square"])
def test_images_are_those_that_the_whole_attack_judges(name: str) -> None:
    threat = replace(standard_threat(name, 0.1, steps=4), route="whole")
    images, model = blobs(), Projection()
    found = attack_images(Subject(model, images), threat, ROWS, seed=2)
    assert found.rows.tolist() == sorted(ROWS.tolist()) == found.kept.tolist()
    assert torch.equal(found.clean, _pixels(images)[found.rows])
    moved = (found.attacked - found.clean).abs()
    assert (
        0 < float(moved.max()) <= 0.1 + 1e-6 and float(found.attacked.min()) >= 0 and float(found.attacked.max()) <= 1
    )
    with torch.no_grad():
        assert torch.allclose(model(found.attacked), found.embeddings, atol=1e-6)
    if name in ("stax", "mtax"):  # of the others the search is random, and draws for the whole batch
        every, _ = attack_dataset(model, images, threat, seed=2)
        assert torch.allclose(found.embeddings, every[found.rows], atol=1e-5)


def test_pixels_are_kept_of_those_asked_for_alone() -> None:
    subject = Subject(Projection(), blobs())
    every = attack_images(subject, STAX, ROWS)
    some = attack_images(subject, STAX, ROWS, keep=torch.tensor([62, 17]))
    none = attack_images(subject, STAX, ROWS, keep=torch.empty(0, dtype=torch.int64))
    assert some.kept.tolist() == [17, 62] and torch.equal(some.attacked, every.attacked[[2, 4]])
    assert torch.equal(some.embeddings, every.embeddings) and torch.equal(none.embeddings, every.embeddings)
    assert not len(none.kept) and not len(none.attacked)
    assert torch.equal(every.embeddings_of(torch.tensor([62, 3, 3])), every.embeddings[[4, 1, 1]])
    with pytest.raises(ValueError, match=r"rows: expected rows that were attacked, got \[5\]"):
        every.embeddings_of(torch.tensor([3, 5]))


def test_a_separate_gallery_stays_clean() -> None:
    images, gallery = blobs(), blobs(32, seed=5)
    subject = Subject(Projection(), images, gallery)
    found = attack_images(subject, STAX, ROWS, seed=1)
    assert torch.equal(found.clean, _pixels(images)[found.rows])
    assert torch.equal(subject.clean().gallery, Subject(Projection(), gallery).clean().queries)


@pytest.mark.parametrize("model", [Vote(), Ensemble([Projection(0), Projection(1)], "vote")])
def test_through_every_route_an_image_is_what_the_first_that_breaks_it_made(model: nn.Module) -> None:
    subject, threat, rows = Subject(model, blobs()), standard_threat("out", 0.03, steps=3), torch.arange(64)
    found = attack_images(subject, threat, rows)
    survives = right(subject, found.embeddings, rows)
    routes = ["whole", "average", "member 0", "member 1", *(["sum"] if isinstance(model, Vote) else [])]
    by_route = [attack_images(subject, replace(threat, route=name), rows) for name in routes]
    each = torch.stack([right(subject, one.embeddings, rows) for one in by_route])
    assert torch.equal(survives, each.all(0)) and 0 < int(survives.sum()) < int(each.sum(1).max())
    # Of the members side by side no single route does it all.
    assert isinstance(model, Vote) or int(survives.sum()) < int(each.sum(1).min())
    made = torch.stack([(one.attacked == found.attacked).flatten(1).all(1) for one in by_route])
    assert bool((made & ~each).any(0)[~survives].all()) and bool(made.any(0).all())
    with torch.no_grad():
        assert torch.allclose(subject.model(found.attacked), found.embeddings, atol=1e-6)


def test_a_classifier_is_attacked_through_its_logits() -> None:
    torch.manual_seed(0)
    encoder = Projection()
    classifier = PrototypicalClassifier(encoder, PrototypicalHeads(4, 8, 16)).eval()
    subject = Subject(encoder, blobs())
    threat = ClassThreat("pgd", 0.1, 5, random_start=0.0)
    found = attack_classified_images(subject, classifier, threat, ROWS, keep=ROWS[:2])
    assert found.rows.tolist() == sorted(ROWS.tolist()) and found.kept.tolist() == [3, 40]
    labels = subject.labels[found.kept]
    losses = [nn.functional.cross_entropy(classifier(x), labels) for x in (found.clean, found.attacked)]
    assert losses[1] > losses[0] and float((found.attacked - found.clean).abs().max()) <= 0.1 + 1e-6
    with torch.no_grad():
        assert torch.allclose(encoder(found.attacked), found.embeddings_of(found.kept), atol=1e-6)
    few = PrototypicalClassifier(encoder, PrototypicalHeads(3, 8, 16)).eval()
    with pytest.raises(ValueError, match="expected labels below 3, which have a prototype; got 3"):
        attack_classified_images(subject, few, threat, ROWS)


def test_what_cannot_be_attacked_is_refused() -> None:
    subject = Subject(Projection(), blobs())
    for rows, message in (
        (torch.empty(0, dtype=torch.int64), "at least 1"),
        (torch.tensor([1, 1]), "1 of them different"),
        (torch.tensor([64]), "expected 0 to 63, got 64"),
        (torch.tensor([-1]), "expected 0 to 63, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            attack_images(subject, STAX, rows)
    for wrong in ([1], torch.tensor([1.0]), torch.tensor([[1]])):
        with pytest.raises(TypeError, match="int64 vector"):
            attack_images(subject, STAX, wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep: expected rows that were attacked"):
        attack_images(subject, STAX, ROWS, keep=torch.tensor([1]))
    with pytest.raises(ValueError, match="moves a gallery item"):
        attack_images(subject, standard_threat("gallery-raise", 0.1), ROWS)
    with pytest.raises(ValueError, match="at least 2 classes"):
        attack_images(Subject(Projection(), blobs(classes=1)), STAX, ROWS)
    with pytest.raises(ValueError, match="needs a gradient, and none comes through"):
        attack_images(Subject(Detached(), blobs()), standard_threat("out", 0.1), ROWS)


class Detached(Quantized):
    """No gradient at all."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach()).detach()
