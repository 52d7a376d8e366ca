"""What the robustness suite attacks: queries, gallery items, ensembles, models without gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toys import Projection, Vote, blobs, entries

from robustdml_ext.evaluation import (
    ATTACKS,
    STANDARD,
    evaluate_under,
    judge_robustness,
    recall_at_k,
)
from robustdml_ext.evaluation.attacked import attack_subject
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.threats import standard_threat


class Detached(Projection):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


@pytest.mark.parametrize("name", [name for name in STANDARD if ATTACKS[name].attacked == "queries"])
def test_query_attacks_leave_the_gallery_clean(name: str) -> None:
    model, images = Projection(), blobs()
    subject = Subject(model, images)
    route = Projection(5) if name == "transfer" else model
    # So little that each query's own clean image stays its nearest, and must be left out.
    threat = standard_threat(name, 0.01, steps=4)
    attacked = attack_subject(subject, threat, route=route)
    clean = subject.clean()
    assert torch.equal(attacked.embedded.gallery, clean.queries)
    assert (attacked.embedded.queries - clean.queries).norm(dim=1).max() > 0.01
    expected = recall_at_k(
        attacked.embedded.queries, subject.labels, 1, clean.queries, subject.labels, exclude_self=True
    )
    if name != "transfer":
        assert evaluate_under(model, images, threat)["recall@1"] == expected[1] < 1


def test_a_moved_gallery_item_counts_for_its_query_alone() -> None:
    model, images = Projection(), blobs(24)
    subject = Subject(model, images)
    for name in ("gallery-raise", "gallery-lower"):
        threat = standard_threat(name, 0.2, steps=5)
        attacked = attack_subject(subject, threat, route=model)
        metrics = evaluate_under(model, images, threat)
        clean, labels = subject.clean().queries, subject.labels
        hits, ranks = [], []
        for query in range(24):
            gallery, candidate = clean.clone().double(), int(attacked.candidates[query, 0])
            assert (labels[candidate] == labels[query]) == (name == "gallery-lower") and candidate != query
            gallery[candidate] = attacked.moved[query].double()
            cosines = torch.cosine_similarity(clean[query].double()[None], gallery)
            cosines[query] = -2
            order = cosines.argsort(descending=True, stable=True)[:-1]
            hits.append(bool(labels[order[0]] == labels[query]))
            ranks.append(order.tolist().index(candidate) / 22)
        assert metrics["recall@1"] == sum(hits) / 24
        assert metrics["rank"] == pytest.approx(sum(ranks) / 24)


def test_a_gallery_of_its_own() -> None:
    queries, gallery = blobs(40), blobs(56, seed=3)
    report = judge_robustness(
        Projection(), queries, gallery=gallery, epsilons=(0.15,), steps=5, queries=20, checks=False, clustering=False
    )
    clean = report.entries[0]["metrics"]["recall@1"]
    model = Projection()
    with torch.no_grad():
        found = [[torch.cat(part) for part in zip(*side, strict=True)] for side in (queries, gallery)]
        expected = recall_at_k(model(found[0][0]), found[0][1], 1, model(found[1][0]), found[1][1])[1]
    assert clean == expected
    here = entries(report, "linf", 0.15)
    for name in ("out", "loss", "both", "gallery-raise"):
        assert here[name]["metrics"]["recall@1"] < clean
    assert report.protocol["gallery"] == 56


def test_ensembles_are_attacked_by_every_route() -> None:
    model, images = Vote(), blobs()
    easy = evaluate_under(model, images, standard_threat("out", 0.08, steps=8, route="whole"))["recall@1"]
    report = judge_robustness(model, images, epsilons=(0.08,), attacks=("out", "away", "gallery-lower"), steps=8)
    entry = entries(report, "linf", 0.08)["out"]
    assert easy > 0.95 and entry["routes"]["whole"]["recall@1"] == easy
    assert set(entry["routes"]) == {"whole", "average", "member 0", "member 1", "sum"}
    assert entry["metrics"]["recall@1"] <= min(one["recall@1"] for one in entry["routes"].values()) < 0.6
    assert any("whole (100%)" in warning for warning in report.warnings)
    lower = entries(report, "linf", 0.08)["gallery-lower"]
    assert lower["metrics"]["rank"] >= max(one["rank"] for one in lower["routes"].values())


def test_without_any_gradient_only_the_black_box_attacks() -> None:
    report = judge_robustness(
        Detached(),
        blobs(),
        epsilons=(0.12,),
        attacks=("out", "away", "candidate-raise", "square"),
        steps=4,
        queries=60,
    )
    here = entries(report, "linf", 0.12)
    assert here["out"]["metrics"]["recall@1"] == 1 and here["out"]["perturbation"]["linf_max"] == 0
    assert here["square"]["metrics"]["recall@1"] < 0.7
    failed = {check["check"] for check in report.checks if not check["passed"]}
    assert {"gradient flow", "black box", "huge epsilon"} <= failed


def test_transfer_uses_the_gradients_of_another_model_alone() -> None:
    images = blobs()
    black_box = evaluate_under(Detached(), images, standard_threat("transfer", 0.15, steps=6))
    assert black_box["recall@1"] < 0.6
    options = {"epsilons": (0.15,), "attacks": ("transfer",), "steps": 6, "checks": False}
    judged = [judge_robustness(Detached(), images, surrogate=Projection(seed), **options) for seed in (0, 3)]
    # The twin's gradients are the model's own; a stranger's are of less use.
    twin, stranger = (entries(report, "linf", 0.15)["transfer"] for report in judged)
    assert twin["metrics"]["recall@1"] < 0.1 < stranger["metrics"]["recall@1"]
    assert twin["threat"]["surrogate"].startswith("Projection ") and list(twin["routes"]) == ["surrogate"]
    assert judged[0].protocol["surrogate"] != judged[1].protocol["surrogate"]
