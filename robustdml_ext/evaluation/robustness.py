"""The robustness suite: a model attacked as its users would be, in every way the suite knows, and one score of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.evaluation.attacked import attack_dataset, attack_subject
from robustdml_ext.evaluation.checks import Plan, run_checks
from robustdml_ext.evaluation.corruptions import SEVERITIES, check_corruption, corrupted, parse
from robustdml_ext.evaluation.figures import Figures, measure, measure_attacked, wanted_of, worst_cases
from robustdml_ext.evaluation.judging import Judge, entry_of, worst_entry
from robustdml_ext.evaluation.protocol import protocol_of, radii_of, threats_of, varied
from robustdml_ext.evaluation.score import RobustnessReport, area_under_curve
from robustdml_ext.evaluation.subject import Embedded, Images, Subject
from robustdml_ext.evaluation.suite import _batches, embed
from robustdml_ext.evaluation.threats import EVERY_ROUTE, STANDARD, ThreatModel, standard_threat

__all__ = ["ThreatModel", "attack_dataset", "evaluate_under", "judge_robustness", "sweep"]

EPSILONS = (4 / 255, 8 / 255, 16 / 255)
L2_EPSILONS = (0.25, 0.5, 1.0)
EAT_EPSILONS = tuple(epsilon / 255 for epsilon in (8, 12, 16, 20, 24, 28, 32))  # figure 3 of EAT

Progress = Callable[[str, int, int], None]


def judge_robustness(
    model: nn.Module,
    images: Images,
    *,
    gallery: Images | None = None,
    epsilons: Sequence[float] = EPSILONS,
    l2_epsilons: Sequence[float] = L2_EPSILONS,
    attacks: Sequence[str] = STANDARD,
    steps: int = 20,
    norms: Sequence[str] = ("linf",),
    seed: int = 0,
    targets: int = 5,
    k: int = 1,
    queries: int = 200,
    algorithm: str | None = None,
    step_size: float | None = None,
    momentum: float = 0.0,
    restarts: int = 1,
    keep_best: bool = False,
    norm_mode: str = "eval",
    precision: str = "float32",
    surrogate: nn.Module | None = None,
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = SEVERITIES,
    checks: bool = True,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    metrics: str | Sequence[str] = "default",
    batch_size: int = 128,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> RobustnessReport:
    """Attacks an embedding model in every way of a list, at every ε, and reports how much of its retrieval is left.

    Clean embeddings are computed once and shared; each attack reads the images once. Gradient attacks go through every
    one of `attacks.routes(model)`; an attack's figure is that of the worst route for each query, and each route's own
    figures stand beside it. Attacks on queries alone are searched in the clean gallery, each query's own image left out
    by its index. The model is left as it was. Nothing of size [N, N] is made.

    The worst case at an ε counts what any attack did at that ε or at a smaller one of the norm, whose ball lies within;
    an attack's own figures are its own. An embedding that is not finite, clean or attacked, is a miss.

    A model with `voters`, the widths of an ensemble's members in its embeddings (`models.Ensemble` with inference
    "vote"), is judged by their votes: recall and clusters as `evaluate` has them with `voters`. "rank" and the other
    groups of figures stay those of the embeddings side by side.

    Args:
        model: images `[B, C, H, W]` in [0, 1] → embeddings `[B, D]`; any module. Cosine distance is judged.
        images: the queries: a split of `robustdml_ext.data`, any torch data set of (image, label), or batches that can
            be read several times in one order.
        gallery: what is searched, likewise; None: the queries themselves.
        epsilons: radii of the l∞ ball, in pixels of [0, 1].
        l2_epsilons: those of the l2 ball, where `norms` has "l2".
        attacks: names of `ATTACKS`. In l2 "square", which has no such form, is left out.
        steps: of gradient attacks.
        norms: of "linf" and "l2".
        seed: of targets, random starts, k-means, the surrogate, and corruptions.
        targets: T of "mtax".
        k: depth that "out", "square" and "transfer" push right items out of.
        queries: how often "square" asks about an image.
        algorithm: "pgd" or "adaptive" for all gradient attacks; None: each attack's own (`ATTACKS`).
        step_size, momentum, restarts, keep_best, norm_mode, precision: fields of `ThreatModel`, of all attacks. A step
            size or a momentum asks for "pgd".
        surrogate: a model whose gradients "transfer" uses; None: a small network taught the model's embeddings.
        corruptions: names of `CORRUPTIONS`, or ("all",): every image is corrupted, queries and gallery alike.
        severities: of 1 to 5.
        checks: look for signs that attacks fail for another reason than robustness (`CHECKS`).
        recall_at: depths k of Recall@k; 1 is always among them.
        clustering: k-means, NMI and F1, wherever all images are attacked alike.
        metrics: groups of figures, as `evaluation.evaluate`, wherever all images are attacked alike; "verification" of
            clean and corrupted images alone.
        batch_size: of what is no iterable of batches already.
        device: where the model is; default: where its first parameter is.
        progress: called with a name, a number from 1, and their total, before each attack and corruption,
            and before the checks.

    Raises:
        TypeError: images can be read only once.
        ValueError: an unknown name, a number out of its range, corruptions without severities, no images, one class
            only, images in another order each time, or a model none of whose clean embeddings is finite.
    """
    changes: dict[str, object] = {
        "restarts": restarts, "norm_mode": norm_mode, "precision": precision, "keep_best": keep_best,
        "step_size": step_size, "momentum": momentum,
    }  # fmt: skip
    if algorithm is not None:
        changes["algorithm"] = algorithm
    radii = radii_of(norms, epsilons, l2_epsilons)
    threats = threats_of(attacks, radii, steps, {**changes, "targets": targets, "k": k, "queries": queries}, surrogate)
    names = parse(corruptions)
    if names and not severities:
        raise ValueError("severities: expected at least one of 1 to 5 for corruptions, got none")
    for severity in severities:
        check_corruption("jpeg", severity)
    wanted = wanted_of(recall_at, clustering, seed, metrics)
    subject = Subject(model, images, gallery, batch_size=batch_size, device=device)
    judge = Judge(subject, wanted, seed, surrogate)
    total = len(threats) + len(names) * len(severities) + int(checks)
    report = progress or _silent

    began = time.perf_counter()
    clean = judge.clean
    entries = [entry_of("clean", clean.metrics, clean.metrics, seconds=time.perf_counter() - began)]
    judged: dict[tuple[str, float, str], Figures] = {}
    for number, threat in enumerate(threats, 1):
        report(f"{threat.name}, {threat.norm}, epsilon {threat.epsilon:.4g}", number, total)
        figures, entry = judge.attack(threat)
        judged[threat.norm, threat.epsilon, threat.name] = figures
        entries.append(entry)
    cases = worst_cases(judged, clean, wanted)
    curves: dict[str, dict[float, float]] = {}
    for (norm, epsilon), figures in cases.items():
        here = [name for n, radius, name in judged if (n, radius) == (norm, epsilon)]
        entries.append(worst_entry(norm, epsilon, figures, here, clean))
        curves.setdefault(norm, {})[epsilon] = figures.metrics["recall@1"]
    if names:
        entries += _corruption_entries(judge, names, severities, lambda name, i: report(name, len(threats) + i, total))
    found: list[dict[str, Any]] = []
    if checks and threats:
        report("checks", total, total)
        found = run_checks(judge, judged, Plan(radii, steps, changes), attacks)

    areas = {
        norm: area_under_curve(clean.metrics["recall@1"], curve) for norm, curve in curves.items() if max(curve) > 0
    }
    survivors = {key: (figures.ahead < 1) for key, figures in judged.items()}
    for (norm, epsilon), figures in cases.items():
        survivors[norm, epsilon, "worst"] = figures.ahead < 1
    return RobustnessReport(
        entries=entries,
        checks=found,
        protocol=protocol_of(subject, threats, radii, seed, wanted),
        score=sum(areas.values()) / len(areas) if areas else math.nan,
        areas=areas,
        survivors=survivors,
    )


def sweep(
    model: nn.Module,
    images: Images,
    threat: ThreatModel | str = "away",
    *,
    epsilons: Sequence[float] | None = EAT_EPSILONS,
    steps: Sequence[int] | None = None,
    **options: Any,
) -> list[dict[str, Any]]:
    """One attack over radii ε (figure 3 of EAT), numbers of steps (figure 2), or both: an entry each, ε by ε.

    Args:
        model, images, options: as `judge_threats`, which judges them.
        threat: what is varied; a name of `ATTACKS` for that attack as the suite runs it. A step size that is the
            threat's own ε / steps stays ε / steps, another one stays as it is; so does the random start's share of ε.
        epsilons: None for the threat's own.
        steps: None for the threat's own.

    Raises:
        TypeError, ValueError: as `judge_threats`.
    """
    base = standard_threat(threat, EAT_EPSILONS[0]) if isinstance(threat, str) else threat
    radii, counts = epsilons or [base.epsilon], steps or [base.steps]
    return judge_threats(model, images, [varied(base, e, n) for e in radii for n in counts], **options)


def judge_threats(
    model: nn.Module,
    images: Images,
    threats: Sequence[ThreatModel],
    *,
    gallery: Images | None = None,
    seed: int = 0,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    metrics: str | Sequence[str] = "default",
    batch_size: int = 128,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """The entries of `RobustnessReport.entries` for any threats: the clean one, then one a threat, in their order.

    Arguments and errors as `judge_robustness`, of which this is the part that attacks.
    """
    wanted = wanted_of(recall_at, clustering, seed, metrics)
    judge = Judge(Subject(model, images, gallery, batch_size=batch_size, device=device), wanted, seed)
    began = time.perf_counter()
    entries = [entry_of("clean", judge.clean.metrics, judge.clean.metrics, seconds=time.perf_counter() - began)]
    for number, one in enumerate(threats, 1):
        (progress or _silent)(f"{one.name}, epsilon {one.epsilon:.4g}, {one.steps} steps", number, len(threats))
        entries.append(judge.attack(one)[1])
    return entries


def evaluate_under(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    seed: int = 0,
    *,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    batch_size: int = 128,
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """The figures under one threat: those of `evaluation.evaluate` where queries and gallery are attacked alike.

    Where only queries, or gallery items, are attacked: "recall@k" against the clean gallery, and "rank" where the
    attack is after a candidate's (see `judge_robustness`). Arguments as `attack_dataset` and `evaluation.evaluate`.

    Raises:
        TypeError, ValueError: as these.
    """
    wanted = replace(wanted_of(recall_at, clustering, seed), recall_at=tuple(recall_at))
    if threat.route == EVERY_ROUTE:
        judge = Judge(Subject(model, images, batch_size=batch_size, device=device), wanted, seed)
        return judge.attack(threat)[0].metrics
    subject = Subject(model, images, batch_size=batch_size, device=device)
    attacked = attack_subject(subject, threat, seed)
    return measure_attacked(subject, attacked, threat, wanted).metrics


def _silent(name: str, number: int, total: int) -> None:
    pass


def _corruption_entries(
    judge: Judge, names: Sequence[str], severities: Sequence[int], report: Callable[[str, int], None]
) -> list[dict[str, Any]]:
    """The mean over kinds and severities, then each."""
    clean, entries, number = judge.clean.metrics, [], 0
    for name in names:
        for severity in severities:
            number += 1
            report(f"{name}, severity {severity}", number)
            began = time.perf_counter()
            metrics = measure(judge.subject, _corrupted(judge, name, severity), judge.wanted).metrics
            record = {"name": name, "severity": severity}
            seconds = time.perf_counter() - began
            entries.append(entry_of("corruption", metrics, clean, corruption=record, seconds=seconds))
    mean = {key: sum(entry["metrics"][key] for entry in entries) / len(entries) for key in clean}
    record = {"name": "mean", "severity": None, "of": list(names), "severities": list(severities)}
    return [entry_of("corruption", mean, clean, corruption=record), *entries]


def _corrupted(judge: Judge, name: str, severity: int) -> Embedded:
    subject, first, found = judge.subject, 0, []
    with subject.autocast("float32"):
        for source in subject.sources:
            batches: Iterator[tuple[Tensor, Tensor]] = corrupted(
                _batches(source, subject.batch_size), name, severity, seed=judge.seed, first=first
            )
            found.append(embed(subject.model, batches, subject.device)[0])
            first += len(found[-1])
    return Embedded(found[0], found[-1])
