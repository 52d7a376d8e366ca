"""The head of the page: what was run, on what, and what the attacker could do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from robustdml_ext.reporting.labels import attack_label, is_plain, pixels_label
from robustdml_ext.reporting.page.runs import PageGroup, PageRun
from robustdml_ext.reporting.results import SEED_AND_PLACE

# Options that tell most of a run, in words.
_TOLD = {
    "dataset": "data set", "protocol": "split", "image_size": "image side, pixels", "arch": "network",
    "weights": "starting weights", "embedding_dim": "embedding length", "loss": "loss", "targets": "targets T",
    "epsilon": "ε in training", "attack_steps": "attack steps in training", "epochs": "epochs",
    "batch_size": "batch", "samples_per_class": "images of a class in a batch", "optimizer": "optimizer",
    "learning_rate": "learning rate", "weight_decay": "weight decay", "precision": "precision",
    "select_on": "weights selected on",
}  # fmt: skip
_ATTACKERS = ("epsilon", "attack_steps", "targets")
_LOCAL = frozenset({"root", "out"})


@dataclass(frozen=True)
class RunFacts:
    """One line of the table of runs."""

    number: int
    label: str
    seed: str
    folder: str
    state: str
    weights: str
    device: str
    commit: str


def run_facts(groups: Sequence[PageGroup]) -> list[RunFacts]:
    """Return what became of every run, and where it ran."""
    return [_facts(number, group, run) for number, group in enumerate(groups) for run in group.runs]


def _facts(number: int, group: PageGroup, run: PageRun) -> RunFacts:
    result = run.result or {}
    environment = result.get("environment") or {}
    steps = (result.get("timing") or {}).get("steps")
    if run.result is None:
        state = f"not ended: {run.lines[-1]['step']:,} steps so far"
        state += f"; failed: {run.failure}" if run.failure else ""
    elif run.trained:
        state = "ended" if steps is None else f"{steps:,} steps"
    else:
        state = f"evaluation of {(result.get('model') or {}).get('name', 'a model')}"
    weights = result.get("weights") or {}
    chosen = str(weights.get("chosen", ""))
    if weights.get("selected_on"):
        chosen += f" on {weights['selected_on']} images"
    device = str(result.get("device", ""))
    device += f", {result['precision']}" if result.get("precision") else ""
    commit = str(environment.get("commit") or "")
    short = commit[:10] + ("+changes" if commit.endswith("+changes") else "")
    return RunFacts(number, group.label, str(run.recipe.get("seed", "")), run.name, state, chosen, device, short)


@dataclass(frozen=True)
class Recipes:
    """The recipes of a page.

    Attributes:
        alike: (option, value) of what tells most, and is alike in all groups.
        differing: (option, [value of each group]).
        whole: of each group, YAML.
    """

    alike: list[tuple[str, str]]
    differing: list[tuple[str, list[str]]]
    whole: list[tuple[PageGroup, str]]


def recipes(groups: Sequence[PageGroup]) -> Recipes:
    """Return what the runs' recipes have alike, what they differ in, and all of each."""
    names = list(dict.fromkeys(name for group in groups for name in group.recipe))
    differing = []
    for name in names:
        values = [group.recipe.get(name) for group in groups]
        if name not in SEED_AND_PLACE and len({json.dumps(value, sort_keys=True) for value in values}) > 1:
            differing.append(
                (
                    _words(name),
                    [
                        _text(value) if name in group.recipe else "–"
                        for value, group in zip(values, groups, strict=True)
                    ],
                )
            )
    told = {words for words, _ in differing}
    first = groups[0].recipe
    attacked = all(_is_attacked(group.recipe) for group in groups)
    alike = [
        (words, _text(first[name]))
        for name, words in _TOLD.items()
        if words not in told and first.get(name) is not None and (attacked or name not in _ATTACKERS)
    ]
    whole = [(group, _yaml(group)) for group in groups]
    return Recipes(alike, differing, whole)


def _is_attacked(recipe: Mapping[str, Any]) -> bool:
    """Whether a run trains on images that are attacked, within an ε."""
    return not is_plain(recipe) and recipe.get("adversarial") != "none"


def _words(name: str) -> str:
    return _TOLD.get(name, name.replace("_", " "))


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ", ".join(_text(item) for item in value) or "none"
    return str(value)


