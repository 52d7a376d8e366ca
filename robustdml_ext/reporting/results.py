"""Reading ``result.json`` files, and putting runs together that differ in the seed alone."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What may differ between runs whose figures belong in one mean: the seed, and where and how fast they ran.
SEED_AND_PLACE = frozenset(
    {"seed", "out", "root", "device", "workers", "threads", "save_every", "keep", "log_every", "tensorboard",
     "evaluate_every", "download", "eval_batch_size", "attack_epsilons", "eval_steps", "eval_mtax_targets", "recall_at",
     "eval_step_size", "eval_random_start", "eval_restarts", "eval_keep_best", "eval_norm", "eval_attacks",
     "eval_sweep_steps", "eval_route", "judge_members"}
)  # fmt: skip


CLEAN = "clean"
# Names that say nothing more, and digests that say nothing to a reader.
_UNREADABLE = frozenset({"method", "targets", "labels", "pixels", "attacks", "batch_lengths", "image_shape"})


class ReportError(ValueError):
    """A result that is missing or cannot be read. The message says which file and what was expected."""


def read_result(path: str | Path) -> dict[str, Any]:
    """Read a run's ``result.json``, given the file or the run's folder.

    Raises:
        ReportError: there is none (the run has not ended), or it is not one of ours.
    """
    place = Path(path)
    file = place / "result.json" if place.is_dir() else place
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ReportError(f"no result at {file}: name the folder of a run that has ended") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ReportError(f"{file} is not a result: {error}") from None
    if not isinstance(result, dict) or "recipe" not in result or not {"results", "entries"} & set(result):
        raise ReportError(f"{file} is not a result: it lacks `recipe`, or `results` or `entries`")
    return result


def entries_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was judged: clean images, each attack, each corruption, of a run or of an evaluation."""
    entries: list[dict[str, Any]] = result["results"] if "results" in result else result["entries"]
    return entries


def entry_label(entry: Mapping[str, Any]) -> str:
    """Return what the images of an entry were."""
    corruption = entry.get("corruption")
    if corruption is not None:
        severity = corruption["severity"]
        return f"corrupted: {corruption['name']}" + ("" if severity is None else f", severity {severity}")
    return inputs_label(entry["threat"])


def method_label(recipe: Mapping[str, Any]) -> str:
    """Return a method's short name as the papers print it: ST, AT, AP′, MP′ (3), MP″ (1, 5)."""
    targets = ", ".join(str(count) for count in recipe["targets"])
    primes = {1: "′", 2: "″", 3: "‴"}.get(len(recipe["targets"]), f"^{len(recipe['targets'])}")
    names = {
        "standard": "ST",
        "adversarial": "AT" if targets == "1" else f"AT ({targets})",
        "advprop": "AP′",
        "mdprop": f"MP{primes} ({targets})",
    }
    return names.get(recipe["method"], str(recipe["method"]))


def inputs_label(threat: Mapping[str, Any] | None) -> str:
    """Return what the images were: clean, or the attack with its steps, targets and ε."""
    if threat is None:
        return CLEAN
    name, epsilon = threat["name"], f"ε = {threat['epsilon']:.4g}"
    l2 = ", l2" if threat.get("norm", "linf") == "l2" else ""
    if name == "worst":
        count = len(threat["attacks"])
        return f"worst of {count} attack{'s' if count > 1 else ''}, {epsilon}{l2}"
    targets = f", T = {threat['targets']}" if name == "mtax" else ""
    shown = name.upper() if name in ("stax", "mtax") else name
    space = "" if name == "square" else f"{shown} "
    return f"{space}{algorithm_label(threat)}{targets}, {epsilon}{l2}{_beyond(threat)}"


def algorithm_label(threat: Mapping[str, Any]) -> str:
    """Return how an attack was run: PGD-20, or a search of so many queries."""
    kind = threat.get("algorithm", "pgd")
    if kind == "square":
        return f"square, {threat['queries']} queries"
    return f"{'PGD' if kind == 'pgd' else 'APGD'}-{threat['steps']}"


