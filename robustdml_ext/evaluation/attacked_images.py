"""Some of the images under attack, with what the attack made of them: to be looked at, not to be counted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from robustdml_ext.evaluation.answers import right
from robustdml_ext.evaluation.attacked import Watch, attack_subject
from robustdml_ext.evaluation.class_threats import ClassThreat
from robustdml_ext.evaluation.figures import Wanted
from robustdml_ext.evaluation.judging import Judge
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.suite import embed
from robustdml_ext.evaluation.threats import GALLERY, QUERIES, ThreatModel
from robustdml_ext.models import PrototypicalClassifier
from robustdml_ext.models.prototypical import SIMILARITY

_Pixels = list[tuple[Tensor, Tensor, Tensor]]  # rows, pixels before, pixels after


@dataclass(frozen=True)
class AttackedImages:
    """Queries of a subject, attacked. All tensors are on the CPU.

    Attributes:
        rows: which queries, int64 `[n]`, ascending.
        embeddings: of the attacked images as the deployed model sees them, float32 `[n, D]`; may hold NaN or infinity.
        kept: the rows whose pixels follow, int64 `[m]`, ascending; each is among `rows`.
        clean: pixels before the attack, float32 `[m, C, H, W]`.
        attacked: pixels after it, likewise.
    """

    rows: Tensor
    embeddings: Tensor
    kept: Tensor
    clean: Tensor
    attacked: Tensor

    def embeddings_of(self, rows: Tensor) -> Tensor:
        """Attacked embeddings `[k, D]` of some of the rows, int64 `[k]`.

        Raises:
            ValueError: a row that was not attacked.
        """
        return self.embeddings[places_in(self.rows, rows, "rows")]


def attack_images(
    subject: Subject, threat: ThreatModel, rows: Tensor, *, keep: Tensor | None = None, seed: int = 0
) -> AttackedImages:
    """Attacks some of a subject's queries as `judge_threats` does, and keeps what comes of them.

    Targets are those of `judge_threats` with the same seed. Through several routes, which each attack every image, an
    image counts as what the first one that makes its nearest neighbor wrong made of it, or else as what the first one
    did. Where an attack moves the gallery as well, other images stay clean here.

    Args:
        subject: the model and its images; an iterable that can be read again.
        threat: an attack on queries, or on queries and gallery.
        rows: which queries, int64 `[n]`, each once.
        keep: those of them whose pixels are kept; None for all.
        seed: of targets and random starts. With a random start, the batch size and the rows have a say as well.

    Raises:
        TypeError: rows are no int64.
        ValueError: no rows, rows that there are not or that come twice, an attack on gallery items, one class only, or
            a model through which no gradient comes.
    """
    rows = _checked("rows", rows, len(subject.labels))
    wanted = rows if keep is None else _checked("keep", keep, len(subject.labels), least=0)
    places_in(rows, wanted, "keep")
    if threat.attacked_side == GALLERY:
        raise ValueError(f"threat: {threat.name} moves a gallery item for each query; expected an attack on queries")
    if len(subject.all_labels.unique()) < 2:
        raise ValueError("subject: expected images of at least 2 classes to attack, got 1")
    ways = Judge(subject, Wanted(groups=()), seed).ways(threat)
    if not ways:
        model = type(subject.model).__name__
        raise ValueError(f"subject: {threat.name} needs a gradient, and none comes through {model}")
    found: AttackedImages | None = None
    for route in ways.values():
        pixels: _Pixels = []
        made = attack_subject(subject, threat, seed, route=route, chosen=rows, watch=_watch(wanted, pixels))
        here = AttackedImages(rows, made.embedded.queries[rows].float(), *_joined(pixels))
        found = here if found is None else _worse(subject, found, here)
    assert found is not None
    return found


def attack_classified_images(
    subject: Subject,
    classifier: PrototypicalClassifier,
    threat: ClassThreat,
    rows: Tensor,
    *,
    keep: Tensor | None = None,
    seed: int = 0,
    head: str = SIMILARITY,
) -> AttackedImages:
    """As `attack_images`, by an attack on a classifier's logits as `judge_classifier` runs it.

    Of all images asked for, and not of those alone that are classified rightly.

    Args:
        subject: the classifier's encoder and its images, whose labels are places of prototypes.
        classifier: what is attacked.
        threat: the attack.
        rows, keep, seed: as `attack_images`.
        head: which logits are attacked, "similarity" or "dense".

    Raises:
        TypeError, ValueError: as `attack_images`; a label without a prototype, or an unknown head.
    """
    rows = _checked("rows", rows, len(subject.labels))
    wanted = rows if keep is None else _checked("keep", keep, len(subject.labels), least=0)
    places_in(rows, wanted, "keep")
    most, classes = int(subject.labels.max()), classifier.heads.classes
    if most >= classes:
        raise ValueError(f"subject: expected labels below {classes}, which have a prototype; got {most}")
    victim, attack = classifier.through(head), threat.attack()
    generator = torch.Generator().manual_seed(seed)
    pixels: _Pixels = []
    watch = _watch(wanted, pixels)

    def adversarial() -> Iterator[tuple[Tensor, Tensor]]:
        for images, classes, here in subject.batches(QUERIES):
            asked = torch.isin(here, rows)
            if asked.any():
                before, there = images[asked.to(images.device)], classes[asked.to(classes.device)]
                after = attack.perturb(victim, before, threat.objective(there.to(before.device)), generator=generator)
                watch(here[asked], before, after)
                yield after, there

    with subject.autocast("float32"):
        embeddings = embed(subject.model, adversarial(), subject.device)[0]
    return AttackedImages(rows, embeddings, *_joined(pixels))


def _watch(wanted: Tensor, pixels: _Pixels) -> Watch:
    """Keeps the pixels of rows that are wanted."""

    def watch(rows: Tensor, before: Tensor, after: Tensor) -> None:
        chosen = torch.isin(rows, wanted)
        if chosen.any():
            there = chosen.to(before.device)
            pixels.append((rows[chosen], before[there].float().cpu(), after[there].float().cpu()))

    return watch


def _joined(pixels: _Pixels) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, and pixels before and after, of all batches."""
    if not pixels:
        return torch.empty(0, dtype=torch.int64), torch.empty(0), torch.empty(0)
    rows, before, after = zip(*pixels, strict=True)
    return torch.cat(rows), torch.cat(before), torch.cat(after)


