"""What an attacker of an embedding model may do: the table of attacks, and the record of one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from robustdml_ext.attacks import PGD, AdaptivePGD, Objective, SquareAttack

BOTH_SIDES = "queries and gallery"
QUERIES = "queries"
GALLERY = "gallery"
ALGORITHMS = ("pgd", "adaptive", "square")
EVERY_ROUTE = "every"
DISTILLED = "a small network taught the model's embeddings of the test images"


@dataclass(frozen=True)
class Attack:
    """One attack of the suite: what it is after, and how it is run unless asked otherwise.

    Attributes:
        summary: one line, for help texts and tables.
        attacked: which images are perturbed. `"queries and gallery"`: all of them, so that clusters suffer as well.
            `"queries"`: each query, searched in the clean gallery. `"gallery"`: for each query one item of the
            gallery, which is clean otherwise.
        algorithm: `"pgd"` where the attack is a published protocol, `"adaptive"` (adaptive step size, the best
            iterate kept) or `"square"` (no gradients).
        targets: how many targets or candidates each image has.
        random_start: radius of the noise that the attack starts from, as a share of ε.
        turns: in how many turns a batch is attacked; each knows where the earlier ones have moved the gallery to. In a
            single turn all images of a class flee alike, and find each other again where they fled to.
        black_box: uses no gradient of the judged model.
    """

    summary: str
    attacked: str
    algorithm: str = "adaptive"
    targets: int = 1
    random_start: float = 0.0
    turns: int = 1
    black_box: bool = False


ATTACKS: dict[str, Attack] = {
    "stax": Attack("every image towards one image of another class (MDProp)", BOTH_SIDES, "pgd"),
    "mtax": Attack("every image towards several images of other classes (MDProp)", BOTH_SIDES, "pgd", targets=5),
    "away": Attack("every image away from its clean embedding (EAT, equation 10)", BOTH_SIDES, "pgd", random_start=0.1),
    "both": Attack("every image flees its class, in turns, in a gallery that flees as well", BOTH_SIDES, turns=4),
    "loss": Attack("each query climbs the multi-similarity loss against the clean gallery", QUERIES),
    "out": Attack("each query pushes the right items out of its nearest k", QUERIES),
    "candidate-raise": Attack("each query draws a chosen item of another class to the front", QUERIES),
    "candidate-lower": Attack("each query pushes its nearest right item to the back", QUERIES),
    "gallery-raise": Attack("one gallery item of another class moves to the query's front", GALLERY),
    "gallery-lower": Attack("the query's nearest right item moves away from the query", GALLERY),
    "square": Attack(
        "as out, by random search in squares: scores alone, no gradient", QUERIES, "square", black_box=True
    ),
    "transfer": Attack("as out, with the gradients of a surrogate model", QUERIES, black_box=True),
}
STANDARD: tuple[str, ...] = tuple(ATTACKS)


class Perturber(Protocol):
    """What every attack algorithm offers."""

    def perturb(
        self, model: nn.Module, images: Tensor, objective: Objective, *, generator: torch.Generator | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class ThreatModel:
    """What the attacker can do, in full: a figure under attack means nothing without it.

    Attributes:
        name: of `ATTACKS`; `"stax"`, `"mtax"` (equation 3 of MDProp), `"away"` (which needs a random start) …
        epsilon: radius ε of the ball, in pixels of [0, 1].
        steps: gradient steps.
        step_size: in pixels; None becomes ε / steps (MDProp, appendix C). Only for the algorithm `"pgd"`; the
            others choose their own and it stays None.
        norm: of the ball, `"linf"` or `"l2"`.
        targets: T, or candidates; 1 for `"stax"`.
        random_start: radius of the noise that the attack starts from, in pixels.
        restarts: from how many starts.
        keep_best: judge each image's best iterate instead of the last one; always so but for `"pgd"`.
        space: what ε is measured in.
        norm_mode: the norm statistics that the attacker uses: `"eval"`, running ones, or `"train"`, the
            batch's.
        distribution: of an Embedder, the one attacked; 0 is the deployed model. Judged is always the deployed
            one.
        attacked: which images are perturbed; None becomes what the attack's name says.
        precision: `"float32"`, or `"bfloat16"` autocast, of the attack and of the embeddings judged. float32 on
            every device, so that figures are comparable: in bfloat16 the attack is weaker and the embeddings
            are rounded. (PyTorch's own TF32 switches stay as the caller set them.)
        momentum: of the gradient, for `"pgd"`; 0 for none. `"adaptive"` has one of its own.
        algorithm: `"pgd"`, `"adaptive"` or `"square"`.
        queries: for `"square"`, how often the model may be asked about an image; None becomes 200.
        k: for attacks on the k nearest.
        turns: in how many turns each batch is attacked, each against what the earlier ones led to.
        route: by which way gradients reach the inference: `"whole"`, as it is deployed; `"every"`, by every one of
            `attacks.routes`; or one's name.
        surrogate: for `"transfer"`, whose gradients are used, in words; None becomes `DISTILLED`. None for all others.

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
    attacked: str | None = None
    precision: str = "float32"
    momentum: float = 0.0
    algorithm: str = "pgd"
    queries: int | None = None
    k: int = 1
    turns: int = 1
    route: str = "whole"
    surrogate: str | None = None

    def __post_init__(self) -> None:
        if self.name not in ATTACKS:
            raise ValueError(f"name: expected one of {', '.join(ATTACKS)}, got {self.name!r}")
        if self.space != "pixels":
            raise ValueError(f"space: expected 'pixels', got {self.space!r}")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision: expected 'float32' or 'bfloat16', got {self.precision!r}")
        if self.attacked not in (None, ATTACKS[self.name].attacked):
            raise ValueError(
                f"attacked: expected {ATTACKS[self.name].attacked!r} for {self.name}, got {self.attacked!r}"
            )
        if self.algorithm not in ALGORITHMS:
            raise ValueError(f"algorithm: expected one of {', '.join(ALGORITHMS)}, got {self.algorithm!r}")
        if (self.name == "square") != (self.algorithm == "square"):
            raise ValueError(f"algorithm: 'square' goes with the attack square alone, got {self.algorithm!r}")
        self._check_numbers()
        object.__setattr__(self, "attacked", ATTACKS[self.name].attacked)
        if self.algorithm == "square" and self.queries is None:
            object.__setattr__(self, "queries", 200)
        if self.name == "transfer" and self.surrogate is None:
            object.__setattr__(self, "surrogate", DISTILLED)
        if self.algorithm != "pgd":
            object.__setattr__(self, "keep_best", True)
        attack = self.attack()
        if isinstance(attack, PGD) and self.algorithm == "pgd":
            # The number itself, so that a record of the threat is complete.
            object.__setattr__(self, "step_size", float(attack.step_size))

    def _check_numbers(self) -> None:
        if self.name != "transfer" and self.surrogate is not None:
            raise ValueError(f"surrogate: for transfer alone, got {self.surrogate!r} for {self.name}")
        if self.targets < 1 or (self.name == "stax" and self.targets != 1):
            raise ValueError(f"targets: expected 1 for stax and a number >= 1 for mtax, got {self.targets}")
        if self.targets > 1 and ATTACKS[self.name].attacked == GALLERY:
            raise ValueError(f"targets: {self.name} moves one item for each query, got {self.targets}")
        if self.name == "away" and self.random_start <= 0:
            raise ValueError("random_start: away needs one, as its gradient vanishes at the clean image; got 0")
        if self.step_size is not None and self.algorithm != "pgd":
            raise ValueError(f"step_size: {self.algorithm} chooses its own, got {self.step_size}")
        if self.momentum and self.algorithm != "pgd":
            raise ValueError(f"momentum: for the algorithm 'pgd' alone, got {self.momentum} for {self.algorithm!r}")
        if self.queries is not None and (self.algorithm != "square" or self.queries < 1):
            raise ValueError(f"queries: expected a number >= 1, and for square alone, got {self.queries}")
        for field, value in (("k", self.k), ("turns", self.turns)):
            if value < 1:
                raise ValueError(f"{field}: expected a number >= 1, got {value}")
        if self.turns > 1 and self.name != "both":
            raise ValueError(f"turns: {self.name} does not heed where other images moved; expected 1, got {self.turns}")

    @property
    def attacked_side(self) -> str:
        """Which images are perturbed."""
        return ATTACKS[self.name].attacked

    def attack(self) -> Perturber:
        """The attack, but for its objective."""
        if self.algorithm == "square":
            return SquareAttack(
                self.epsilon,
                self.queries or 200,
                norm=self.norm,
                restarts=self.restarts,
                distribution=self.distribution,
            )
        if self.algorithm == "adaptive":
            return AdaptivePGD(
                self.epsilon,
                self.steps,
                norm=self.norm,
                random_start=self.random_start,
                restarts=self.restarts,
                norm_mode=self.norm_mode,
                distribution=self.distribution,
            )
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
            momentum=self.momentum,
        )


