"""Is the robustness real? Signs that attacks failed for another reason than the model's strength."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.evaluation.figures import Figures
from robustdml_ext.evaluation.judging import Judge
from robustdml_ext.evaluation.subject import broken, spread
from robustdml_ext.evaluation.suite import embed
from robustdml_ext.evaluation.threats import ATTACKS, BOTH_SIDES, QUERIES, ThreatModel, standard_threat

CHECKS: dict[str, str] = {
    "gradient flow": "gradients come through every route",
    "zero gradient": "hardly any image has a gradient of exactly zero",
    "finite": "no NaN and no infinity in embeddings or gradients",
    "deterministic": "the same image has the same embedding twice",
    "more steps": "more gradient steps do not help the defender",
    "larger epsilon": "a larger epsilon does not help the defender",
    "huge epsilon": "with an epsilon of half the pixel range hardly any query survives",
    "black box": "attacks without the model's gradients are not stronger than those with them",
}
DEVIATIONS = 2.0
MOST_ZERO = 0.01
MOST_SURVIVORS = 0.1
HUGE_EPSILON = 0.5
MOST_QUERIES = 512

Judged = Mapping[tuple[str, float, str], Figures]


def tolerance(first: float, second: float, count: int) -> float:
    """What two shares of `count` queries may differ by chance: two standard errors of a binomial difference.

    2 · √((p (1 − p) + q (1 − q)) / N). As the same queries are counted on both sides, it errs on the side of silence.
    """
    return DEVIATIONS * math.sqrt((first * (1 - first) + second * (1 - second)) / count)


@dataclass(frozen=True)
class Plan:
    """What the checks that attack anew use.

    Attributes:
        epsilons: norm → radii of the suite; the middle one is taken.
        steps: gradient steps of the suite.
        changes: other fields of `ThreatModel`, as the suite has them.
    """

    epsilons: Mapping[str, Sequence[float]]
    steps: int
    changes: Mapping[str, object]


def run_checks(judge: Judge, judged: Judged, plan: Plan, attacks: Sequence[str]) -> list[dict[str, Any]]:
    """Each check as "check", "passed", "message", and its numbers; every message stands by itself.

    Checks that attack anew use the attack "out" on at most 512 queries, and those of gradients and of repetition look
    at no more than 128; both evenly spaced over the set.

    Args:
        judge: with the subject.
        judged: (norm, ε, attack) → figures, of the suite.
        plan: of the attacks made anew.
        attacks: names of the suite's attacks.
    """
    found = _gradient_checks(judge)
    for norm, radii in plan.epsilons.items():
        found += [_more_steps(judge, plan, norm, sorted(radii)[len(radii) // 2]), _huge_epsilon(judge, plan, norm)]
        found += [_larger_epsilon(judged, norm, sorted(radii), attacks), _black_box(judged, norm, radii)]
    # Last, as attacks count embeddings that are not finite.
    found.append(_finite(judge))
    return [check for check in found if check is not None]


def _result(check: str, passed: bool, message: str, **numbers: Any) -> dict[str, Any]:
    return {"check": check, "passed": bool(passed), "message": message, **numbers}


def _gradient_checks(judge: Judge) -> list[dict[str, Any] | None]:
    flows = judge.flows
    blocked = [name for name, flow in flows.items() if not flow.flows]
    shares = {name: flow.zero_share for name, flow in flows.items() if flow.flows}
    zero = [name for name, share in shares.items() if share > MOST_ZERO]
    listed = ", ".join(f"{name} ({shares[name]:.0%})" for name in zero)
    found: list[dict[str, Any] | None] = [
        _result(
            "gradient flow",
            not blocked,
            f"no gradient comes through: {', '.join(blocked)}; not attacked that way"
            if blocked
            else "gradients come through",
            blocked=blocked,
        ),
        _result(
            "zero gradient",
            not zero,
            f"images whose gradient is exactly zero: {listed}; gradient attacks show nothing of these"
            if zero
            else "hardly any gradient is exactly zero",
            share=shares,
        ),
    ]
    difference = _repeat_difference(judge)
    found.append(
        _result(
            "deterministic",
            difference <= 1e-5,
            f"the same images have other embeddings the second time (by up to {difference:.2g}); attack the expectation"
            if difference > 1e-5
            else "the same images have the same embeddings",
            largest_difference=difference,
        )
    )
    return found


def _repeat_difference(judge: Judge) -> float:
    """Between two passes over the judge's samples: relative to the embeddings' length."""
    batches = [(pixels, torch.zeros(len(pixels), dtype=torch.int64)) for pixels in judge.samples]
    with judge.subject.autocast("float32"):
        first, second = (embed(judge.subject.model, batches, judge.subject.device)[0] for _ in range(2))
    lost = broken(first)
    if not torch.equal(lost, broken(second)):
        return math.inf
    if lost.all():
        return 0.0
    first, second = first[~lost], second[~lost]
    return float((first - second).norm(dim=1).max() / first.norm(dim=1).max().clamp_min(1e-12))


def _finite(judge: Judge) -> dict[str, Any]:
    routes = [name for name, flow in judge.flows.items() if not flow.finite]
    said = []
    if routes:
        said.append(f"NaN or infinity in embeddings or gradients of: {', '.join(routes)}")
    if judge.broken:
        said.append(
            f"{judge.broken} images have embeddings that are NaN or infinite, clean or attacked (counted as misses)"
        )
    return _result("finite", not said, "; ".join(said) or "all is finite", routes=routes, embeddings=judge.broken)


def _subset(judge: Judge) -> Tensor:
    return spread(len(judge.subject.labels), MOST_QUERIES)


def _recall(judge: Judge, plan: Plan, epsilon: float, norm: str, steps: int, chosen: Tensor) -> float:
    threat = _out(plan, epsilon, norm, steps)
    return _first(judge.attack(threat, chosen)[0].ahead)


def _out(plan: Plan, epsilon: float, norm: str, steps: int) -> ThreatModel:
    changes = {key: value for key, value in plan.changes.items() if key not in ("targets", "queries")}
    if changes.get("step_size") is not None:
        changes["step_size"] = None  # that of one number of steps is not that of another
    return standard_threat("out", epsilon, steps=steps, norm=norm, **changes)


def _first(ahead: Tensor) -> float:
    return int((ahead < 1).sum()) / len(ahead)


def _more_steps(judge: Judge, plan: Plan, norm: str, epsilon: float) -> dict[str, Any]:
    chosen = _subset(judge)
    numbers = [1, plan.steps, 4 * plan.steps]
    values = [_recall(judge, plan, epsilon, norm, steps, chosen) for steps in dict.fromkeys(numbers)]
    steps = list(dict.fromkeys(numbers))
    helped = [
        (few, many, a, b)
        for few, many, a, b in zip(steps, steps[1:], values, values[1:], strict=False)
        if b > a + tolerance(a, b, len(chosen))
    ]
    message = f"more steps ({norm}, epsilon {epsilon:.4g}) do not help the defender"
    if helped:
        few, many, a, b = helped[0]
        message = (
            f"Recall@1 rises from {a:.3f} to {b:.3f} from {few} to {many} steps ({norm}, epsilon {epsilon:.4g}): "
            "gradients mislead"
        )
    return _result(
        "more steps", not helped, message, norm=norm, epsilon=epsilon, steps=steps, recall=values, queries=len(chosen)
    )


def _huge_epsilon(judge: Judge, plan: Plan, norm: str) -> dict[str, Any]:
    """Within half the pixel range every image can be made the same grey, so that nothing can be told apart."""
    chosen = _subset(judge)
    numbers = math.prod(judge.subject.images_read["image_shape"][0])
    epsilon = HUGE_EPSILON * (math.sqrt(numbers) if norm == "l2" else 1)
    value = _recall(judge, plan, epsilon, norm, max(plan.steps, 20), chosen)
    clean = _first(judge.clean.ahead[chosen])
    allowed = MOST_SURVIVORS * clean
    passed = value <= allowed + tolerance(allowed, value, len(chosen))
    message = f"with epsilon {epsilon:.3g} ({norm}) Recall@1 is {value:.3f}, of {clean:.3f} clean"
    if not passed:
        message += "; hardly any query should survive that, so the attack fails for another reason than robustness"
    return _result("huge epsilon", passed, message, norm=norm, epsilon=epsilon, recall=value, clean=clean)


def _larger_epsilon(judged: Judged, norm: str, radii: Sequence[float], attacks: Sequence[str]) -> dict[str, Any] | None:
    if len(radii) < 2:
        return None
    helped = []
    for name in attacks:
        known = [(epsilon, judged[norm, epsilon, name].ahead) for epsilon in radii if (norm, epsilon, name) in judged]
        for (small, before), (large, after) in itertools.pairwise(known):
            a, b = _first(before), _first(after)
            if b > a + tolerance(a, b, len(after)):
                helped.append({"attack": name, "epsilons": [small, large], "recall": [a, b]})
    message = f"no attack is weaker at a larger epsilon ({norm})"
    if helped:
        listed = ", ".join(f"{h['attack']} ({h['recall'][0]:.3f} to {h['recall'][1]:.3f})" for h in helped)
        message = f"Recall@1 rises at a larger epsilon ({norm}) under: {listed}"
    return _result("larger epsilon", not helped, message, norm=norm, helped=helped)


def _white_box(here: Mapping[str, Figures], side: str) -> dict[str, float]:
    return {
        name: _first(one.ahead)
        for name, one in here.items()
        if not ATTACKS[name].black_box and ATTACKS[name].attacked == side
    }


def _black_box(judged: Judged, norm: str, radii: Sequence[float]) -> dict[str, Any] | None:
    """Black box against the strongest white-box attack that moves queries, as the black box does, or everything."""
    stronger: list[dict[str, Any]] = []
    compared: list[dict[str, Any]] = []
    for epsilon in radii:
        here = {name: figures for (n, e, name), figures in judged.items() if (n, e) == (norm, epsilon)}
        black = {name: _first(one.ahead) for name, one in here.items() if ATTACKS[name].black_box}
        white = _white_box(here, QUERIES) or _white_box(here, BOTH_SIDES)
        if not black or not white:
            continue
        best, seen = min(black, key=lambda name: black[name]), min(white, key=lambda name: white[name])
        count = len(here[best].ahead)
        numbers = {"epsilon": epsilon, "black box": [best, black[best]], "white box": [seen, white[seen]]}
        compared.append(numbers)
        if black[best] < white[seen] - tolerance(black[best], white[seen], count):
            stronger.append(numbers)
    if not compared:
        return None
    message = f"attacks without gradients are not stronger than those with them ({norm})"
    if stronger:
        worst = stronger[0]
        (best, low), (seen, high) = worst["black box"], worst["white box"]
        message = (
            f"{best}, which needs no gradient of the model, leaves Recall@1 at {low:.3f} ({norm}, epsilon "
            f"{worst['epsilon']:.4g}); the strongest with gradients, {seen}, at {high:.3f}: gradients are masked"
        )
    return _result("black box", not stronger, message, norm=norm, compared=compared)