def _yaml(group: PageGroup) -> str:
    """The recipe of the first run, with the seeds of all; paths are of one machine and say nothing elsewhere."""
    recipe = {name: value for name, value in group.recipe.items() if name not in _LOCAL}
    seeds = [run.recipe.get("seed") for run in group.runs]
    if len(seeds) > 1 and "seed" in recipe:
        recipe["seed"] = f"{', '.join(map(str, seeds))} (a run each)"
    return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=100)


@dataclass(frozen=True)
class Threat:
    """An attack that figures were measured under, in words."""

    label: str
    radius: str
    step: str
    steps: str
    start: str
    restarts: str
    judged: str
    statistics: str
    attacked: str


def threats(groups: Sequence[PageGroup]) -> list[Threat]:
    """Return every threat model of the runs' results and evaluations, each once."""
    found: dict[str, Mapping[str, Any]] = {}
    for group in groups:
        for run in group.runs:
            for result in [*([run.result] if run.result else []), *run.evaluations.values()]:
                for entry in result.get("results") or result.get("entries") or []:
                    threat = entry.get("threat")
                    if threat is not None and threat.get("name") != "worst":
                        found.setdefault(json.dumps(threat, sort_keys=True), threat)
    rows = dict.fromkeys(_threat(threat) for threat in found.values())
    return list(rows)


def _threat(threat: Mapping[str, Any]) -> Threat:
    norm = {"linf": "l∞", "l2": "l2"}.get(threat.get("norm", "linf"), str(threat.get("norm")))
    step, start = threat.get("step_size"), threat.get("random_start")
    queries, space = threat.get("queries"), threat.get("space", "pixels")
    space = "pixels of [0, 1]" if space == "pixels" else str(space)
    restarts = threat.get("restarts", 1)
    mode = {"eval": "running", "train": "the batch's"}.get(
        threat.get("norm_mode", "eval"), str(threat.get("norm_mode"))
    )
    distribution = threat.get("distribution", 0)
    return Threat(
        attack_label(threat),
        f"{pixels_label(threat['epsilon'])} {norm}, {space}",
        "adaptive" if threat.get("algorithm") == "adaptive" else "–" if step is None else pixels_label(step),
        f"{queries} queries" if queries else str(threat.get("steps", "–")),
        pixels_label(start) if start else "none",
        str(restarts),
        "best iterate" if threat.get("keep_best") else "last iterate",
        f"{mode}, {'clean' if not distribution else f'distribution {distribution}'}",
        str(threat.get("attacked", "images")),
    )


@dataclass(frozen=True)
class Machine:
    """What runs stood on: the package versions, the machine, and which kernels were live."""

    runs: str
    versions: list[tuple[str, str]]
    kernels: list[tuple[str, bool, str]]


def machines(groups: Sequence[PageGroup]) -> list[Machine]:
    """Return the environments of the runs, those that are alike once."""
    found: dict[str, tuple[dict[str, Any], list[str]]] = {}
    for group in groups:
        for run in group.runs:
            environment = (run.result or {}).get("environment")
            if environment:
                key = json.dumps({**environment, "commit": None}, sort_keys=True)
                found.setdefault(key, (environment, []))[1].append(f"{group.label}, seed {run.recipe.get('seed')}")
    return [_machine(environment, names) for environment, names in found.values()]


def _machine(environment: Mapping[str, Any], names: Sequence[str]) -> Machine:
    versions = {"python": environment.get("python"), **(environment.get("versions") or {})}
    machine, gpu = environment.get("machine") or {}, environment.get("gpu") or {}
    facts = [(name, str(version or "not installed")) for name, version in versions.items()]
    facts.append(("machine", f"{machine.get('architecture', '?')}, {machine.get('cores', '?')} cores"))
    facts.append(("system", str(machine.get("system", "?"))))
    devices = ", ".join(str(device.get("name")) for device in gpu.get("devices") or [])
    facts.append(("GPU", devices or f"none: {gpu.get('reason', 'unknown')}"))
    facts.append(("threads", str(environment.get("threads", "?"))))
    kernels = []
    for name, status in (environment.get("kernels") or {}).items():
        live = bool(status.get("live"))
        detail = f"SIMD {status['simd']}" if status.get("simd") else ", ".join(map(str, status.get("archs") or []))
        if not live:
            detail = f"{status.get('reason', 'unknown')}; the plain PyTorch references ran"
        kernels.append((str(name), live, detail))
    return Machine("; ".join(names), facts, kernels)
