"""The recipe: everything that makes a run, typed, in one flat and read-only object."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustdml_ext.recipes.defense_options import DefenseOptions
from robustdml_ext.recipes.judging_options import EvaluationOptions, MachineOptions
from robustdml_ext.recipes.option_group import read_fraction
from robustdml_ext.recipes.options import (
    GROUPS,
    AttackOptions,
    DataOptions,
    LossOptions,
    ModelOptions,
    TrainingOptions,
)
from robustdml_ext.recipes.prototype_options import PrototypeOptions
from robustdml_ext.recipes.regularizer_options import SYNTHETIC_LOSSES, RegularizerOptions
from robustdml_ext.recipes.sound_options import SoundOptions

MethodName = Literal[
    "standard", "adversarial", "advprop", "mdprop", "pal", "at", "mixup", "iat", "trades", "ensemble", "eat", "ecaml",
    "daml", "contrastive", "triplet", "lifted", "npair", "binomial", "angular", "prototypes",
]  # fmt: skip

METHODS: dict[str, str] = {
    "standard": "Standard training (ST): the metric loss on clean images.",
    "adversarial": "Adversarial training (AT): clean and targeted adversarial images, sharing their norms.",
    "advprop": "AdvProp-D (AP'): clean and single-targeted adversarial images, each with its own norms.",
    "mdprop": "MDProp (MP): clean, single- and multi-targeted adversarial images, each with its own norms.",
    "pal": "The plain baseline of the EAT paper (PAL): the Proxy-Anchor loss on clean images.",
    "at": "Untargeted adversarial training (PAL + AT): images pushed away from their clean embeddings.",
    "mixup": "Mix-Up (PAL + Mix-Up): mixtures of two images against mixtures of their embeddings.",
    "iat": "Interpolated adversarial training (PAL + IAT): Mix-Up of clean and of adversarial images.",
    "trades": "TRADES (PAL + TRADES): the loss on clean images, and how far attacked ones move.",
    "ensemble": "The naive ensemble: several networks, each trained by itself, that vote.",
    "eat": "Ensemble adversarial training (PAL + EAT): networks on parts of the data, attacked together, that vote.",
    "ecaml": "Energy confused adversarial metric learning: a metric loss against energy confusion, at the head.",
    "daml": "Deep adversarial metric learning: a metric loss on generated hard negatives, in turn against it.",
    "contrastive": "The contrastive loss on clean images, set up as ECAML and DAML are.",
    "triplet": "The triplet loss, likewise.",
    "lifted": "The lifted structure loss, likewise.",
    "npair": "The N-pair loss, likewise.",
    "binomial": "Binomial deviance, likewise.",
    "angular": "The angular loss, likewise.",
    "prototypes": "Prototypical classifiers with a learned similarity: classify, verify, retrieve, and take in new "
    "classes.",
}

# Baselines of the ECAML and DAML papers, each of which trains with the loss of its name.
BASELINES = ("contrastive", "triplet", "lifted", "npair", "binomial", "angular")

# Methods that train on clean images alone.
CLEAN = ("standard", "ecaml", "daml", *BASELINES)

# Those of the EAT paper; none of them aims at targets.
DEFENSES = ("pal", "at", "mixup", "iat", "trades", "ensemble", "eat")

# The attacks that evaluation knows; a test holds this list to its table.
EVAL_ATTACKS = (
    "stax", "mtax", "away", "both", "loss", "out", "candidate-raise", "candidate-lower", "gallery-raise",
    "gallery-lower", "square", "transfer",
)  # fmt: skip

# Those that it knows of classifiers, for prototypes; likewise.
CLASS_EVAL_ATTACKS = (
    "fgsm", "pgd", "pgd-probabilities", "fgsm-probabilities", "apgd", "apgd-margin", "square-margin",
)  # fmt: skip

FRACTIONS: frozenset[str] = frozenset(
    name
    for group in GROUPS
    for name, info in group.model_fields.items()
    if isinstance(info.json_schema_extra, dict) and info.json_schema_extra["fraction"]
)
"""Options that may be written as a fraction, 8/255."""


def is_untrained(arch: str) -> bool:
    """Whether nobody publishes ImageNet weights of an architecture: those of this package for small images."""
    found = re.fullmatch(r"wide_resnet(\d+)_\d+", arch)
    return arch in ("small", "lenet", "xvector") or (found is not None and (int(found[1]) - 4) % 6 == 0)


class RecipeError(ValueError):
    """A recipe that cannot be run as asked. The message names the option, what came and what was expected."""


# Losses that compare the images of a batch with each other, and so need two of a class.
PAIR_LOSSES = ("multisimilarity", "contrastive", "triplet", "lifted", "npair", "binomial", "angular", "prototypical")


class Recipe(
    MachineOptions,
    EvaluationOptions,
    TrainingOptions,
    PrototypeOptions,
    DefenseOptions,
    AttackOptions,
    RegularizerOptions,
    LossOptions,
    ModelOptions,
    SoundOptions,
    DataOptions,
):
    """All the options of one run; :func:`robustdml_ext.recipes.resolve` makes it with the right defaults."""

    method: MethodName = Field("mdprop", description="Training method.")

    @field_validator(*FRACTIONS, mode="before")
    @classmethod
    def _fractions(cls, value: Any) -> Any:
        return read_fraction(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        expected: dict[str, tuple[bool, str]] = {
            **dict.fromkeys(CLEAN, (len(self.targets) == 0, "none, as it trains on clean images alone")),
            "adversarial": (len(self.targets) == 1, "one number"),
            "advprop": (self.targets == (1,), "1; for other numbers use mdprop"),
            "mdprop": (len(self.targets) >= 1, "at least one number"),
        }
        expected |= dict.fromkeys((*DEFENSES, "prototypes"), (len(self.targets) == 0, "none, as it aims at no targets"))
        fits, wanted = expected[self.method]
        if not fits:
            raise ValueError(f"targets of {self.method} must be {wanted}; got {list(self.targets)}")
        positive: dict[str, tuple[float, ...]] = {
            "targets": self.targets,
            "recall_at": self.recall_at,
            "attack_epsilons": self.attack_epsilons,
            "eval_sweep_steps": self.eval_sweep_steps,
        }
        for name, values in positive.items():
            if any(value <= 0 for value in values):
                raise ValueError(f"{name} must hold numbers above 0; got {list(values)}")
        if 1 not in self.recall_at:
            raise ValueError(f"recall_at must hold 1, which tables and model selection use; got {list(self.recall_at)}")
        if self.batch_size % self.samples_per_class:
            raise ValueError(
                "batch_size must be a multiple of samples_per_class; "
                f"got {self.batch_size} and {self.samples_per_class}"
            )
        if self.batch_size // self.samples_per_class < 2:
            raise ValueError(
                "batch_size must hold at least 2 classes, so be at least twice samples_per_class; "
                f"got {self.batch_size} and {self.samples_per_class}"
            )
        if self.loss in PAIR_LOSSES and self.samples_per_class < 2:
            raise ValueError(
                f"samples_per_class must be at least 2 with the loss {self.loss}, "
                f"which needs positive pairs; got {self.samples_per_class}"
            )
        if is_untrained(self.arch) and self.weights == "imagenet":
            raise ValueError(
                f"weights of the arch {self.arch} must be none or a FILE, as ImageNet has none; got 'imagenet'"
            )
        if self.joint_loss and self.method not in ("advprop", "mdprop"):
            raise ValueError(f"joint_loss is for advprop and mdprop; got it with {self.method}")
        self._check_defense()
        self._check_regularizers()
        self._check_prototypes()
        self._check_attacks()
        if self.selects and not self.evaluate_every:
            raise ValueError(
                f"select_on {self.select_on} needs evaluate_every above 0, or there is nothing to choose from; got 0. "
                "With select_on last the last weights are judged"
            )
        return self

    def _check_attacks(self) -> None:
        known = CLASS_EVAL_ATTACKS if self.method == "prototypes" else EVAL_ATTACKS
        if unknown := [name for name in self.eval_attacks if name not in known]:
            raise ValueError(f"eval_attacks of {self.method} must be of {', '.join(known)}; got {', '.join(unknown)}")
        for name, values in (("eval_attacks", self.eval_attacks), ("eval_sweep_steps", self.eval_sweep_steps)):
            if len(set(values)) < len(values):
                raise ValueError(f"{name} must hold each value once; got {list(values)}")
        if self.eval_restarts > 1 and self.eval_random_start == 0:
            raise ValueError(
                "eval_restarts above 1 needs eval_random_start above 0, or every restart is the same; "
                f"got {self.eval_restarts} and 0"
            )

    def _check_prototypes(self) -> None:
        if (self.method == "prototypes") != (self.loss == "prototypical"):
            wanted = "prototypical" if self.method == "prototypes" else "another than prototypical"
            raise ValueError(f"loss of {self.method} must be {wanted}; got {self.loss}")
        if self.method == "prototypes" and (self.energy_confusion or self.hard_negatives):
            raise ValueError("energy_confusion and hard_negatives join metric losses, which prototypes has none of")
        if self.adversarial in ("dense", "both") and not self.auxiliary_weight:
            raise ValueError(
                f"adversarial {self.adversarial} attacks the dense output layer, so auxiliary_weight must be above 0; "
                "got 0"
            )
        if any(ways < 2 for ways in self.few_shot_ways) or any(shots < 1 for shots in self.few_shot_shots):
            raise ValueError(
                "few_shot_ways must be at least 2 and few_shot_shots at least 1; "
                f"got {list(self.few_shot_ways)} and {list(self.few_shot_shots)}"
            )

    def _check_defense(self) -> None:
        if self.method == "ensemble" and self.members < 2:
            raise ValueError(f"members of ensemble must be at least 2; got {self.members}")
        if self.method == "eat" and self.split and self.members < 2:
            raise ValueError(
                f"split needs at least 2 members, or the only one has nothing to train on; got {self.members}"
            )

    def _check_regularizers(self) -> None:
        if self.method in BASELINES and self.loss != self.method:
            raise ValueError(f"loss of {self.method} must be {self.method}; got {self.loss}")
        if self.method == "daml" and not self.hard_negatives:
            raise ValueError("hard_negatives of daml must be on, or it is its loss's baseline; got off")
        if self.hard_negatives and self.loss not in SYNTHETIC_LOSSES:
            raise ValueError(f"loss with hard negatives must be one of {', '.join(SYNTHETIC_LOSSES)}; got {self.loss}")
        if self.hard_negatives and self.loss == "npair" and self.npair_scale is not None:
            raise ValueError(f"npair_scale with hard negatives must be None; got {self.npair_scale}")
        if self.hard_negatives and self.iterations is None and 0 < self.epochs <= self.phases_before:
            raise ValueError(
                "epochs must be more than hard_negatives_pretrain and hard_negatives_alone, or the metric never meets "
                f"a synthetic negative; got {self.epochs}, {self.hard_negatives_pretrain} and "
                f"{self.hard_negatives_alone}"
            )
        if self.hard_negatives and self.label_vectors != "classes":
            raise ValueError(f"label_vectors with hard negatives must be classes; got {self.label_vectors}")

    @property
    def selects(self) -> bool:
        """Whether the weights that are judged are chosen; where nothing is trained, nothing is to choose."""
        return self.select_on != "last" and (self.epochs > 0 or self.iterations is not None)

    @property
    def unit_embeddings(self) -> bool:
        """Whether embeddings are scaled to length 1 in training: unless told otherwise, but for two losses."""
        # The exponents of npair are inner products, too narrow between unit vectors; prototypes start from a Gaussian.
        return self.loss not in ("npair", "prototypical") if self.unit_length == "auto" else self.unit_length == "yes"

    @property
    def synthetic_margin(self) -> float:
        """γ of hard negatives: unless told otherwise, the margin of the loss that they are joined with."""
        if self.hard_negatives_margin is not None:
            return self.hard_negatives_margin
        margins = {
            "contrastive": self.contrastive_negative_margin,
            "triplet": self.triplet_margin,
            "lifted": self.lifted_margin,
        }
        return margins.get(self.loss, 1.0)

    @property
    def phases_before(self) -> int:
        """Epochs before the metric and the generator are trained together, where there is a generator."""
        return self.hard_negatives_pretrain + self.hard_negatives_alone if self.hard_negatives else 0

    @property
    def out_folder(self) -> str:
        """Folder of the run: ``out``, or a name made of the data set, the method, the loss and the seed."""
        if self.out is not None:
            return self.out
        kind = "".join(f"-{count}" for count in self.targets) if self.method in ("mdprop", "adversarial") else ""
        if self.method in ("ensemble", "eat"):
            kind = f"-{self.members}" + ("-nosplit" if self.method == "eat" and not self.split else "")
        if self.method == "prototypes" and self.adversarial != "none":
            kind += f"-{self.adversarial}"
        kind += "-daml" if self.hard_negatives and self.method != "daml" else ""
        kind += "-ecaml" if self.energy_confusion and self.method != "ecaml" else ""
        kind += f"-dropout{self.dropout:g}" if self.dropout else ""
        kind += "" if self.method in (*BASELINES, "prototypes") else f"-{self.loss}"
        return f"runs/{self.dataset}-{self.method}{kind}-seed{self.seed}"

    def differences(self, other: Recipe) -> list[str]:
        """Name the options in which two recipes differ in a way that would train different weights."""
        fixed = [name for name in type(self).model_fields if name not in NEUTRAL_FIELDS]
        return [name for name in fixed if getattr(self, name) != getattr(other, name)]


def _is_neutral(name: str) -> bool:
    extra = Recipe.model_fields[name].json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("neutral"))


NEUTRAL_FIELDS: frozenset[str] = frozenset(name for name in Recipe.model_fields if _is_neutral(name))
"""Options that a resumed run may change: where it runs, what it writes, how it is judged, how long."""


class Published(BaseModel):
    """Figures that a paper printed for a recipe, as printed: R@k and NMI in percent, π_ratio as a ratio."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str = Field(description="Paper, table and row.")
    threat: str = Field(description="The attack behind the adversarial figures.")
    note: str = Field("", description="What keeps the figures from being like for like with this package's.")
    clean: dict[str, float]
    adversarial: dict[str, float] = Field(default_factory=dict)
    attacks: dict[str, dict[str, float]] = Field(
        default_factory=dict,
        description="In place of `adversarial`, by what the paper calls each of several attacks.",
    )
    clean_deviation: dict[str, float] = Field(default_factory=dict)
    adversarial_deviation: dict[str, float] = Field(default_factory=dict)


def make_recipe(fields: Mapping[str, Any]) -> Recipe:
    """Check ``fields`` and make a :class:`Recipe`.

    Raises:
        RecipeError: one line per option that is unknown, has the wrong type, or is out of range.
    """
    try:
        return Recipe(**fields)
    except ValidationError as error:
        raise RecipeError(explain(error)) from None


def explain(error: ValidationError) -> str:
    """Turn pydantic's report into lines that name the option, what was wrong, and what came."""
    lines = []
    for entry in error.errors():
        name = ".".join(str(part) for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            lines.append(f"{name} is not an option")
        elif entry["type"] == "value_error":
            lines.append(str(entry["ctx"]["error"]))
        else:
            message = entry["msg"].replace("Input should be", "must be")
            lines.append(f"{name} {message}; got {entry['input']!r}")
    return "; ".join(lines)
