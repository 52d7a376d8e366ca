"""Embeddings that are NaN: misses, counted, warned of, and never a rank to the defender's liking."""

from __future__ import annotations

import json

import pytest
import torch
from toys import RECALLS, Blind, Cracking, Projection, blobs, on_grid

from robustdml_ext.evaluation import (
    judge_robustness,
    recall_at_k,
)
from robustdml_ext.evaluation.attacked import attack_subject
from robustdml_ext.evaluation.figures import measure, measure_attacked
from robustdml_ext.evaluation.judging import Judge
from robustdml_ext.evaluation.subject import Embedded, Subject
from robustdml_ext.evaluation.threats import standard_threat


@pytest.mark.parametrize("name", ["stax", "away"])
def test_embeddings_that_are_no_numbers_are_never_hits(name: str) -> None:
    report = judge_robustness(Cracking(), on_grid(blobs()), epsilons=(0.0503,), attacks=(name,), steps=2)
    entry = report.entries[1]
    assert entry["clean"]["recall@1"] == 1
    # As zero vectors all 64 would tie, and the first eight in line hold every class.
    assert entry["metrics"]["recall@1"] == entry["metrics"]["recall@8"] == report.score - 0.5 == 0
    finite = next(check for check in report.checks if check["check"] == "finite")
    assert not finite["passed"] and finite["embeddings"] == 64


def test_a_right_item_that_is_no_number_is_not_found() -> None:
    subject = Subject(Projection(), blobs(8))
    clean = subject.clean()
    # Queries of class 0 have no finite right item left but each other.
    for lost, missing in (([0], [0]), ([0, 4], [0, 4])):
        embeddings = clean.queries.clone()
        embeddings[lost] = torch.nan
        ahead = measure(subject, Embedded(embeddings, embeddings), RECALLS).ahead
        assert (ahead[missing] > 8).all()
        # Of two images a class, the partner is the only right item.
        assert torch.equal(ahead > 8, torch.isin(torch.arange(8) % 4, torch.tensor([0])))


@pytest.mark.parametrize(("name", "wanted"), [("gallery-raise", 0.0), ("gallery-lower", 1.0)])
def test_the_rank_of_what_is_no_number_is_what_the_attacker_wants(name: str, wanted: float) -> None:
    subject = Subject(Cracking(), on_grid(blobs()))
    threat = standard_threat(name, 0.0503, steps=2, algorithm="pgd", route="whole")
    found = attack_subject(subject, threat)
    assert found.moved is not None and found.moved.isnan().all()
    figures = measure_attacked(subject, found, threat, RECALLS)
    assert figures.metrics == {"recall@1": 0.0, "recall@8": 0.0, "rank": wanted}
    candidate = standard_threat(f"candidate-{name[8:]}", 0.0503, steps=2, algorithm="pgd", route="whole")
    figures = measure_attacked(subject, attack_subject(subject, candidate), candidate, RECALLS)
    assert figures.metrics == {"recall@1": 0.0, "recall@8": 0.0, "rank": wanted}


def test_distinct_images_are_counted_whatever_the_attacks() -> None:
    judge = Judge(Subject(Cracking(), on_grid(blobs(40)), on_grid(blobs(24, seed=3))), RECALLS)
    assert judge.broken == 0
    for name, count in (("candidate-lower", 40), ("candidate-raise", 40), ("stax", 64), ("gallery-raise", 64)):
        judge.attack(standard_threat(name, 0.0503, steps=1, algorithm="pgd", route="whole"))
        assert judge.broken == count
    again = Judge(Subject(Cracking(), on_grid(blobs(40)), on_grid(blobs(24, seed=3))), RECALLS)
    threat = standard_threat("gallery-lower", 0.0503, steps=1, algorithm="pgd", route="whole")
    moved = attack_subject(again.subject, threat).candidates
    again.attack(threat)
    assert moved is not None and again.broken == len(moved.unique()) <= 24


@pytest.mark.parametrize("apart", [False, True])
def test_clean_embeddings_that_are_no_numbers_are_misses_and_a_warning(apart: bool) -> None:
    gallery = blobs(40, seed=3) if apart else None
    report = judge_robustness(
        Blind(),
        blobs(),
        gallery=gallery,
        epsilons=(0.02,),
        steps=2,
        queries=3,
        attacks=("stax", "out", "gallery-raise"),
        metrics="all",
    )
    queries, labels = (torch.cat(part) for part in zip(*blobs(), strict=True))
    seen = queries[:, 0, 0, 0] <= 0.6
    model = Projection()
    with torch.no_grad():
        if gallery is None:
            hits = recall_at_k(model(queries[seen]), labels[seen], 1)[1]
            lost = int((~seen).sum())
        else:
            items, classes = (torch.cat(part) for part in zip(*gallery, strict=True))
            known = items[:, 0, 0, 0] <= 0.6
            hits = recall_at_k(model(queries[seen]), labels[seen], 1, model(items[known]), classes[known])[1]
            lost = int((~seen).sum() + (~known).sum())
    assert report.entries[0]["metrics"]["recall@1"] == pytest.approx(hits * seen.double().mean().item())
    finite = next(check for check in report.checks if check["check"] == "finite")
    assert 0 < lost <= finite["embeddings"] and not finite["passed"]
    assert next(check for check in report.checks if check["check"] == "deterministic")["passed"]
    json.dumps(report.to_json(), allow_nan=False)


def test_a_model_without_any_finite_embedding_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="model: Cracking embeds every image as NaN"):
        judge_robustness(Cracking(), [(x * 0.999, y) for x, y in on_grid(blobs())], attacks=("out",))
