"""What is asked of the robustness suite: seeds, sweeps, turns, nothing at all, and wrong arguments."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from toys import Projection, blobs

from robustdml_ext.evaluation import (
    ThreatModel,
    attack_dataset,
    evaluate_under,
    judge_robustness,
    sweep,
)
from robustdml_ext.evaluation.subject import Images, Subject
from robustdml_ext.evaluation.threats import standard_threat


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


NOTHING = torch.zeros(0, 1, 8, 8), torch.zeros(0, dtype=torch.int64)


@pytest.mark.parametrize("none", [[], [NOTHING], NOTHING], ids=["no batches", "an empty batch", "empty arrays"])
def test_no_images_at_all_are_named(none: Images) -> None:
    model, threat = Projection(), standard_threat("out", 0.1, steps=1)
    asked: list[Callable[[Images], object]] = [
        lambda images: judge_robustness(model, images, attacks=()),
        lambda images: judge_robustness(model, images, gallery=blobs(), attacks=("out",), steps=1),
        lambda images: evaluate_under(model, images, threat),
        lambda images: sweep(model, images, "out", epsilons=(0.1,), steps=(1,)),
        lambda images: attack_dataset(model, images, replace(threat, route="whole")),
        lambda images: Subject(model, images).clean(),
        lambda images: Subject(model, images).images_read,
    ]
    for ask in asked:
        with pytest.raises(ValueError, match=r"^images: expected at least one, got none$"):
            ask(none)
    with pytest.raises(ValueError, match=r"^gallery: expected at least one, got none$"):
        judge_robustness(model, blobs(), gallery=none, attacks=())
