"""A prototypical classifier under attack: each head through itself, and what misleads one head tried on the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from robustdml_ext.attacks import under_attack
from robustdml_ext.evaluation.class_threats import ClassThreat
from robustdml_ext.evaluation.subject import Perturbation
from robustdml_ext.models import PrototypicalClassifier
from robustdml_ext.models.prototypical import DENSE, HEADS, SIMILARITY

Batches = Iterable[tuple[Tensor, Tensor]]
Progress = Callable[[str, int, int], None]


def judge_classifier(
    classifier: PrototypicalClassifier,
    images: Batches,
    threats: Sequence[ClassThreat] = (),
    *,
    heads: Sequence[str] = HEADS,
    prototype_of: Tensor | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Accuracies of a classifier's heads, clean and under each threat, as table 1 of the prototypes paper has them.

    Every threat is run once through each head, with full access to it, on all images that some judged head classifies
    rightly; an image that a head has wrong without an attack stays wrong for it. "accuracy_similarity" and
    "accuracy_dense" are each head's under the attack through itself; "accuracy_similarity_from_dense" and
    "accuracy_dense_from_similarity" are of one head on what the attack on the other made. Where there are several
    threats, the last entry, "worst", counts an image for a head where none of them misled it by either way; its ε is
    the largest of theirs.

    Args:
        classifier: the model; judged in eval mode, in float32.
        images: batches of images `[B, C, H, W]` and labels int64 `[B]`; read once a threat.
        threats: what attacks.
        heads: which are judged: "similarity", "dense".
        prototype_of: the class's place among prototypes for each label, int64; None: the label itself.
        seed: of random starts and searches.
        device: where the classifier is; default: where its prototypes are.
        progress: called before each attack with what it is, its number, and how many there are.

    Returns:
        One entry a threat, after the clean one: "threat" (None where clean), "metrics", "perturbation", "seconds".

    Raises:
        TypeError: images can be read only once.
        ValueError: an unknown head, no images, or a label without a prototype.
    """
    if isinstance(images, Iterator):
        raise TypeError("images: are read again under every threat; pass a list of batches or a loader")
    if not heads or any(head not in HEADS for head in heads):
        raise ValueError(f"heads: expected some of {', '.join(HEADS)}, got {', '.join(heads) or 'none'}")
    place = classifier.heads.prototypes.device if device is None else torch.device(device)
    run = _Judgment(classifier, images, tuple(heads), prototype_of, seed, place)
    began = time.perf_counter()
    right = run.clean()
    entries = [_entry(None, {f"accuracy_{head}": _share(right[head]) for head in heads}, began)]
    surviving = {head: right[head].clone() for head in heads}
    any_right = torch.stack(list(right.values())).any(0)
    for number, threat in enumerate(threats):
        metrics, began, perturbation = {}, time.perf_counter(), Perturbation()
        for attacked in heads:
            if progress is not None:
                done = number * len(heads) + heads.index(attacked) + 1
                progress(f"{threat.name} on {attacked}", done, len(threats) * len(heads))
            found = run.attack(threat, attacked, any_right, perturbation)
            for judged in heads:
                found[judged] &= right[judged]
                name = f"accuracy_{judged}" if judged == attacked else f"accuracy_{judged}_from_{attacked}"
                metrics[name] = _share(found[judged])
                surviving[judged] &= found[judged]
        entries.append(_entry(threat, metrics, began, perturbation.figures()))
    if len(threats) > 1:
        worst = {
            "name": "worst", "epsilon": max(threat.epsilon for threat in threats), "norm": threats[0].norm,
            "attacks": [threat.name for threat in threats],
        }  # fmt: skip
        metrics = {f"accuracy_{head}": _share(surviving[head]) for head in heads}
        entries.append({"threat": worst, "metrics": metrics, "perturbation": None, "seconds": 0.0})
    return entries


