"""Signs of false robustness: each check fails on a model that is made to fail it, and on no honest one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toys import Projection, Quantized, Saturated, blobs

from robustdml_ext.evaluation import judge_robustness
from robustdml_ext.evaluation.checks import CHECKS, _black_box, _larger_epsilon, tolerance
from robustdml_ext.evaluation.figures import Figures, Wanted
from robustdml_ext.evaluation.judging import Judge
from robustdml_ext.evaluation.subject import Subject

EPSILONS = (0.03, 0.1)


def checks(model: nn.Module, **options: Any) -> dict[str, dict[str, Any]]:
    attacks = options.pop("attacks", ("out", "square"))
    report = judge_robustness(
        model, blobs(), epsilons=EPSILONS, attacks=attacks, steps=6, queries=60, clustering=False, **options
    )
    failed = [check["message"] for check in report.checks if not check["passed"]]
    assert report.warnings == failed and all(check["message"] for check in report.checks)
    assert {check["check"] for check in report.checks} <= set(CHECKS)
    return {check["check"]: check for check in report.checks}


def failed(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, check in found.items() if not check["passed"]}


def test_an_honest_model_passes() -> None:
    found = checks(Projection())
    assert failed(found) == set() and set(found) == set(CHECKS)
    assert found["zero gradient"]["share"] == {"whole": 0.0}
    assert found["more steps"]["steps"] == [1, 6, 24]


def test_quantized_pixels_are_found_out() -> None:
    found = checks(Quantized())
    assert {"zero gradient", "black box", "huge epsilon"} <= failed(found)
    assert found["zero gradient"]["share"] == {"whole": 1.0}
    (first, *_) = [one for one in found["black box"]["compared"] if one["epsilon"] == 0.1]
    assert first["black box"][0] == "square" and first["black box"][1] < first["white box"][1] - 0.3


def test_gradients_are_looked_at_all_over_the_set() -> None:
    class Partly(Projection):
        """Rounds the images of the second half of the classes, which come last."""

        def forward(self, images: Tensor) -> Tensor:
            rounded = (images * 16).round() / 16
            return super().forward(torch.where(images[:, :, :1, :1] > 0.5, rounded, images))

    pixels, labels = (torch.cat(part) for part in zip(*blobs(), strict=True))
    pixels[:, :, 0, 0] = torch.where(labels < 2, 0.2, 0.8)[:, None]
    order = labels.argsort(stable=True)
    images = list(zip(pixels[order].split(16), labels[order].split(16), strict=True))
    judge = Judge(Subject(Partly(), images), Wanted((1,), groups=()))
    assert judge.flows["whole"].flows and judge.flows["whole"].zero_share == 0.5
    assert [len(batch) for batch in judge.samples] == [16] * 4


def test_a_saturated_model_is_found_out() -> None:
    found = checks(Saturated())
    assert {"zero gradient", "huge epsilon"} <= failed(found)


def test_a_gradient_that_points_the_wrong_way_is_found_out() -> None:
    class Backwards(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, images: Tensor) -> Tensor:
            return images.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            return -gradient

    class Misleading(Projection):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(Backwards.apply(images))

    found = checks(Misleading(), algorithm="pgd")
    assert {"black box", "huge epsilon"} <= failed(found)
    assert "zero gradient" not in failed(found)


def test_more_steps_that_help_are_found_out() -> None:
    class FirstStepOnly(torch.autograd.Function):
        """The true gradient at clean images, whose values lie on a grid; noise elsewhere: a single step does best."""

        @staticmethod
        def forward(ctx: Any, images: Tensor) -> Tensor:
            ctx.save_for_backward(images)
            return images.clone()

        @staticmethod
        def backward(ctx: Any, gradient: Tensor) -> Tensor:
            (images,) = ctx.saved_tensors
            clean = ((images * 64 - (images * 64).round()).abs() < 1e-4).flatten(1).all(1)
            return torch.where(clean[:, None, None, None], gradient, -gradient)

    class Trap(Projection):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(FirstStepOnly.apply(images))

    grid = [((pixels * 64).round() / 64, labels) for pixels, labels in blobs()]
    report = judge_robustness(
        Trap(), grid, epsilons=EPSILONS, attacks=("out",), steps=6, algorithm="pgd", clustering=False
    )
    found = {check["check"]: check for check in report.checks}
    recall = found["more steps"]["recall"]
    assert "more steps" in failed(found) and recall[1] > recall[0] + 0.3


def test_chance_in_the_inference_is_found_out() -> None:
    class Noisy(Projection):
        def __init__(self) -> None:
            super().__init__()
            self.generator = torch.Generator().manual_seed(0)

        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images + 0.02 * torch.randn(images.shape, generator=self.generator))

    found = checks(Noisy())
    assert "deterministic" in failed(found) and found["deterministic"]["largest_difference"] > 1e-3


def test_gradients_that_are_no_numbers_are_found_out() -> None:
    class Cracked(Projection):
        def forward(self, images: Tensor) -> Tensor:
            # The slope of a root at 0 is infinite, and 0 times infinity no number.
            return super().forward(images) + 0 * (images.flatten(1)[:, :1] * 0).sqrt()

    found = checks(Cracked())
    assert "finite" in failed(found) and found["finite"]["routes"] == ["whole"]


def figures(hits: int, count: int = 100) -> Figures:
    return Figures({}, torch.tensor([0] * hits + [1] * (count - hits)))


def test_differences_within_the_noise_are_no_sign() -> None:
    bound = tolerance(0.5, 0.6, 100)
    assert bound == pytest.approx(2 * ((0.25 + 0.24) / 100) ** 0.5)
    for rise, passed in ((int(100 * bound) - 2, True), (int(100 * bound) + 3, False)):
        judged = {("linf", 0.1, "out"): figures(50), ("linf", 0.2, "out"): figures(50 + rise)}
        larger = _larger_epsilon(judged, "linf", [0.1, 0.2], ["out"])
        assert larger is not None and larger["passed"] == passed
        both = {("linf", 0.1, "out"): figures(50 + rise), ("linf", 0.1, "square"): figures(50)}
        black = _black_box(both, "linf", [0.1])
        assert black is not None and black["passed"] == passed
    assert _black_box({("linf", 0.1, "out"): figures(5)}, "linf", [0.1]) is None
    assert _larger_epsilon({}, "linf", [0.1], ["out"]) is None
