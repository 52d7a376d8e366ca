"""One number for a model's robustness, and the report that it stands in."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

DEFINITION = (
    "The mean over norms of the area under worst-case Recall@1 against epsilon, from 0 (clean) to the largest epsilon, "
    "by trapezoids, divided by the largest epsilon. Worst case: a query counts where its nearest item is of its class "
    "both clean and under every attack of the list, through every route, at that epsilon and at every smaller one of "
    "the norm, as a ball holds all smaller ones. In [0, 1]; 1 is a model that no attack harms."
)


def area_under_curve(clean: float, attacked: Mapping[float, float]) -> float:
    """The mean height of worst-case Recall@1 over ε in [0, largest ε], by trapezoids: in [0, 1].

    Args:
        clean: Recall@1 at ε = 0.
        attacked: ε > 0 → Recall@1.

    Raises:
        ValueError: no ε above 0, or a figure outside [0, 1].
    """
    points = [(0.0, clean), *sorted((epsilon, value) for epsilon, value in attacked.items() if epsilon > 0)]
    if len(points) < 2:
        raise ValueError(f"attacked: expected at least one epsilon above 0, got {sorted(attacked)}")
    if any(not 0 <= value <= 1 for _, value in points):
        raise ValueError(f"attacked: expected fractions from 0 to 1, got {[value for _, value in points]}")
    area = sum((b - a) * (left + right) / 2 for (a, left), (b, right) in itertools.pairwise(points))
    return area / points[-1][0]


def fingerprint(protocol: Mapping[str, Any]) -> str:
    """Sixteen hexadecimal digits that are the same for the same protocol, and hardly for another."""
    text = json.dumps(protocol, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class RobustnessReport:
    """How a model fares under attack.

    Attributes:
        entries: first the clean figures, then one of each attack at each ε, the worst case at each ε, and corruptions.
            The worst case at an ε is no better than at a smaller one of the norm; a single attack's figures may be.
            Keys: "attack" (a name of `ATTACKS`, "clean", "worst", or "corruption"), "threat" (a `ThreatModel` as a
            dictionary, or None), "corruption" (None, or {"name", "severity"}; "mean" over all), "metrics", "clean" (the
            same figures unattacked), "relative" (metrics / clean), "perturbation" (pixels), "routes" (each route's own
            metrics), "seconds".
        checks: of each check "check", "passed", "message", and its numbers.
        protocol: all that a figure depends on but for the model, and its "fingerprint". Scores compare only under the
            same. "inference", of a model that votes, is a fact of the model and stands outside of it.
        score: as `DEFINITION` says, in [0, 1]; NaN where no attack was asked for.
        areas: norm → the area of that norm.
        survivors: (norm, ε, attack) → which queries still have a right item first, bool `[N]`; of the attack "worst",
            which have lost it at no smaller ε either. Not in the JSON.
    """

    entries: list[dict[str, Any]]
    checks: list[dict[str, Any]]
    protocol: dict[str, Any]
    score: float
    areas: dict[str, float] = field(default_factory=dict)
    survivors: dict[tuple[str, float, str], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @property
    def warnings(self) -> list[str]:
        """What the failed checks say, in words."""
        return [check["message"] for check in self.checks if not check["passed"]]

    def to_json(self) -> dict[str, Any]:
        """Everything but the survivors, of types that JSON has; what is not finite becomes None."""
        content = {
            "score": self.score,
            "score_definition": DEFINITION,
            "score_doubtful": bool(self.warnings),
            "areas": self.areas,
            "protocol": self.protocol,
            "entries": self.entries,
            "checks": self.checks,
            "warnings": self.warnings,
        }
        cleaned = json_ready(content)
        assert isinstance(cleaned, dict)
        return cleaned

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RobustnessReport:
        """A report as `to_json` wrote it.

        Raises:
            ValueError: a part is missing.
        """
        missing = [key for key in ("entries", "checks", "protocol", "score") if key not in content]
        if missing:
            raise ValueError(f"content: expected a robustness report, without {', '.join(missing)} it is none")
        score = content["score"]
        return cls(
            list(content["entries"]),
            list(content["checks"]),
            dict(content["protocol"]),
            math.nan if score is None else float(score),
            dict(content.get("areas", {})),
        )

    def rows(self) -> list[dict[str, Any]]:
        """The entries, flat, for a table: attack, norm, epsilon, severity, then each figure and its relative value."""
        return summary_rows(self.to_json())


def summary_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One flat row an entry of a report's JSON: "attack", "norm", "epsilon", "severity", figures, "relative …"."""
    rows = []
    for entry in report["entries"]:
        threat, corruption = entry["threat"] or {}, entry["corruption"] or {}
        rows.append(
            {
                "attack": corruption.get("name", entry["attack"]),
                "norm": threat.get("norm"),
                "epsilon": threat.get("epsilon"),
                "severity": corruption.get("severity"),
                **entry["metrics"],
                **{f"relative {name}": value for name, value in entry["relative"].items()},
            }
        )
    return rows


def rank_models(
    reports: Mapping[str, RobustnessReport | Mapping[str, Any]],
) -> list[tuple[str, float]]:
    """Models by their robustness score, the most robust first; equal ones by name.

    A report with warnings is warned of (UserWarning): its attacks may have failed for another reason than robustness.

    Args:
        reports: model's name → its report, or that report's JSON.

    Raises:
        ValueError: the protocols (attacks, ε, steps, seed, images …) differ, so that scores do not compare; or a report
            has no score.
    """
    read = {
        name: report if isinstance(report, RobustnessReport) else RobustnessReport.from_json(report)
        for name, report in reports.items()
    }
    first: tuple[str, dict[str, Any]] | None = None
    for name, report in read.items():
        protocol = {key: value for key, value in report.protocol.items() if key != "inference"}
        if report.warnings:
            warnings.warn(f"the score of {name} is doubtful: {'; '.join(report.warnings)}", stacklevel=2)
        if math.isnan(report.score):
            raise ValueError(f"reports: {name} has no score, as it was not attacked")
        if first is None:
            first = (name, protocol)
        elif protocol != first[1]:
            keys = [
                key
                for key in {**first[1], **protocol}
                if key != "fingerprint" and first[1].get(key) != protocol.get(key)
            ]
            raise ValueError(f"reports: {first[0]} and {name} were judged differently, in {', '.join(sorted(keys))}")
    return sorted(((name, report.score) for name, report in read.items()), key=lambda pair: (-pair[1], pair[0]))


def relative(attacked: Mapping[str, float], clean: Mapping[str, float]) -> dict[str, float | None]:
    """attacked / clean of every figure; None where that has no value."""
    found: dict[str, float | None] = {}
    for name, value in attacked.items():
        base = clean.get(name, math.nan)
        ratio = value / base if base else math.nan
        found[name] = ratio if math.isfinite(ratio) else None
    return found


def json_ready(value: Any) -> Any:
    """A figure, or dictionaries and sequences of figures, of what JSON has: NaN and infinities become None.

    Keys become strings, sequences lists; what is neither is passed on as it is.
    """
    if isinstance(value, Mapping):
        return {str(key): json_ready(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_ready(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
