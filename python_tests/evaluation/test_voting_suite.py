"""A model that votes, judged by the suite: every route, figures by voting, and reports that compare."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import RECALLS, Cracking, Projection, blobs, entries, on_grid

from robustdml_ext.evaluation import (
    evaluate,
    evaluate_under,
    judge_robustness,
    judge_threats,
    rank_models,
    standard_threat,
    sweep,
    voted_recall_at_k,
)
from robustdml_ext.evaluation.attacked import attack_subject
from robustdml_ext.evaluation.figures import Wanted, clean_ranks, measure, measure_attacked, wanted_of
from robustdml_ext.evaluation.subject import Embedded, Subject
from robustdml_ext.models import Ensemble


class Coded(nn.Module):
    """Reads a class from four bright or dark pixels, the same whatever small changes they have."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(40 * (images[:, 0, 0, :4] - 0.5))


class Fragile(nn.Module):
    """Reads a class from faint marks alone, which a small change wipes out."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tanh(40 * (images[:, 0, 1, :4] - 0.5))


def coded(count: int = 32) -> list[tuple[Tensor, Tensor]]:
    labels = torch.arange(count) % 4
    pixels = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    marks = F.one_hot(labels, 4).float()
    pixels[:, 0, 0] = marks
    pixels[:, 0, 1] = 0.5 + 0.04 * (marks - 0.5)
    return [(pixels[:20], labels[:20]), (pixels[20:], labels[20:])]


def three(inference: str = "vote") -> Ensemble:
    return Ensemble([Projection(seed, size) for seed, size in ((0, 4), (1, 8), (2, 5))], inference)


def test_one_broken_member_of_three_is_outvoted() -> None:
    images, model = coded(), Ensemble([Fragile(), Coded(), Coded()], "vote")
    report = judge_robustness(model, images, epsilons=(0.1,), attacks=("out", "away", "stax"), steps=6, checks=False)
    lone = judge_robustness(Fragile(), images, epsilons=(0.1,), attacks=("out",), steps=6, checks=False)
    assert lone.entries[0]["metrics"]["recall@1"] == 1
    assert entries(lone, "linf", 0.1)["out"]["metrics"]["recall@1"] == 0
    found = entries(report, "linf", 0.1)
    for name in ("out", "away", "stax"):
        assert found[name]["metrics"]["recall@1"] == 1
        assert set(found[name]["routes"]) == {"whole", "average", "member 0", "member 1", "member 2"}
    for name in ("away", "stax"):
        assert found[name]["metrics"]["nmi"] == found[name]["metrics"]["f1"] == 1
    # The member itself is broken within that ensemble as it is alone.
    subject = Subject(model, images)
    broken = attack_subject(subject, standard_threat("out", 0.1, steps=6), route=model.members[0]).embedded
    arguments = (subject.labels, (4,), 1, broken.gallery[:, :4], subject.labels)
    assert voted_recall_at_k(broken.queries[:, :4], *arguments, exclude_self=True) == {1: 0}


@pytest.mark.parametrize("gallery", [None, blobs(24, seed=3)])
def test_clean_figures_are_those_of_evaluate_with_voters(gallery: list[tuple[Tensor, Tensor]] | None) -> None:
    model, images = three(), blobs()
    entry = judge_threats(model, images, [], gallery=gallery, metrics="all")[0]
    subject = Subject(model, images, gallery)
    clean, apart = subject.clean(), {}
    if gallery is not None:
        apart = {"gallery": clean.gallery, "gallery_labels": subject.gallery_labels}
    assert subject.voters == (4, 8, 5)
    assert entry["metrics"] == evaluate(clean.queries, subject.labels, **apart, metrics="all", voters=(4, 8, 5))
    assert Subject(three("concatenate"), images).voters is None


@pytest.mark.parametrize("name", ["away", "out", "candidate-lower"])
def test_attacked_figures_are_by_voting(name: str) -> None:
    model, images = three(), blobs()
    threat = standard_threat(name, 0.08, steps=4, route="whole")
    subject = Subject(model, images)
    found = attack_subject(subject, threat).embedded
    metrics = evaluate_under(model, images, threat)
    labels = subject.labels
    gallery = () if name == "away" else (found.gallery, labels)
    expected = voted_recall_at_k(found.queries, labels, (4, 8, 5), (1, 2, 4, 8), *gallery, exclude_self=True)
    assert {f"recall@{k}": value for k, value in expected.items()}.items() <= metrics.items()
    plain = evaluate_under(three("concatenate"), images, threat)
    assert any(plain[f"recall@{k}"] != metrics[f"recall@{k}"] for k in (1, 2, 4, 8))
    # The attack is the same, and candidates are ranked by the members side by side.
    assert plain.get("rank") == metrics.get("rank")
    if name == "away":
        assert metrics["nmi"] == evaluate(found.queries, labels, metrics="clustering", voters=(4, 8, 5))["nmi"]
        assert plain["pi_ratio"] == metrics["pi_ratio"]
    (swept,) = sweep(model, images, threat, epsilons=None)[1:]
    assert swept["metrics"] == metrics


@pytest.mark.parametrize("name", ["gallery-raise", "gallery-lower"])
@pytest.mark.parametrize("gallery", [None, blobs(24, seed=3)])
def test_moved_gallery_items_are_voted_on(name: str, gallery: list[tuple[Tensor, Tensor]] | None) -> None:
    model, images = three(), blobs(24)
    subject = Subject(model, images, gallery)
    threat = standard_threat(name, 0.2, steps=5, route="whole")
    attacked = attack_subject(subject, threat)
    figures = measure_attacked(subject, attacked, threat, RECALLS)
    assert attacked.candidates is not None and attacked.moved is not None
    for query in range(24):
        items = subject.clean().gallery.clone()
        items[attacked.candidates[query, 0]] = attacked.moved[query]
        alone = measure_attacked(
            subject, type(attacked)(Embedded(subject.clean().queries, items), attacked.perturbation), threat, RECALLS
        )
        assert alone.ahead[query] == figures.ahead[query]
    still = type(attacked)(
        subject.clean(), attacked.perturbation, attacked.candidates, subject.clean().gallery[attacked.candidates[:, 0]]
    )
    unmoved = measure_attacked(subject, still, threat, RECALLS)
    assert torch.equal(unmoved.ahead, measure(subject, subject.clean(), RECALLS).ahead)
    assert unmoved.metrics["rank"] == clean_ranks(subject, attacked, threat) != figures.metrics["rank"]


def test_the_worst_route_counts_for_each_query_and_checks_see_votes() -> None:
    report = judge_robustness(
        three(), blobs(), epsilons=(0.03, 0.08), attacks=("out", "square", "gallery-lower"), steps=6, queries=40
    )
    entry = entries(report, "linf", 0.08)["out"]
    assert len(entry["routes"]) == 5
    assert entry["metrics"]["recall@1"] <= min(one["recall@1"] for one in entry["routes"].values())
    assert entries(report, "linf", 0.08)["worst"]["metrics"]["recall@1"] <= entry["metrics"]["recall@1"] < 0.8
    assert 0 < report.score < 1 and {check["check"] for check in report.checks} > {"more steps", "black box"}


def test_a_report_says_that_its_model_votes_and_compares_with_one_that_does_not() -> None:
    options = {"epsilons": (0.05,), "attacks": ("out",), "steps": 2, "checks": False, "clustering": False}
    reports = {name: judge_robustness(three(name), blobs(), **options) for name in ("vote", "concatenate")}
    reports["single"] = judge_robustness(Projection(), blobs(), **options)
    assert reports["vote"].protocol["inference"] == "vote of 3"
    assert "inference" not in reports["concatenate"].protocol and "inference" not in reports["single"].protocol
    assert len({report.protocol["fingerprint"] for report in reports.values()}) == 1
    assert {name for name, _ in rank_models(reports)} == set(reports)
    json.dumps(reports["vote"].to_json(), allow_nan=False)
    other = judge_robustness(three(), blobs(), **options, seed=1)
    with pytest.raises(ValueError, match=r"judged differently, in seed$"):
        rank_models({"a": reports["single"], "b": other})


def test_embeddings_that_are_no_numbers_are_misses_of_the_vote() -> None:
    model = Ensemble([Cracking(0), Projection(1), Projection(2)], "vote")
    images = on_grid(blobs())
    for name in ("away", "out", "gallery-lower", "candidate-raise"):
        clean, entry = judge_threats(model, images, [standard_threat(name, 0.0503, steps=1, algorithm="pgd")])
        assert clean["metrics"]["recall@1"] == 1
        assert entry["metrics"]["recall@1"] == entry["metrics"]["recall@8"] == 0


def test_voters_that_do_not_fit_the_embeddings_are_refused() -> None:
    model = Projection()
    for voters, error in (((4, 5), ValueError), ([nn.Identity()], TypeError)):
        model.__dict__["voters"] = voters
        with pytest.raises(error, match="voters: expected"):
            judge_threats(model, blobs(), [])


def test_recall_is_monotone_in_depth() -> None:
    subject = Subject(three(), blobs(40, classes=10))
    noise = torch.randn(40, 17, generator=torch.Generator().manual_seed(0))
    embedded = Embedded(noise, noise)
    recalls = list(measure(subject, embedded, Wanted(tuple(range(1, 20)), groups=())).metrics.values())
    assert recalls == sorted(recalls) and 0 < recalls[0] < recalls[-1]
    assert wanted_of((4,), True, 0).recall_at == (1, 4)
