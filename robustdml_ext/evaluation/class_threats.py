"""What an attacker of a classifier may do: the table of attacks, and the record of one."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from robustdml_ext.attacks import CLASS_OBJECTIVES, FGSM, PGD, AdaptivePGD, ClassObjective, SquareAttack
from robustdml_ext.evaluation.threats import Perturber

_QUERIES = 200


def usual_step(epsilon: float, steps: int) -> float:
    """PGD's step unless told otherwise: ε/30 as FoolBox has it, and with few steps 2.5·ε/steps, to cross the ball."""
    return epsilon * max(1 / 30, 2.5 / max(steps, 1))


@dataclass(frozen=True)
class ClassAttack:
    """One attack on a classifier.

    Attributes:
        summary: one line, for help texts and tables.
        algorithm: `"fgsm"`, `"pgd"`, `"adaptive"` (finds its step size, keeps the best iterate) or `"square"` (random
            search, no gradient).
        objective: what it climbs, of `attacks.CLASS_OBJECTIVES`.
        random_start: radius of the noise that it starts from, as a share of ε.
    """

    summary: str
    algorithm: str
    objective: str = "cross-entropy"
    random_start: float = 0.0


CLASS_ATTACKS: dict[str, ClassAttack] = {
    "fgsm": ClassAttack("one step of length ε up the cross-entropy", "fgsm"),
    "pgd": ClassAttack("steps up the cross-entropy, from anywhere in the ball", "pgd", random_start=1.0),
    "pgd-probabilities": ClassAttack(
        "as pgd, taking probabilities for logits as the published code of the prototypes paper does: weaker",
        "pgd",
        "probabilities",
        1.0,
    ),
    "fgsm-probabilities": ClassAttack("as fgsm, taking probabilities for logits, likewise", "fgsm", "probabilities"),
    "apgd": ClassAttack("Auto-PGD up the cross-entropy", "adaptive", random_start=1.0),
    "apgd-margin": ClassAttack("Auto-PGD up the margin of the best wrong class", "adaptive", "margin", 1.0),
    "square-margin": ClassAttack("random search in squares for a larger margin: no gradient", "square", "margin"),
}
STRONG: tuple[str, ...] = ("apgd", "apgd-margin", "square-margin")


@dataclass(frozen=True)
class ClassThreat:
    """What the attacker of a classifier can do, in full.

    Attributes:
        name: of `CLASS_ATTACKS`.
        epsilon: radius ε, in pixels of [0, 1].
        steps: gradient steps; 1 for fgsm, and not read by square-margin.
        step_size: of pgd, in pixels; None becomes `usual_step`. The prototypes paper has FoolBox's, ε/30.
        norm: `"linf"` or `"l2"`.
        random_start: radius of the noise that it starts from, in pixels; None becomes what the attack's name says. 0
            for fgsm and square-margin, which have no such start.
        restarts: from how many starts; 1 for fgsm.
        keep_best: judge each image's best iterate instead of the last one; always so but for pgd and fgsm.
        queries: of square-margin, how often the model may be asked about an image; None becomes 200.
        space: what ε is measured in.
        norm_mode: the norm statistics that the attacker uses, running ones.

    Raises:
        ValueError: an unknown name, or a number out of its range.
    """

    name: str = "pgd"
    epsilon: float = 8 / 255
    steps: int = 20
    step_size: float | None = None
    norm: str = "linf"
    random_start: float | None = None
    restarts: int = 1
    keep_best: bool = False
    queries: int | None = None
    space: str = "pixels"
    norm_mode: str = "eval"

    def __post_init__(self) -> None:
        if self.name not in CLASS_ATTACKS:
            raise ValueError(f"name: expected one of {', '.join(CLASS_ATTACKS)}, got {self.name!r}")
        kind = self.algorithm
        if self.step_size is not None and kind != "pgd":
            raise ValueError(f"step_size: {self.name} chooses its own, got {self.step_size}")
        if self.queries is not None and kind != "square":
            raise ValueError(f"queries: for square-margin alone, got {self.queries} for {self.name}")
        if kind == "fgsm":
            for field in ("steps", "restarts"):
                object.__setattr__(self, field, 1)
        if kind in ("fgsm", "square"):
            object.__setattr__(self, "random_start", 0.0)
        if kind == "square" and self.queries is None:
            object.__setattr__(self, "queries", _QUERIES)
        if self.random_start is None:
            object.__setattr__(self, "random_start", CLASS_ATTACKS[self.name].random_start * self.epsilon)
        if kind == "pgd" and self.step_size is None:
            object.__setattr__(self, "step_size", usual_step(self.epsilon, self.steps))
        if kind != "pgd":
            object.__setattr__(self, "keep_best", kind != "fgsm")
        self.attack()

    @property
    def algorithm(self) -> str:
        """How the attack is run."""
        return CLASS_ATTACKS[self.name].algorithm

    def attack(self) -> Perturber:
        """The attack, but for its objective."""
        start = self.random_start or 0.0
        if self.algorithm == "fgsm":
            return FGSM(self.epsilon, self.norm)
        if self.algorithm == "square":
            return SquareAttack(self.epsilon, self.queries or _QUERIES, norm=self.norm, restarts=self.restarts)
        if self.algorithm == "adaptive":
            return AdaptivePGD(self.epsilon, self.steps, self.norm, start, self.restarts)
        return PGD(self.epsilon, self.steps, self.step_size, self.norm, start, self.restarts, self.keep_best)

    def objective(self, labels: Tensor, heads: int = 1) -> ClassObjective:
        """What it climbs, for images of these classes, int64 `[B]`."""
        return CLASS_OBJECTIVES[CLASS_ATTACKS[self.name].objective](labels, heads)
