"""The robustness suite: every attack harms, the worst case is the worst, and nothing depends on chance."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor
from toys import Projection, Vote, blobs

from robustdml_ext.evaluation import (
    ATTACKS,
    STANDARD,
    RobustnessReport,
    ThreatModel,
    evaluate_under,
    judge_robustness,
    recall_at_k,
    sweep,
)
from robustdml_ext.evaluation.attacked import attack_subject
from robustdml_ext.evaluation.figures import Figures, Wanted, worst_cases
from robustdml_ext.evaluation.score import summary_rows
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.threats import standard_threat

EPSILON = 0.12


@pytest.fixture(scope="module")
def report() -> RobustnessReport:
    return judge_robustness(
        Projection(),
        blobs(),
        epsilons=(EPSILON / 4, EPSILON),
        l2_epsilons=(0.6,),
        norms=("linf", "l2"),
        steps=6,
        queries=40,
        corruptions=("gaussian_noise", "contrast"),
        severities=(1, 5),
    )


def entries(report: RobustnessReport, norm: str, epsilon: float) -> dict[str, dict]:
    return {
        entry["attack"]: entry
        for entry in report.entries
        if entry["threat"] and (entry["threat"]["norm"], entry["threat"]["epsilon"]) == (norm, epsilon)
    }


@pytest.mark.parametrize("name", STANDARD)
def test_each_attack_does_what_it_is_after(report: RobustnessReport, name: str) -> None:
    entry = entries(report, "linf", EPSILON)[name]
    before, after = entry["clean"], entry["metrics"]
    assert before["recall@1"] == 1.0
    if name.endswith("-raise"):
        assert after["rank"] < before["rank"] - 0.2
    elif name.endswith("-lower"):
        assert after["rank"] > before["rank"] + 0.2
    elif name in ("out", "loss", "square", "transfer"):
        assert after["recall@1"] < 0.7
    else:
        assert after["nmi"] < before["nmi"] - 0.1
    assert entry["relative"]["recall@1"] == after["recall@1"] / before["recall@1"]
    clusters = ATTACKS[name].attacked == "queries and gallery"
    assert ("nmi" in after) == ("f1" in after) == ("pi_ratio" in after) == clusters


@pytest.mark.parametrize(("norm", "epsilon"), [("linf", EPSILON / 4), ("linf", EPSILON), ("l2", 0.6)])
def test_perturbations_stay_in_the_ball_and_use_it(report: RobustnessReport, norm: str, epsilon: float) -> None:
    here = entries(report, norm, epsilon)
    assert set(here) == {"worst", *STANDARD} - ({"square"} if norm == "l2" else set())
    for name in set(here) - {"worst"}:
        moved = here[name]["perturbation"]
        assert 0.8 * epsilon < moved[f"{norm}_max"] <= epsilon * (1 + 1e-5)
        assert 0 < moved["linf_mean"] <= moved["linf_max"] <= moved["l2_max"] and moved["l2_mean"] <= moved["l2_max"]


def test_the_worst_case_is_of_queries_not_of_attacks(report: RobustnessReport) -> None:
    for norm, epsilon in (("linf", EPSILON / 4), ("linf", EPSILON), ("l2", 0.6)):
        here = entries(report, norm, epsilon)
        worst = here.pop("worst")
        assert all(
            worst["metrics"][key] <= e["metrics"][key] for e in here.values() for key in ("recall@1", "recall@8")
        )
        # All smaller balls lie within.
        within = [key for key in report.survivors if key[0] == norm and key[1] <= epsilon and key[2] != "worst"]
        survived = torch.stack([report.survivors[key] for key in within]).all(0)
        assert torch.equal(survived, report.survivors[norm, epsilon, "worst"])
        assert worst["metrics"]["recall@1"] == survived.double().mean().item()
        every = [e for radius in {radius for _, radius, _ in within} for e in entries(report, norm, radius).values()]
        assert worst["metrics"]["nmi"] == min(e["metrics"]["nmi"] for e in every if "nmi" in e["metrics"])
        assert worst["threat"]["attacks"] == list(here)


def test_an_attack_that_helps_a_query_does_not_save_it() -> None:
    clean, attacked = Figures({}, torch.tensor([1, 0, 0, 3])), Figures({}, torch.tensor([0, 0, 2, 1]))
    (worst,) = worst_cases({("linf", 0.1, "out"): attacked}, clean, Wanted((1,))).values()
    assert worst.ahead.tolist() == [1, 0, 2, 3] and worst.metrics == {"recall@1": 0.25}


def test_the_score_is_the_area(report: RobustnessReport) -> None:
    half, whole = (entries(report, "linf", e)["worst"]["metrics"]["recall@1"] for e in (EPSILON / 4, EPSILON))
    area = 0.25 * (1 + half) / 2 + 0.75 * (half + whole) / 2
    assert report.areas["linf"] == pytest.approx(area)
    assert report.areas["l2"] == pytest.approx((1 + entries(report, "l2", 0.6)["worst"]["metrics"]["recall@1"]) / 2)
    assert report.score == pytest.approx((report.areas["linf"] + report.areas["l2"]) / 2)


def test_corruptions_stand_in_the_same_table(report: RobustnessReport) -> None:
    rows = [entry for entry in report.entries if entry["attack"] == "corruption"]
    assert [(row["corruption"]["name"], row["corruption"]["severity"]) for row in rows] == [
        ("mean", None), ("gaussian_noise", 1), ("gaussian_noise", 5), ("contrast", 1), ("contrast", 5),
    ]  # fmt: skip
    mean = sum(row["metrics"]["recall@1"] for row in rows[1:]) / 4
    assert rows[0]["metrics"]["recall@1"] == pytest.approx(mean)
    assert rows[2]["metrics"]["recall@1"] < rows[1]["metrics"]["recall@1"]


def test_the_report_survives_json(report: RobustnessReport) -> None:
    text = json.dumps(report.to_json(), allow_nan=False)
    again = RobustnessReport.from_json(json.loads(text))
    assert again.to_json() == json.loads(text) and again.warnings == report.warnings
    for entry in again.entries:
        if entry["threat"] and entry["attack"] != "worst":
            assert ThreatModel(**entry["threat"]).name == entry["attack"]
    rows = summary_rows(json.loads(text))
    assert len(rows) == len(report.entries) and rows == report.rows()
    assert rows[0]["attack"] == "clean" and rows[0]["epsilon"] is None and rows[0]["relative recall@1"] == 1
    with pytest.raises(ValueError, match="protocol"):
        RobustnessReport.from_json({"entries": [], "checks": [], "score": 1})


def test_an_honest_model_raises_no_warning(report: RobustnessReport) -> None:
    assert report.warnings == []
    assert {check["check"] for check in report.checks} > {"black box", "more steps", "huge epsilon", "finite"}


def test_the_same_seed_gives_the_same_report_and_nothing_else_changes() -> None:
    model = Projection().train()
    state = torch.get_rng_state()
    seen: list[tuple[str, int, int]] = []

    def judge(seed: int) -> list:
        names = ("stax", "both", "away", "square", "transfer")
        found = judge_robustness(
            model, blobs(), epsilons=(0.05,), attacks=names, steps=3, queries=10, seed=seed, checks=False,
            surrogate=Projection(7),
            progress=lambda *call: seen.append(call),
        )  # fmt: skip
        return [(entry["metrics"], entry["perturbation"]) for entry in found.entries]

    first = judge(0)
    assert seen == [(f"{name}, linf, epsilon 0.05", i, 5) for i, name in enumerate(seen_names(), 1)]
    assert first == judge(0)
    assert first != judge(1)
    assert torch.equal(state, torch.get_rng_state())
    assert model.training and model.weight.grad is None and model.weight.requires_grad


def seen_names() -> tuple[str, ...]:
    return ("stax", "both", "away", "square", "transfer")


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


class Detached(Projection):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


def test_without_any_gradient_only_the_black_box_attacks() -> None:
    report = judge_robustness(
        Detached(),
        blobs(),
        epsilons=(EPSILON,),
        attacks=("out", "away", "candidate-raise", "square"),
        steps=4,
        queries=60,
    )
    here = entries(report, "linf", EPSILON)
    assert here["out"]["metrics"]["recall@1"] == 1 and here["out"]["perturbation"]["linf_max"] == 0
    assert here["square"]["metrics"]["recall@1"] < 0.7
    failed = {check["check"] for check in report.checks if not check["passed"]}
    assert {"gradient flow", "black box", "huge epsilon"} <= failed


def test_a_sweep_is_the_suite_with_other_numbers() -> None:
    model, images = Projection(), blobs()
    rows = sweep(model, images, "out", epsilons=(0.02, 0.1), steps=(1, 8), clustering=False)
    numbers = [(row["threat"]["epsilon"], row["threat"]["steps"]) for row in rows[1:]]
    assert rows[0]["attack"] == "clean" and numbers == [(0.02, 1), (0.02, 8), (0.1, 1), (0.1, 8)]
    report = judge_robustness(model, images, epsilons=(0.02, 0.1), attacks=("out",), steps=8, checks=False)
    for row, entry in zip((rows[2], rows[4]), report.entries[1:3], strict=True):
        assert row["metrics"] == entry["metrics"] and row["threat"] == entry["threat"]
    away = sweep(model, images, ThreatModel("away", 0.1, 10, random_start=0.02), epsilons=(0.2,), steps=(4,))
    assert away[1]["threat"]["step_size"] == pytest.approx(0.05)
    assert away[1]["threat"]["random_start"] == pytest.approx(0.04)
    kept = sweep(model, images, ThreatModel("stax", 0.1, 10, step_size=0.03), epsilons=(0.2,), clustering=False)
    assert kept[1]["threat"]["step_size"] == 0.03 and kept[1]["threat"]["steps"] == 10


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


def test_in_turns_the_clusters_suffer_more_than_all_at_once() -> None:
    model, images = Projection(), blobs(96)
    figures = {
        turns: evaluate_under(model, images, standard_threat("both", 0.1, turns=turns, route="whole"), clustering=False)
        for turns in (1, 4)
    }
    assert figures[4]["recall@1"] < figures[1]["recall@1"] - 0.1


def test_nothing_asked_for_is_the_clean_row_alone() -> None:
    report = judge_robustness(Projection(), blobs(), attacks=())
    assert [entry["attack"] for entry in report.entries] == ["clean"]
    assert math.isnan(report.score) and report.to_json()["score"] is None and report.checks == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attacks": ("pgd",)}, "attacks"), ({"attacks": ("out", "out")}, "attacks"), ({"norms": ("l1",)}, "norms"),
        ({"epsilons": ()}, "epsilons"), ({"epsilons": (0.0,)}, "epsilons"),
        ({"norms": ("l2",), "l2_epsilons": ()}, "l2_epsilons"), ({"metrics": ("dcg",)}, "metrics"),
        ({"corruptions": ("fog",)}, "corruption"), ({"corruptions": ("jpeg",), "severities": (6,)}, "severity"),
        ({"corruptions": ("jpeg",), "severities": ()}, "severities"), ({"metrics": ()}, "metrics"),
        ({"recall_at": (0,)}, "recall_at"), ({"algorithm": "fgsm"}, "algorithm"), ({"steps": 0}, "steps"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judge_robustness(Projection(), blobs(), **options)
    with pytest.raises(TypeError, match="gallery: are read twice"):
        judge_robustness(Projection(), blobs(), gallery=iter(blobs()))
