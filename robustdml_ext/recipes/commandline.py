"""Recipe options as command-line flags, made from the same fields and descriptions as the schema."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, get_args

import tyro

from robustdml_ext.recipes.defense_options import READ_BY
from robustdml_ext.recipes.files import read_recipe_file, resolve
from robustdml_ext.recipes.option_group import read_fraction, write_fraction
from robustdml_ext.recipes.options import GROUPS
from robustdml_ext.recipes.regularizer_options import READ_WITH
from robustdml_ext.recipes.schema import FRACTIONS, Published, Recipe, RecipeError

_EXAMPLES = """

Examples:
  python -m robustdml_ext.run {method}
  python -m robustdml_ext.run {method} --dataset sop --root DIR --out runs/sop --resume
  python -m robustdml_ext.run {method} --recipe FILE_OR_NAME --root DIR --epochs 10

The defaults shown are those of the data set and recipe named on this command line."""


@dataclasses.dataclass(frozen=True)
class Request:
    """What the command line asked for: the recipe, and what to do with an existing run."""

    recipe: Recipe
    published: Published | None
    resume: bool
    overwrite: bool
    debug: bool


@dataclasses.dataclass(frozen=True)
class _RunFlags:
    """What to do with this run."""

    recipe: Annotated[
        str | None,
        tyro.conf.arg(help="A recipe file, or the name of a packaged one (see `list`). Flags given beside it win."),
    ] = None
    resume: Annotated[
        bool,
        tyro.conf.arg(
            help="Go on from OUT/last.pt; starts afresh where there is none, so one command serves for both."
        ),
    ] = False
    overwrite: Annotated[bool, tyro.conf.arg(help="Start afresh where OUT holds a run; that run is lost.")] = False
    debug: Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")] = False


def _number(text: str) -> float:
    return float(read_fraction(text))


_Fraction = Annotated[
    float,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="FLOAT|N/M",
        instance_from_str=lambda words: _number(words[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [write_fraction(value)],
    ),
]
_AS_FRACTION: dict[Any, Any] = {
    float: _Fraction,
    float | None: _Fraction | None,
    tuple[float, ...]: tuple[_Fraction, ...],
}


def _flag_type(name: str, annotation: Any) -> Any:
    return _AS_FRACTION[annotation] if name in FRACTIONS else annotation


def _flag_groups() -> dict[str, type]:
    # Flags without the schema's ranges: a value out of range is then reported by make_recipe, in our words.
    groups: dict[str, type] = {}
    for group in GROUPS:
        fields = [
            (
                name,
                Annotated[_flag_type(name, info.annotation), tyro.conf.arg(help=info.description)],
                dataclasses.field(default=info.default),
            )
            for name, info in group.model_fields.items()
        ]
        made: type = dataclasses.make_dataclass(group.__name__, fields, frozen=True)
        made.__doc__ = group.__doc__
        groups[group.__name__.removesuffix("Options").lower()] = made
    return groups


# What other defaults depend on, and the weights, which must fit the architecture.
_FIRST = ("dataset", "protocol", "arch", "weights", "loss")


def parse_run(method: str, summary: str, arguments: Sequence[str], prog: str) -> Request:
    """Read the flags of a training command.

    The data set, the architecture and the recipe file are looked up first, so that what ``--help`` shows, and
    what a flag overrides, are the defaults of exactly this run. ``--epochs`` alone takes the place of a recipe's
    ``iterations``.

    Raises:
        RecipeError: a value is out of range, or the recipe file is missing or wrong.
        SystemExit: 0 after ``--help``, 2 after a flag that cannot be read (its message is on stderr).
    """
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--recipe", "--epochs", "--iterations", *(f"--{name}" for name in _FIRST)):
        early.add_argument(name)
    try:
        known, _ = early.parse_known_args(list(arguments))
    except argparse.ArgumentError:
        known = argparse.Namespace(recipe=None, epochs=None, iterations=None, **dict.fromkeys(_FIRST))
    recipe_file = read_recipe_file(known.recipe) if known.recipe is not None else None
    early_flags = {name: value for name in _FIRST if (value := getattr(known, name)) is not None}
    if early_flags.get("loss") not in get_args(Recipe.model_fields["loss"].annotation):
        early_flags.pop("loss", None)  # which the parser of all flags will say
    base = resolve(method, early_flags, recipe_file)

    groups = _flag_groups()
    flags = dataclasses.make_dataclass("Flags", [("run", _RunFlags), *groups.items()], frozen=True)
    defaults = {
        name: group(**{field.name: getattr(base, field.name) for field in dataclasses.fields(group)})
        for name, group in groups.items()
    }
    given: Any = tyro.cli(
        flags,
        default=flags(run=_RunFlags(recipe=known.recipe), **defaults),
        args=list(arguments),
        prog=prog,
        description=summary + _EXAMPLES.format(method=method),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values: dict[str, Any] = {}
    for name in groups:
        group = getattr(given, name)
        values.update({field.name: getattr(group, field.name) for field in dataclasses.fields(group)})
    if known.epochs is not None and known.iterations is None:
        values["iterations"] = None  # of the recipe file, where they would hide the epochs asked for
    for name, methods in READ_BY.items():
        if method not in methods and values[name] != getattr(base, name):
            flag = name.replace("_", "-")
            raise RecipeError(f"{method} does not read --{flag}, which is for {', '.join(methods)}")
    for switch, names in READ_WITH.items():
        given_without = [name for name in names if values[name] != getattr(base, name)]
        first, on = (name.replace("_", "-") for name in ((given_without or [""])[0], switch))
        # Off by its own flag, as in an ablation, it is meant to be.
        turned_off = any(word.partition("=")[0] in (f"--{on}", f"--no-{on}") for word in arguments)
        if given_without and not values[switch] and not turned_off:
            raise RecipeError(f"--{first} is read only with --{on}, which is off")
    return Request(
        recipe=resolve(method, values),
        published=recipe_file.published if recipe_file is not None else None,
        resume=given.run.resume,
        overwrite=given.run.overwrite,
        debug=given.run.debug,
    )
