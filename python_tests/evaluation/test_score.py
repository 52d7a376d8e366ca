"""The score: an area with a definition, and an order of models judged alike."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import Projection, blobs

from robustdml_ext.evaluation import RobustnessReport, judge_robustness, rank_models
from robustdml_ext.evaluation.figures import Figures, Wanted, worst_cases
from robustdml_ext.evaluation.score import DEFINITION, area_under_curve, fingerprint, json_ready, relative
from robustdml_ext.evaluation.subject import Subject

fractions = st.floats(0, 1)


def test_by_hand() -> None:
    assert area_under_curve(1.0, {0.5: 0.5, 1.0: 0.0}) == 0.5
    assert area_under_curve(0.8, {0.1: 0.4}) == pytest.approx(0.6)
    # Larger steps count for more.
    assert area_under_curve(1.0, {0.1: 0.0, 0.4: 0.0}) == pytest.approx(0.125)
    assert area_under_curve(0.7, {0.0: 0.1, 0.2: 0.7}) == pytest.approx(0.7)


@given(fractions, st.dictionaries(st.floats(1e-3, 10), fractions, min_size=1, max_size=6), st.floats(0.1, 10))
def test_a_mean_height_whatever_the_scale(clean: float, curve: dict[float, float], scale: float) -> None:
    area = area_under_curve(clean, curve)
    assert min(clean, *curve.values()) - 1e-9 <= area <= max(clean, *curve.values()) + 1e-9
    assert area_under_curve(clean, {scale * e: value for e, value in curve.items()}) == pytest.approx(area, abs=1e-9)
    raised = {e: min(1.0, value + 0.1) for e, value in curve.items()}
    assert area_under_curve(clean, raised) >= area


def test_needs_fractions_and_an_epsilon() -> None:
    with pytest.raises(ValueError, match="at least one epsilon"):
        area_under_curve(1.0, {})
    with pytest.raises(ValueError, match="fractions"):
        area_under_curve(1.0, {0.1: 70.0})


class Shrunk(Projection):
    """Blurs away most of what an attack adds."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(0.2 * images + 0.8 * torch.nn.functional.avg_pool2d(images, 3, 1, 1))


def judge(model: torch.nn.Module, **changes: object) -> RobustnessReport:
    options = {"epsilons": (0.02, 0.05), "attacks": ("out", "stax"), "steps": 4, "checks": False, **changes}
    return judge_robustness(model, options.pop("images", blobs()), clustering=False, **options)


def test_models_in_order() -> None:
    reports = {"weak": judge(Projection()), "blurred": judge(Shrunk()), "again": judge(Projection())}
    order = rank_models(reports)
    assert [name for name, _ in order] == ["blurred", "again", "weak"]
    assert order[0][1] > order[1][1] + 0.05 and order[1][1] == order[2][1] == reports["weak"].score
    written = {name: json.loads(json.dumps(report.to_json())) for name, report in reports.items()}
    assert rank_models(written) == order
    assert rank_models({}) == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epsilons": (0.02, 0.06)}, "epsilons"), ({"attacks": ("out",)}, "attacks"), ({"steps": 5}, "steps"),
        ({"seed": 1}, "seed"), ({"restarts": 2}, "threats"), ({"images": blobs(60)}, "images"),
        ({"images": [(x, y.flip(0)) for x, y in blobs()]}, "labels"), ({"norms": ("l2",)}, "epsilons"),
        ({"images": [(1 - x, y) for x, y in blobs()]}, "in pixels"),
        ({"images": [(x.reshape(-1, 1, 4, 16), y) for x, y in blobs()]}, "in image_shape$"),
        ({"images": [(x[i::2], y[i::2]) for x, y in blobs() for i in (0, 1)]}, "in batch_lengths"),
        ({"gallery": [(x + 1e-3, y) for x, y in blobs(40)]}, "gallery"),
    ],
)  # fmt: skip
def test_refuses_to_compare_what_was_judged_differently(changes: dict[str, object], named: str) -> None:
    first, second = judge(Projection()), judge(Projection(), **changes)
    assert first.protocol["fingerprint"] != second.protocol["fingerprint"]
    with pytest.raises(ValueError, match=f"a and b were judged differently.*{named}"):
        rank_models({"a": first, "b": second})


