"""The score: an area with a definition, and an order of models judged alike."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from toys import Projection, blobs

from robustdml_ext.evaluation import RobustnessReport, judge_robustness, rank_models
from robustdml_ext.evaluation.score import area_under_curve, fingerprint, relative

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


def test_parts() -> None:
    assert relative({"a": 0.5, "b": 1.0, "c": 0.2}, {"a": 1.0, "b": 0.0}) == {"a": 0.5, "b": None, "c": None}
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1}) != fingerprint({"a": 1, "b": [3]})
