"""What `run analyze` finds out of a run, part by part: facts for analysis.json and arrays for analysis.npz."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from robustdml_ext.evaluation import (
    AttackedImages,
    ClassThreat,
    Subject,
    ThreatModel,
    attack_classified_images,
    attack_images,
    embedding_map,
    judge_norms,
    map_rows,
    norm_differences,
    retrieval_sheets,
    sheet_rows,
)
from robustdml_ext.evaluation.score import json_ready
from robustdml_ext.evaluation.threats import BOTH_SIDES
from robustdml_ext.methods import Prototypes
from robustdml_ext.methods.streams import stream_names
from robustdml_ext.tools.analysis_options import AnalysisOptions, Threat, choose_threat
from robustdml_ext.tools.finished import FinishedRun

Arrays = dict[str, npt.NDArray[Any]]
PARTS = ("map", "sheets", "norms", "auxiliary")
TOP = 5
# At most so many queries are attacked to find those that break.
POOL = 512


class _MissingError(Exception):
    """A part that a run does not have; the message says why."""


def analyze(run: FinishedRun, options: AnalysisOptions) -> tuple[dict[str, Any], Arrays]:
    """Return the facts and the arrays of all parts; of a part that the run does not have, why.

    Raises:
        RunRefusedError: an attack that this run cannot be analyzed under.
    """
    facts: dict[str, Any] = {"threat": None}
    arrays: Arrays = {}
    began = time.perf_counter()
    run.subject.clean()
    seconds = {"clean": time.perf_counter() - began}

    def part(name: str, make: Callable[[], tuple[dict[str, Any], Arrays]]) -> None:
        began = time.perf_counter()
        try:
            facts[name], made = make()
            arrays.update(made)
        except _MissingError as why:
            facts[name] = {"missing": str(why)}
        seconds[name] = time.perf_counter() - began

    part("norms", lambda: _norms(run))
    part("auxiliary", lambda: _auxiliary(run))
    pictures = _Pictures(run, options)
    began = time.perf_counter()
    pictures.attack()
    seconds["attack"] = time.perf_counter() - began
    part("map", pictures.map)
    part("sheets", pictures.sheets)
    facts["threat"] = None if pictures.threat is None else asdict(pictures.threat)
    return {**facts, "seconds": seconds}, arrays


def nothing_of_sound() -> dict[str, Any]:
    """Return the facts of a run on recordings."""
    why = {
        "map": "attacks are on pixels, which recordings have none of",
        "sheets": "recordings have no pictures, and attacks are on pixels",
        "norms": "one distribution: there is nothing to compare its norms with",
        "auxiliary": "one distribution: there are no auxiliary norms",
    }
    return {"threat": None, **{name: {"missing": why[name]} for name in PARTS}, "seconds": dict.fromkeys(PARTS, 0.0)}


def _distributions(run: FinishedRun) -> list[str]:
    """Names of the network's distributions.

    Raises:
        _MissingError: it has one, or is an ensemble.
    """
    count = getattr(run.subject.model, "distributions", None)
    if count is None:
        raise _MissingError("an ensemble, whose members have one distribution each")
    if count == 1:
        raise _MissingError("one distribution, without auxiliary norms")
    return ["clean", *stream_names(run.recipe.targets)]


def _norms(run: FinishedRun) -> tuple[dict[str, Any], Arrays]:
    names, found = _distributions(run), norm_differences(run.subject.model)
    places = range(len(found.pairs))
    facts = {
        "distributions": names,
        "pairs": [list(pair) for pair in found.pairs],
        "layers": list(found.layers),
        "mean_absolute": {
            name: [found.spread(name, place).mean_absolute for place in places] for name in ("gamma", "beta")
        },
    }
    tensors = {"norm_layer": found.layer, "norm_gamma": found.gamma, "norm_beta": found.beta}
    return facts, {name: tensor.numpy() for name, tensor in tensors.items()}


def _auxiliary(run: FinishedRun) -> tuple[dict[str, Any], Arrays]:
    names = _distributions(run)
    found = judge_norms(run.subject, seed=run.recipe.seed, recall_at=run.recipe.recall_at)
    entries = [{"name": name, "metrics": json_ready(metrics)} for name, metrics in zip(names, found, strict=True)]
    return {"distributions": entries}, {}


class _Pictures:
    """Map and sheets, whose images are attacked together."""

    def __init__(self, run: FinishedRun, options: AnalysisOptions) -> None:
        self.run, self.options, self.subject = run, options, run.subject
        self.threat = choose_threat(run.result, run.recipe, options)
        self.images: AttackedImages | None = None
        self.why = "the run was judged under no attack on queries; name one by --attack"

    def _map_rows(self) -> Tensor:
        asked = self.options
        return map_rows(self.subject.labels, asked.classes, asked.images_per_class, asked.seed)

    def attack(self) -> None:
        """Attacks the images of both; where that cannot be done, `why` says why."""
        pool = sheet_rows(len(self.subject.labels), POOL, self.options.seed)
        rows, seed = torch.cat([pool, self._map_rows()]).unique(), self.run.recipe.seed
        try:
            if isinstance(self.threat, ThreatModel):
                self.images = attack_images(self.subject, self.threat, rows, keep=pool, seed=seed)
            elif self.threat is not None:
                assert isinstance(self.run.method, Prototypes)
                classifier = self.run.method.classifier()
                self.images = attack_classified_images(
                    self.subject, classifier, self.threat, rows, keep=pool, seed=seed
                )
        except ValueError as error:
            self.why = str(error)

    def _attacked(self) -> AttackedImages:
        if self.images is None:
            raise _MissingError(self.why)
        return self.images

    def map(self) -> tuple[dict[str, Any], Arrays]:
        attacked, rows, subject = self._attacked(), self._map_rows(), self.subject
        try:
            found = embedding_map(subject.clean().queries[rows], attacked.embeddings_of(rows), seed=self.options.seed)
        except (ValueError, ImportError) as error:
            raise _MissingError(str(error)) from None
        labels, classes = self._numbered(subject.labels[rows])
        facts = {
            "method": found.method,
            "perplexity": found.perplexity,
            "classes": classes,
            "fitted_on": "clean and attacked together",
        }
        return facts, {
            "map_clean": found.clean.numpy(),
            "map_attacked": found.attacked.numpy(),
            "map_class": labels.numpy(),
        }

    def sheets(self) -> tuple[dict[str, Any], Arrays]:
        attacked, subject = self._attacked(), self.subject
        found = retrieval_sheets(subject, attacked, queries=self.options.queries, top=TOP, seed=self.options.seed)
        every = torch.cat([found.labels, found.clean_labels.flatten(), found.attacked_labels.flatten()])
        numbers, classes = self._numbered(every)
        size, shape = len(found.labels), found.clean_labels.shape
        own, clean, moved = numbers.split([size, shape.numel(), shape.numel()])
        facts = {
            "top": TOP,
            "gallery": "clean",
            "gallery_images": len(subject.gallery_labels),
            "class_names": classes,
            "drawn_from": found.drawn_from,
            "right": found.right,
            "broken": found.broken,
            "note": _note(self.threat, subject),
        }
        return facts, {
            "sheet_query": _pixels(found.clean),
            "sheet_attacked": _pixels(found.attacked),
            "sheet_perturbation": (found.attacked - found.clean).movedim(-3, -1).contiguous().numpy(),
            "sheet_query_class": own.numpy(),
            "sheet_clean_top": _pixels(found.clean_pictures),
            "sheet_attacked_top": _pixels(found.attacked_pictures),
            "sheet_clean_top_class": clean.reshape(shape).numpy(),
            "sheet_attacked_top_class": moved.reshape(shape).numpy(),
            "sheet_clean_similarity": found.clean_similarity.numpy(),
            "sheet_attacked_similarity": found.attacked_similarity.numpy(),
            "sheet_random": found.random.numpy(),
        }

    def _numbered(self, labels: Tensor) -> tuple[Tensor, list[str]]:
        """Labels as places among the names of the classes that there are, −1 as it is; and these names."""
        known = labels[labels >= 0].unique()
        places = torch.searchsorted(known, labels).masked_fill(labels < 0, -1)
        names = max((part.class_names for part in (self.run.splits.test, self.run.splits.gallery) if part), key=len)
        return places, [str(names[number]) for number in known.tolist()]


def _pixels(images: Tensor) -> npt.NDArray[np.uint8]:
    """`[…, C, H, W]` in [0, 1] → uint8 `[…, H, W, C]`."""
    levels = (images * 255).round().clamp(0, 255).to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().numpy()


def _note(threat: Threat | None, subject: Subject) -> str:
    """What a reader of the sheets should know."""
    said = []
    if isinstance(threat, ClassThreat):
        said.append("the attack is on the similarity head's logits, and items are ranked by the embeddings' cosine")
    elif threat is not None and threat.attacked_side == BOTH_SIDES:
        said.append("the result's figures are of a gallery that is attacked like the queries; here it is clean")
    if subject.voters is not None:
        said.append("items are those that the members elect, and similarities are the mean of the members' cosines")
    return "; ".join(said)
