"""Figures under attack: every test image is perturbed, and what results is judged as the clean images are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from robustdml_ext.attacks import PGD, AwayFromClean, Objective, TowardsTargets, sample_targets
from robustdml_ext.evaluation.suite import SequentialImages, _batches, embed, evaluate

Images = SequentialImages | Dataset[tuple[Tensor, int]] | Iterable[tuple[Tensor, Tensor]]

THREATS = ("stax", "mtax", "away")
ATTACKED = "queries and gallery"


@dataclass(frozen=True)
class ThreatModel:
    """What the attacker can do, in full: a figure under attack means nothing without it.

    Attributes:
        name: `"stax"`, towards one image of another class; `"mtax"`, towards several (equation 3 of MDProp);
            `"away"`, from the clean embedding, which needs a random start.
        epsilon: radius ε of the ball, in pixels of [0, 1].
        steps: gradient steps.
        step_size: in pixels; None becomes ε / steps (MDProp, appendix C).
        norm: of the ball, `"linf"` or `"l2"`.
        targets: T; 1 for `"stax"`.
        random_start: radius of the noise that the attack starts from, in pixels.
        restarts: from how many starts.
        keep_best: judge each image's best iterate instead of the last one.
        space: what ε is measured in.
        norm_mode: the norm statistics that the attacker uses: `"eval"`, running ones, or `"train"`, the
            batch's.
        distribution: of an Embedder, the one attacked; 0 is the deployed model. Judged is always the deployed
            one.
        attacked: which images are perturbed.
        precision: `"float32"`, or `"bfloat16"` autocast, of the attack and of the embeddings judged. float32 on
            every device, so that figures are comparable: in bfloat16 the attack is weaker and the embeddings
            are rounded. (PyTorch's own TF32 switches stay as the caller set them.)

    Raises:
        ValueError: an unknown name, a number out of its range, or numbers that do not go together.
    """

    name: str = "stax"
    epsilon: float = 0.01
    steps: int = 20
    step_size: float | None = None
    norm: str = "linf"
    targets: int = 1
    random_start: float = 0.0
    restarts: int = 1
    keep_best: bool = False
    space: str = "pixels"
    norm_mode: str = "eval"
    distribution: int = 0
    attacked: str = ATTACKED
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.name not in THREATS:
            raise ValueError(f"name: expected one of {', '.join(THREATS)}, got {self.name!r}")
        if self.space != "pixels":
            raise ValueError(f"space: expected 'pixels', got {self.space!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision: expected 'float32' or 'bfloat16', got {self.precision!r}")
        if self.attacked != ATTACKED:
            raise ValueError(f"attacked: expected {ATTACKED!r}, got {self.attacked!r}")
        if self.targets < 1 or (self.name == "stax" and self.targets != 1):
            raise ValueError(f"targets: expected 1 for stax and a number >= 1 for mtax, got {self.targets}")
        if self.name == "away" and self.random_start <= 0:
            raise ValueError("random_start: away needs one, as its gradient vanishes at the clean image; got 0")
        attack = self.attack()
        if self.step_size is None:
            # The number itself, so that a record of the threat is complete.
            object.__setattr__(self, "step_size", float(attack.step_size))

    def attack(self) -> PGD:
        """The attack, but for its objective."""
        return PGD(
            self.epsilon,
            self.steps,
            self.step_size,
            self.norm,
            self.random_start,
            self.restarts,
            self.keep_best,
            self.norm_mode,
            self.distribution,
        )


class _Under(nn.Module):
    """An Embedder under one of its distributions, as a plain model."""

    def __init__(self, model: nn.Module, distribution: int) -> None:
        super().__init__()
        self.model, self.distribution = model, distribution

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.model(images, distribution=self.distribution)
        return embeddings


def attack_dataset(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    seed: int = 0,
    *,
    batch_size: int = 128,
    device: torch.device | str | None = None,
) -> tuple[Tensor, Tensor]:
    """Embeddings float32 [N, D] of all images, perturbed, and labels int64 [N]; both on the CPU.

    All images are embedded cleanly first; these embeddings are what targets are picked from (and, for `away`,
    what is fled). Each image's targets are of other classes, drawn by `seed` alike for every model. The model
    is left as it was. Everything runs in `threat.precision`, float32 by default, whatever autocast the caller
    is in.

    Args:
        model: images [B, C, H, W] in [0, 1] → embeddings [B, D]; any module.
        images: as `evaluation.embed`; read twice, so not an iterator that is used up.
        threat: the attack.
        seed: of targets and random starts. With a random start, the batch size has a say as well.
        batch_size: of what is no iterable of batches already.
        device: where the model is; default: where its first parameter is.

    Raises:
        TypeError: `images` can be read only once.
        ValueError: there is only one class, or images come in another order the second time.
    """
    if isinstance(images, Iterator):
        raise TypeError("images: are read twice, for the clean and the attacked pass; pass a list or a loader")
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    kind = torch.device(device).type
    with torch.autocast(kind, torch.bfloat16, enabled=threat.precision == "bfloat16"):
        return _attack(model, images, threat, seed, batch_size, device)


def _attack(
    model: nn.Module, images: Images, threat: ThreatModel, seed: int, batch_size: int, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    attacker = model if threat.distribution == 0 else _Under(model, threat.distribution)
    clean, labels = embed(attacker, images, device, batch_size=batch_size)
    generator = torch.Generator().manual_seed(seed)
    targets = None
    if threat.name != "away":
        targets = sample_targets(labels, threat.targets, candidates=labels, generator=generator).to(device)
    bank, attack = clean.to(device), threat.attack()

    def objective(rows: slice) -> Objective:
        return AwayFromClean(bank[rows]) if targets is None else TowardsTargets(bank, targets[rows])

    def adversarial() -> Iterator[tuple[Tensor, Tensor]]:
        done = 0
        for pixels, classes in _batches(images, batch_size):
            rows = slice(done, done + len(pixels))
            if not torch.equal(classes.cpu().long(), labels[rows]):
                raise ValueError("images: came in another order the second time; switch shuffling off")
            done = rows.stop
            perturbed = attack.perturb(model, pixels.to(device), objective(rows), generator=generator)
            yield perturbed, classes

    return embed(model, adversarial(), device)


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
    """Every figure of `evaluation.evaluate` on images perturbed by `threat`, queries and gallery alike.

    Arguments as `attack_dataset` and `evaluation.evaluate`.

    Raises:
        TypeError, ValueError: as these.
    """
    options: dict[str, Any] = {"recall_at": recall_at, "clustering": clustering, "seed": seed}
    embeddings, labels = attack_dataset(model, images, threat, seed, batch_size=batch_size, device=device)
    if device is None:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
    return evaluate(embeddings, labels, device=device, **options)
