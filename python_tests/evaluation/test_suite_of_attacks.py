"""The robustness suite's report: every attack harms, the worst case is the worst, the score is the area."""

from __future__ import annotations

import json

import pytest
import torch
from toys import Projection, blobs, entries

from robustdml_ext.evaluation import (
    ATTACKS,
    STANDARD,
    RobustnessReport,
    ThreatModel,
    judge_robustness,
)
from robustdml_ext.evaluation.figures import Figures, Wanted, worst_cases
from robustdml_ext.evaluation.score import summary_rows

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