class _Judgment:
    """One classifier on one set of images."""

    def __init__(
        self,
        classifier: PrototypicalClassifier,
        images: Batches,
        heads: tuple[str, ...],
        prototype_of: Tensor | None,
        seed: int,
        device: torch.device,
    ) -> None:
        self.classifier, self.images, self.heads = classifier, images, heads
        self.prototype_of, self.seed, self.device = prototype_of, seed, device

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and the places of their classes among prototypes, on the device."""
        classes, read = self.classifier.heads.classes, 0
        for pixels, labels in self.images:
            if not len(labels):
                continue
            places = labels.to(torch.int64)
            if self.prototype_of is not None:
                _check_range("labels", places, len(self.prototype_of))
                places = self.prototype_of.to(places.device)[places]
            _check_range("labels" if self.prototype_of is None else "prototype_of", places, classes)
            read += len(labels)
            yield pixels.to(self.device), places.to(self.device)
        if not read:
            raise ValueError("images: expected at least one, got none")

    def right(self, pixels: Tensor, places: Tensor) -> dict[str, Tensor]:
        """Of each head which of the images it classifies rightly; a logit that is no number is a miss."""
        with torch.no_grad():
            embeddings = self.classifier.embed(pixels)
            return {head: self._hits(self._logits(embeddings, head), places) for head in self.heads}

    def _logits(self, embeddings: Tensor, head: str) -> Tensor:
        return self.classifier.heads.logits(embeddings, head)

    @staticmethod
    def _hits(logits: Tensor, places: Tensor) -> Tensor:
        # Clamped, as the dense output layer has no output for classes that were added after training.
        own = logits.gather(1, places.clamp(max=logits.shape[1] - 1)[:, None])
        return (logits.argmax(1) == places) & own.squeeze(1).isfinite()

    def clean(self) -> dict[str, Tensor]:
        """Of each head which images it classifies rightly, bool `[N]` on the CPU."""
        found: dict[str, list[Tensor]] = {head: [] for head in self.heads}
        with under_attack(self.classifier, "eval"), self._full_precision():
            for pixels, places in self.batches():
                for head, right in self.right(pixels, places).items():
                    found[head].append(right.cpu())
        return {head: torch.cat(parts) for head, parts in found.items()}

    def attack(self, threat: ClassThreat, head: str, chosen: Tensor, perturbation: Perturbation) -> dict[str, Tensor]:
        """As `clean`, after an attack through one head on the chosen images, bool `[N]`; others stay as they are."""
        victim, attack = self.classifier.through(head), threat.attack()
        generator = torch.Generator().manual_seed(self.seed)
        found: dict[str, list[Tensor]] = {name: [] for name in self.heads}
        done = 0
        with self._full_precision():
            for pixels, places in self.batches():
                asked = chosen[done : done + len(places)].to(self.device)
                if head == DENSE:  # which has no output for classes that were added after training
                    asked &= places < self.classifier.heads.dense.out_features
                done += len(places)
                if asked.any():
                    objective = threat.objective(places[asked])
                    moved = attack.perturb(victim, pixels[asked], objective, generator=generator)
                    perturbation.add(pixels[asked], moved)
                    pixels = pixels.clone()
                    pixels[asked] = moved
                with under_attack(self.classifier, "eval"):
                    for name, right in self.right(pixels, places).items():
                        found[name].append(right.cpu())
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _full_precision(self) -> torch.autocast:
        return torch.autocast(self.device.type, enabled=False)


def _check_range(name: str, places: Tensor, count: int) -> None:
    least, most = int(places.min()), int(places.max())
    if not 0 <= least <= most < count:
        raise ValueError(f"{name}: expected classes with a prototype, 0 to {count - 1}; got {least} to {most}")


def _share(right: Tensor) -> float:
    return float(right.double().mean())


def _entry(
    threat: ClassThreat | None, metrics: dict[str, float], began: float, perturbation: dict[str, float] | None = None
) -> dict[str, Any]:
    record = None
    if threat is not None:
        record = {**asdict(threat), "algorithm": threat.algorithm}
    return {
        "threat": record,
        "metrics": metrics,
        "perturbation": perturbation,
        "seconds": time.perf_counter() - began,
    }


def places_of(names: Sequence[str], classifier: PrototypicalClassifier) -> Tensor:
    """For each of a data set's classes, by name, the place of its prototype, int64 `[classes]`.

    Raises:
        ValueError: classes that the classifier has no prototype of.
    """
    known = {name: place for place, name in enumerate(classifier.class_names)}
    missing = [name for name in names if name not in known]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise ValueError(
            f"classes: the classifier has no prototype of {', '.join(missing[:5])}{more}; add them from examples first"
        )
    return torch.tensor([known[name] for name in names], dtype=torch.int64)


__all__ = ["DENSE", "HEADS", "SIMILARITY", "judge_classifier", "places_of"]
