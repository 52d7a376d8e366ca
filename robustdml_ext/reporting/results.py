"""Reading ``result.json`` files, and putting runs together that differ in the seed alone."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from robustdml_ext.reporting.labels import SEEN, entry_label, has_members, method_label

# What may differ between runs whose figures belong in one mean: the seed, and where and how fast they ran.
SEED_AND_PLACE = frozenset(
    {"seed", "out", "root", "device", "workers", "threads", "save_every", "keep", "log_every", "tensorboard", "report",
     "evaluate_every", "download", "eval_batch_size", "attack_epsilons", "eval_steps", "eval_mtax_targets", "recall_at",
     "eval_step_size", "eval_random_start", "eval_restarts", "eval_keep_best", "eval_norm", "eval_attacks",
     "eval_sweep_steps", "eval_route", "judge_members", "evaluate_seen", "evaluate_seen_images",
     "few_shot_ways", "few_shot_shots", "few_shot_episodes", "verification_trials"}
)  # fmt: skip


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
    if wrong := _what_is_wrong(result):
        raise ReportError(f"{file} is not a result: {wrong}")
    return result


def _what_is_wrong(result: Mapping[str, Any]) -> str:
    """What tables and pages could not read of a result that was written by another hand; nothing, if nothing is."""
    entries = entries_of(result)
    if not isinstance(entries, list) or not entries:
        return "`results` or `entries` must be a list that holds at least the figures of clean images"
    for number, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("metrics"), dict) or "threat" not in entry:
            return f"entry {number} must have `threat` and `metrics`"
        if any(not _is_number(value) for value in entry["metrics"].values() if value is not None):
            return f"`metrics` of entry {number} must be numbers or null"
        threat = entry["threat"]
        if threat is not None and not (isinstance(threat, dict) and {"name", "epsilon"} <= set(threat)):
            return f"`threat` of entry {number} must be null or have `name` and `epsilon`"
    seconds = (result.get("timing") or {}).get("seconds") or {}
    if not all(_is_number(value) for value in seconds.values()):
        return "`timing.seconds` must be numbers"
    if not isinstance(result.get("environment") or {}, dict):
        return "`environment` must be an object"
    published = result.get("published")
    if published is not None and not (isinstance(published, dict) and {"source", "clean"} <= set(published)):
        return "`published` must be null or have `source` and `clean`"
    parts = ("clean", "adversarial", "clean_deviation", "adversarial_deviation")
    if not all(_is_number(value) for part in parts for value in ((published or {}).get(part) or {}).values()):
        return "figures of `published` must be numbers"
    return ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def entries_of(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what was judged: clean images, each attack, each corruption, of a run or of an evaluation."""
    entries: list[dict[str, Any]] = result["results"] if "results" in result else result["entries"]
    return entries


class Labeled(Protocol):
    """Runs that are put together under a short name, see :class:`Group`."""

    label: str
    recipe: dict[str, Any]
    judged: dict[str, Any]


@dataclass
class Group:
    """Runs of one recipe with several seeds, or evaluations of such runs under one protocol.

    Attributes:
        label: short name, unique among the groups compared.
        recipe: the recipe of the first run.
        judged: the data and the protocol of the first one, beyond the recipe.
        seeds: one for each run.
        rows: the figures of each kind of input, by ``entry_label``; each metric with one value for each run.
        threats: the threat model of each row; None for clean images, of test or of training.
        members: the figures of each member of an ensemble, as `rows`; empty where members were not judged.
        scores: robustness scores of evaluations.
        warnings: of evaluations: what may make an attack look harmless.
    """

    label: str
    recipe: dict[str, Any]
    judged: dict[str, Any] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    rows: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    threats: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    members: list[dict[str, dict[str, list[float]]]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, result: Mapping[str, Any]) -> None:
        """Add a run's figures."""
        self.seeds.append(result["recipe"]["seed"])
        entries = entries_of(result)
        self._add_rows(self.rows, entries[:1])  # the clean ones
        if result.get("seen") is not None:
            self._add_row(self.rows, SEEN, result["seen"])
        self._add_rows(self.rows, entries[1:])
        for number, entries in enumerate(result.get("members") or []):
            if number == len(self.members):
                self.members.append({})
            self._add_rows(self.members[number], entries)
        if result.get("score") is not None:
            self.scores.append(result["score"])
        self.warnings += result.get("warnings", [])

    def _add_rows(self, rows: dict[str, dict[str, list[float]]], entries: Iterable[Mapping[str, Any]]) -> None:
        for entry in entries:
            self._add_row(rows, entry_label(entry), entry)

    def _add_row(self, rows: dict[str, dict[str, list[float]]], name: str, entry: Mapping[str, Any]) -> None:
        self.threats[name] = entry["threat"]
        row = rows.setdefault(name, {})
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
        recipe, judged = dict(result["recipe"]), judged_of(result)
        group = groups.setdefault(group_key(recipe, judged), Group(method_label(recipe), recipe, judged))
        if recipe["seed"] in group.seeds:
            raise ReportError(
                f"two results of {group.label}, seed {recipe['seed']}, are of one recipe and the same images; "
                "give each run once, and of several judgments of one run one"
            )
        group.add(result)
    found = list(groups.values())
    tell_apart(found)
    return found


def group_key(recipe: Mapping[str, Any], judged: Mapping[str, Any]) -> str:
    """Return what is alike in runs that differ in nothing but the seed and where they ran."""
    kept = {name: value for name, value in recipe.items() if name not in SEED_AND_PLACE}
    return json.dumps([kept, judged], sort_keys=True)


def judged_of(result: Mapping[str, Any]) -> dict[str, Any]:
    """What an evaluation was of, and how: figures under another protocol are another group's.

    Of a run only what its attacks' labels do not say: whether they went through every route into an ensemble.
    """
    if "protocol" not in result:
        recipe = result["recipe"]
        route = recipe.get("eval_route", "whole")
        return {"attacked through": "every route"} if has_members(recipe) and route == "every" else {}
    # What belongs to the seed is drawn anew for each.
    of_seed = ("seed", "fingerprint", "threats")
    protocol = {name: value for name, value in result["protocol"].items() if name not in of_seed}
    return {**protocol, **result["data"]}


def tell_apart(groups: Sequence[Labeled]) -> None:
    """Add to labels that several groups have what these groups differ in."""
    labels = [group.label for group in groups]
    named = [(group.label, group.recipe["method"]) for group in groups]
    for group, label in zip(groups, labels, strict=True):
        if labels.count(label) == 1:
            continue
        name = (label, group.recipe["method"])
        if named.count(name) < labels.count(label):
            group.label += f", method {group.recipe['method']}"  # two papers have one name for two methods
        alike = [other for other, its_name in zip(groups, named, strict=True) if its_name == name]
        for part, fields in (("judged", group.judged), ("recipe", group.recipe)):
            group.label += "".join(
                f", {option} {value}"
                for option, value in fields.items()
                if option not in SEED_AND_PLACE | _UNREADABLE
                and any(getattr(other, part).get(option) != value for other in alike)
            )