def _worse(subject: Subject, first: AttackedImages, second: AttackedImages) -> AttackedImages:
    """The first, but for images that the second breaks and the first does not."""
    rows = first.rows
    taken = right(subject, first.embeddings, rows) & ~right(subject, second.embeddings, rows)
    embeddings = torch.where(taken[:, None], second.embeddings, first.embeddings)
    of_kept = taken[places_in(rows, first.kept, "kept")]
    attacked = first.attacked
    if len(of_kept):
        attacked = torch.where(of_kept[:, None, None, None], second.attacked, first.attacked)
    return AttackedImages(rows, embeddings, first.kept, first.clean, attacked)


def places_in(rows: Tensor, asked: Tensor, name: str) -> Tensor:
    """The place of each of some rows `[k]` among others, which ascend. Raises ValueError for one that is not there."""
    places = torch.searchsorted(rows, asked).clamp_max(max(len(rows) - 1, 0))
    missing = asked[rows[places] != asked] if len(rows) else asked
    if len(missing):
        raise ValueError(f"{name}: expected rows that were attacked, got {missing[:5].tolist()}")
    return places


def _checked(name: str, rows: Tensor, count: int, least: int = 1) -> Tensor:
    """Rows, ascending, after they are found to be rows of so many, each once."""
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64 or rows.dim() != 1:
        got = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
        raise TypeError(f"{name}: expected an int64 vector of rows, got {got}")
    ordered: Tensor = rows.cpu().unique()
    if len(rows) < least or len(ordered) != len(rows):
        raise ValueError(
            f"{name}: expected at least {least}, each once; got {len(rows)}, {len(ordered)} of them different"
        )
    if len(rows) and not 0 <= int(ordered[0]) <= int(ordered[-1]) < count:
        raise ValueError(f"{name}: expected 0 to {count - 1}, got {int(ordered[0])} to {int(ordered[-1])}")
    return ordered
