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
     "eval_step_size", "eval_random_start", "eval_restarts", "eval_keep_best", "eval_norm"}
)  # fmt: skip


CLEAN = "clean"


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
        return f"worst of {len(threat['attacks'])} attacks, {epsilon}{l2}"
    targets = f", T = {threat['targets']}" if name == "mtax" else ""
    shown = name.upper() if name in ("stax", "mtax") else name
    return f"{shown} {algorithm_label(threat)}{targets}, {epsilon}{l2}{_beyond(threat)}"


def algorithm_label(threat: Mapping[str, Any]) -> str:
    """Return how an attack was run: PGD-20, or a search of so many queries."""
    kind = threat.get("algorithm", "pgd")
    if kind == "square":
        return f"square search, {threat['queries']} queries"
    return f"{'PGD' if kind == 'pgd' else 'adaptive PGD'}-{threat['steps']}"


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
        f"{threat.get('rounds')} rounds": threat.get("rounds", 1) > 1,
        "best iterate": pgd and threat.get("keep_best", False),
        f"through {threat.get('route')}": threat.get("route", "whole") not in ("whole", "every"),
        "bfloat16": threat.get("precision", "float32") == "bfloat16",
    }
    return "".join(f", {text}" for text, differs in parts.items() if differs)


@dataclass
class Group:
    """Runs of one recipe with several seeds.

    Attributes:
        label: short name, unique among the groups compared.
        recipe: the recipe of the first run.
        seeds: one for each run.
        rows: the figures of each kind of input, by ``inputs_label``; each metric with one value for each run.
        threats: the threat model of each row; None for clean.
    """

    label: str
    recipe: dict[str, Any]
    seeds: list[int] = field(default_factory=list)
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    threats: dict[str, dict[str, Any] | None] = field(default_factory=dict)

    def add(self, result: Mapping[str, Any]) -> None:
        """Add a run's figures."""
        self.seeds.append(result["recipe"]["seed"])
        for entry in entries_of(result):
            name = entry_label(entry)
            self.threats[name] = entry["threat"]
            row = self.rows.setdefault(name, {})
            for metric, value in entry["metrics"].items():
                row.setdefault(metric, []).append(value)


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
        recipe = dict(result["recipe"])
        kept = {name: value for name, value in recipe.items() if name not in SEED_AND_PLACE}
        group = groups.setdefault(json.dumps(kept, sort_keys=True), Group(method_label(recipe), recipe))
        if recipe["seed"] in group.seeds:
            raise ReportError(f"two results of {group.label} have seed {recipe['seed']}; give each run once")
        group.add(result)
    found = list(groups.values())
    _tell_apart(found)
    return found


def _tell_apart(groups: list[Group]) -> None:
    labels = [group.label for group in groups]
    for group in groups:
        if labels.count(group.label) == 1:
            continue
        alike = [other for other in groups if other.recipe["method"] == group.recipe["method"]]
        differing = [
            name
            for name in group.recipe
            if name not in SEED_AND_PLACE | {"method", "targets"}
            and any(other.recipe.get(name) != group.recipe[name] for other in alike)
        ]
        group.label += "".join(f", {name} {group.recipe[name]}" for name in differing)