def _beyond(threat: Mapping[str, Any]) -> str:
    """Say in what an attack differs from the usual one, so that figures under both never share a row."""
    pgd = threat.get("algorithm", "pgd") == "pgd"
    usual_step = threat["epsilon"] / threat["steps"]
    step, start = threat.get("step_size") or usual_step, threat.get("random_start", 0)
    parts = {
        f"step {step:.4g}": pgd and not math.isclose(step, usual_step),
        f"start {start:.4g}": pgd and start > 0,
        f"momentum {threat.get('momentum')}": threat.get("momentum", 0) > 0,
        f"{threat.get('restarts')} restarts": threat.get("restarts", 1) > 1,
        f"{threat.get('turns')} turns": threat.get("turns", 1) not in (1, 4),
        f"k = {threat.get('k')}": threat.get("k", 1) > 1,
        "best iterate": pgd and threat.get("keep_best", False),
        f"through {threat.get('route')}": threat.get("route", "whole") not in ("whole", "every"),
        "bfloat16": threat.get("precision", "float32") == "bfloat16",
    }
    return "".join(f", {text}" for text, differs in parts.items() if differs)


@dataclass
class Group:
    """Runs of one recipe with several seeds, or evaluations of such runs under one protocol.

    Attributes:
        label: short name, unique among the groups compared.
        recipe: the recipe of the first run.
        judged: the data and the protocol of the first one, beyond the recipe.
        seeds: one for each run.
        rows: the figures of each kind of input, by ``entry_label``; each metric with one value for each run.
        threats: the threat model of each row; None for clean.
        scores: robustness scores of evaluations.
        warnings: of evaluations: what may make an attack look harmless.
    """

    label: str
    recipe: dict[str, Any]
    judged: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    threats: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    scores: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, result: Mapping[str, Any]) -> None:
        """Add a run's figures."""
        self.seeds.append(result["recipe"]["seed"])
        for entry in entries_of(result):
            name = entry_label(entry)
            self.threats[name] = entry["threat"]
            row = self.rows.setdefault(name, {})
            for metric, value in entry["metrics"].items():
                row.setdefault(metric, []).append(value)
        if result.get("score") is not None:
            self.scores.append(result["score"])
        self.warnings += result.get("warnings", [])


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Return the mean, and the sample standard deviation (n - 1) where there are two values or more."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def group_results(results: Iterable[Mapping[str, Any]]) -> list[Group]:
    """Put together the runs whose recipes differ in nothing but the seed and where they ran.

    Raises:
        ReportError: the same recipe and seed came twice, which would count one run as two.
    """
    groups: dict[str, Group] = {}
    for result in results:
        recipe, judged = dict(result["recipe"]), _judged(result)
        kept = {name: value for name, value in recipe.items() if name not in SEED_AND_PLACE}
        key = json.dumps([kept, judged], sort_keys=True)
        group = groups.setdefault(key, Group(method_label(recipe), recipe, judged))
        if recipe["seed"] in group.seeds:
            raise ReportError(
                f"two results of {group.label}, seed {recipe['seed']}, are of one recipe and the same images; "
                "give each run once, and of several judgments of one run one"
            )
        group.add(result)
    found = list(groups.values())
    _tell_apart(found)
    return found


def _judged(result: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation was of, and how: figures under another protocol are another group's. Empty for a run."""
    if "protocol" not in result:
        return {}
    # What belongs to the seed is drawn anew for each.
    of_seed = ("seed", "fingerprint", "threats")
    protocol = {name: value for name, value in result["protocol"].items() if name not in of_seed}
    return {**protocol, **result["data"]}


def _tell_apart(groups: list[Group]) -> None:
    labels = [group.label for group in groups]
    for group in groups:
        if labels.count(group.label) == 1:
            continue
        alike = [other for other in groups if other.recipe["method"] == group.recipe["method"]]
        for part, fields in (("judged", group.judged), ("recipe", group.recipe)):
            group.label += "".join(
                f", {name} {value}"
                for name, value in fields.items()
                if name not in SEED_AND_PLACE | _UNREADABLE
                and any(getattr(other, part).get(name) != value for other in alike)
            )