def test_refuses_a_model_that_was_not_attacked() -> None:
    with pytest.raises(ValueError, match="no score"):
        rank_models({"a": judge(Projection(), attacks=())})


def test_pixels_are_recognized_however_they_are_read() -> None:
    read = Subject(Projection(), blobs()).images_read
    assert read["batch_lengths"] == [[[1, 35], [1, 29]]] and read["image_shape"] == [[1, 8, 8]]
    strided = [(x.flip(2, 3).contiguous().flip(2, 3).to(memory_format=torch.channels_last), y) for x, y in blobs()]
    assert Subject(Projection(1), strided).images_read == read
    changes = {
        "brighter": [(x + 1e-3, y) for x, y in blobs()],
        "in another order": [(torch.cat([x[4:8], x[:4], x[8:]]), y) for x, y in blobs()],
    }
    for images in changes.values():
        other = Subject(Projection(), images).images_read
        assert other["pixels"] != read["pixels"] and other["batch_lengths"] == read["batch_lengths"]
    apart = Subject(Projection(), blobs(), blobs(40, seed=3)).images_read
    assert apart["pixels"][0] == read["pixels"][0] != apart["pixels"][1]


def test_what_a_smaller_epsilon_broke_stays_broken() -> None:
    clean = Figures({}, torch.tensor([0, 0, 0, 0]))
    small, large = Figures({}, torch.tensor([0, 5, 0, 0])), Figures({}, torch.tensor([0, 0, 0, 2]))
    # The larger one first, so that it is the radius that counts and not the order.
    judged = {("linf", 0.2, "out"): large, ("linf", 0.1, "out"): small, ("l2", 0.3, "out"): clean}
    found = worst_cases(judged, clean, Wanted((1, 4)))
    assert found["linf", 0.1].ahead.tolist() == [0, 5, 0, 0]
    assert found["linf", 0.2].ahead.tolist() == [0, 5, 0, 2]
    assert found["linf", 0.2].metrics == {"recall@1": 0.5, "recall@4": 0.75}
    assert found["l2", 0.3].metrics == {"recall@1": 1.0, "recall@4": 1.0}
    assert "every smaller one" in DEFINITION


class OnlyWeaklyBroken(Projection):
    """Notices any change from the grid of clean pixels that is larger than 0.05, and answers with the clean image."""

    def forward(self, images: Tensor) -> Tensor:
        clean = (images * 4).round() / 4
        undone = ((images - clean).abs().flatten(1).amax(1) > 0.05)[:, None, None, None]
        return super().forward(torch.where(undone, clean, images))


def test_the_suite_carries_the_worst_case_over_and_checks_the_attacks_as_they_are() -> None:
    patterns = (torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 4).round() / 4
    labels = torch.arange(40) % 4
    flips = torch.randint(2, (40, 1, 8, 8), generator=torch.Generator().manual_seed(1)) * 0.25
    images = [((patterns[labels] + flips).clamp(0, 1), labels)]
    report = judge_robustness(
        OnlyWeaklyBroken(), images, epsilons=(0.05, 0.1), attacks=("out",), steps=5, algorithm="pgd", clustering=False
    )
    found = {
        (entry["attack"], entry["threat"]["epsilon"]): entry["metrics"]["recall@1"] for entry in report.entries[1:]
    }
    assert found["out", 0.1] > found["out", 0.05] + 0.2
    assert found["worst", 0.1] <= found["worst", 0.05]
    clean = report.entries[0]["metrics"]["recall@1"]
    assert report.score == pytest.approx((clean + 2 * found["worst", 0.05] + found["worst", 0.1]) / 4)
    survivors = report.survivors
    assert not (survivors["linf", 0.1, "worst"] & ~survivors["linf", 0.05, "worst"]).any()
    assert not next(check for check in report.checks if check["check"] == "larger epsilon")["passed"]


def test_what_json_lacks_becomes_none() -> None:
    figures = {"a": [math.nan, 1.0, (math.inf, "b")], 2: {"c": -math.inf, "d": None}}
    assert json_ready(figures) == {"a": [None, 1.0, [None, "b"]], "2": {"c": None, "d": None}}


def test_parts() -> None:
    assert relative({"a": 0.5, "b": 1.0, "c": 0.2}, {"a": 1.0, "b": 0.0}) == {"a": 0.5, "b": None, "c": None}
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
