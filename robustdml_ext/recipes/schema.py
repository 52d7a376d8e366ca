"""The recipe: everything that makes a run, typed, in one flat and read-only object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from robustdml_ext.recipes.checks import check_recipe
from robustdml_ext.recipes.defense_options import DefenseOptions
from robustdml_ext.recipes.judging_options import EvaluationOptions, MachineOptions
from robustdml_ext.recipes.names import BASELINES, MethodName
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
from robustdml_ext.recipes.regularizer_options import RegularizerOptions
from robustdml_ext.recipes.sound_options import SoundOptions

FRACTIONS: frozenset[str] = frozenset(
    name
    for group in GROUPS
    for name, info in group.model_fields.items()
    if isinstance(info.json_schema_extra, dict) and info.json_schema_extra["fraction"]
)
"""Options that may be written as a fraction, 8/255."""


class RecipeError(ValueError):
    """A recipe that cannot be run as asked. The message names the option, what came and what was expected."""


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
        check_recipe(self)
        return self

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
    def head_dims(self) -> tuple[int, ...]:
        """Dimensions of the auxiliary heads of S2SD: unless told otherwise, the published multiples of D."""
        return self.s2sd_dims or tuple(self.embedding_dim * times for times in (4, 8, 12, 16))

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
        kind += "-s2sd" if self.s2sd else ""
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