_OF_GRADIENTS = ("algorithm", "momentum", "step_size", "norm_mode")


def standard_threat(
    name: str, epsilon: float, *, steps: int = 20, norm: str = "linf", **changes: object
) -> ThreatModel:
    """The attack as the suite runs it: `ATTACKS`'s own algorithm, targets and start, through every route.

    Args:
        name: of `ATTACKS`.
        epsilon, steps, norm: as in `ThreatModel`.
        changes: other fields of `ThreatModel`. More restarts than one without a `random_start` start anywhere in the
            ball. A momentum, or a step size, asks for the algorithm `"pgd"`.

    Raises:
        ValueError: as `ThreatModel`.
    """
    check_names((name,))
    table = ATTACKS[name]
    fields: dict[str, object] = {
        "algorithm": table.algorithm,
        "targets": table.targets,
        "turns": table.turns,
        "random_start": table.random_start * epsilon,
        "route": "whole" if table.black_box else EVERY_ROUTE,
    }
    restarts = changes.get("restarts", 1)
    if isinstance(restarts, int) and restarts > 1 and table.algorithm != "square":
        fields["random_start"] = epsilon
    if table.algorithm != "square" and (changes.get("momentum") or changes.get("step_size") is not None):
        fields["algorithm"] = "pgd"
    if table.algorithm == "square":
        changes = {key: value for key, value in changes.items() if key not in _OF_GRADIENTS}
    fields |= changes
    return ThreatModel(name, epsilon, steps, norm=norm, **fields)  # type: ignore[arg-type]


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError where an attack is not one of `ATTACKS`, or comes twice; TypeError for a name alone."""
    if isinstance(names, str):
        raise TypeError(f"attacks: expected a sequence of names, got the string {names!r}; ({names!r},) is one")
    unknown = [name for name in names if name not in ATTACKS]
    if unknown:
        raise ValueError(f"attacks: expected names of {', '.join(ATTACKS)}, got {', '.join(unknown)}")
    if len(set(names)) < len(names):
        raise ValueError(f"attacks: expected each name once, got {', '.join(names)}")
