"""`run show`: a recipe, whole, with what was published for it; or what a name of another kind stands for."""

from __future__ import annotations

import dataclasses
import difflib
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
import yaml

from robustdml_ext.data.names import NAMES, SETS
from robustdml_ext.recipes import (
    Published,
    Recipe,
    RecipeError,
    RecipeFile,
    packaged_recipes,
    place_in_paper,
    read_recipe_file,
    resolve,
)
from robustdml_ext.recipes.defense_options import READ_BY
from robustdml_ext.tools.catalogue import KINDS
from robustdml_ext.tools.tool import Train

_PROGRAM = "python -m robustdml_ext.run"
_WIDTH = 110
# Where the options of a loss do not begin with its name.
_OPTIONS_OF_LOSS = {"normalizedsoftmax": "softmax", "prototypical": "prototype"}


@dataclasses.dataclass(frozen=True)
class Show:
    """A recipe, whole, and the figures published for it; or what a method, loss, attack, data set or backbone is.

    For example:

    python -m robustdml_ext.run show mdprop/table3-sop-mdprop-1-5

    python -m robustdml_ext.run show triplet

    What is said of a recipe beside its YAML stands behind #, so that all of it is a recipe file: `show NAME > my.yaml`.
    """

    name: Annotated[
        str,
        tyro.conf.Positional,
        tyro.conf.arg(help="A packaged recipe's name or a recipe file; or any other name that `list` gives."),
    ]
    yaml: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print a recipe's YAML alone, without remarks.")
    ] = False


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Print a recipe, or what a name stands for.

    Returns:
        The exit code.

    Raises:
        RecipeError: there is no such recipe or name, or the recipe's file is wrong.
    """
    asked = tyro.cli(Show, args=list(words), prog=prog)
    name = asked.name
    if name not in packaged_recipes() and not Path(name).is_file():
        lines = [line for kind in KINDS if kind != "recipes" for line in _describe(kind, name)]
        if lines:
            print("\n".join(lines))
            return 0
        _check_near_names(name)
    file = read_recipe_file(name)
    recipe = resolve(recipe_file=file)
    if not asked.yaml:
        print("".join(f"# {line}".rstrip() + "\n" for line in _remarks(file, recipe)), end="")
    content: dict[str, Any] = {"title": file.title, "recipe": recipe.model_dump(mode="json")}
    if file.published is not None:
        content["published"] = file.published.model_dump(mode="json")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=_WIDTH), end="")
    return 0


def _check_near_names(name: str) -> None:
    """Raise what is near a name of another kind than recipes; recipes' own say it of recipes."""
    others = [other for kind in KINDS if kind != "recipes" for other in KINDS[kind][1]()]
    close = difflib.get_close_matches(name, others, n=3)
    if close and "/" not in name:
        raise RecipeError(f"nothing is called {name!r}, see `list`; did you mean {', '.join(dict.fromkeys(close))}?")


def _remarks(file: RecipeFile, recipe: Recipe) -> list[str]:
    """What is said of a recipe: title, published figures, how it is run, and the data that it needs."""
    root = " --root DIR" if SETS[recipe.dataset].needs_root else ""
    lines = [file.title or file.name, ""]
    if file.published is not None:
        lines += [*_published(file.published), ""]
    lines.append(f"run it:     {_PROGRAM} {recipe.method} --recipe {file.name}{root}")
    paper, place = place_in_paper(file.name)
    if place.startswith("table"):
        lines.append(f"its table:  {_PROGRAM} table '{paper}/{place}*' --seeds 3{root}")
    lines += _wrapped(f"data:       {recipe.dataset}: {NAMES[recipe.dataset]}")
    if root:
        where = recipe.root or "the folder named by --root"
        lines.append(f"            looked for in {where}; `show {recipe.dataset}` says what is expected there")
    return [*lines, ""]


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _WIDTH, subsequent_indent=" " * 12)


def _published(published: Published) -> list[str]:
    """Published figures as a table of text: a line for each kind of images."""
    from robustdml_ext.reporting.paper_figures import published_heading

    kinds = {"clean": (published.clean, published.clean_deviation)}
    kinds["attacked"] = (published.adversarial, published.adversarial_deviation)
    kinds |= {name: (figures, {}) for name, figures in published.attacks.items()}
    metrics = list(dict.fromkeys(metric for figures, _ in kinds.values() for metric in figures))
    rows = [["", *(published_heading(metric)[0] for metric in metrics)]]
    for kind, (figures, deviations) in kinds.items():
        if figures:
            cells = [
                f"{figures[m]:g}" + (f" ± {deviations[m]:g}" if m in deviations else "") if m in figures else ""
                for m in metrics
            ]
            rows.append([kind, *cells])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [f"published:  {published.source}", f"threat:     {published.threat}"]
    lines += [f"note:       {published.note}"] if published.note else []
    wrapped = [part for line in lines for part in _wrapped(line)]
    table = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return [*wrapped, "", *(f"  {line}" for line in table)]


def _describe(kind: str, name: str) -> list[str]:
    """What a name of a kind stands for, and the options that it alone reads; nothing where it is none of the kind."""
    entries = KINDS[kind][1]()
    if name not in entries:
        return []
    lines = [f"{name}, of {kind}", *textwrap.wrap(entries[name], _WIDTH, initial_indent="  ", subsequent_indent="  ")]
    options = {
        "methods": [option for option, methods in READ_BY.items() if name in methods],
        "losses": [o for o in Recipe.model_fields if o.startswith(f"{_OPTIONS_OF_LOSS.get(name, name)}_")],
    }.get(kind, [])
    lines += ["", "  options that not all others read:"] * bool(options)
    for option in options:
        info = Recipe.model_fields[option]
        lines += textwrap.wrap(
            f"--{option.replace('_', '-')} (default: {info.default}): {info.description}", _WIDTH,
            initial_indent="    ", subsequent_indent="      ",
        )  # fmt: skip
    if kind == "datasets":
        lines += _of_data_set(name)
    if kind == "methods":
        lines += ["", f"  all options: {_PROGRAM} {name} --help"]
    return [*lines, ""]


def _of_data_set(name: str) -> list[str]:
    """Where to get a data set and where to put it, and its protocols, which its own module says."""
    from robustdml_ext.data.catalog import data_set

    reader = data_set(name)
    parts = [reader.WHERE, *(f"protocol {protocol}: {line}" for protocol, line in reader.PROTOCOLS.items())]
    return [
        line for part in parts for line in textwrap.wrap(part, _WIDTH, initial_indent="  ", subsequent_indent="    ")
    ]
