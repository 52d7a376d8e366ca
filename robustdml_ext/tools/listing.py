"""`run list`: everything that has a name."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Annotated

import tyro

from robustdml_ext.recipes import RecipeError, place_in_paper
from robustdml_ext.tools.catalogue import KINDS, PAPERS
from robustdml_ext.tools.tool import Train


@dataclasses.dataclass(frozen=True)
class List:
    """Methods, losses, backbones, data sets, attacks and packaged recipes.

    Example: python -m robustdml_ext.run list losses
    """

    kinds: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(help=f"Those of {', '.join(KINDS)} to name; all of them where none is given."),
    ] = ()
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff, tyro.conf.arg(help="Print JSON and nothing else.")] = False


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Name everything that has a name, or some kinds of it.

    Returns:
        The exit code.

    Raises:
        RecipeError: a kind that is none.
    """
    asked = tyro.cli(List, args=list(words), prog=prog)
    for kind in asked.kinds:
        if kind not in KINDS:
            raise RecipeError(f"kinds must be of {', '.join(KINDS)}; got {kind!r}")
    found = {kind: KINDS[kind][1]() for kind in asked.kinds or KINDS}
    if asked.json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return 0
    for number, (kind, entries) in enumerate(found.items()):
        print("\n" * (number > 0) + f"{KINDS[kind][0]}:")
        if kind == "recipes":
            _print_recipes(entries)
        else:
            _print(entries)
    return 0


def _print(entries: Mapping[str, str], indent: str = "  ") -> None:
    width = max(map(len, entries))
    for name, summary in entries.items():
        print(f"{indent}{name:{width}}  {summary}".rstrip())


def _print_recipes(entries: Mapping[str, str]) -> None:
    """Recipes below their papers and tables."""
    groups: dict[str, dict[str, dict[str, str]]] = {}
    for name, title in entries.items():
        paper, place = place_in_paper(name)
        groups.setdefault(paper, {}).setdefault(place, {})[name] = title
    for paper, places in groups.items():
        print(f"  {PAPERS.get(paper, paper)}")
        for place, rows in places.items():
            whole = f": `table '{paper}/{place}*'` runs all" if place.startswith("table") else ""
            print(f"    {place or 'of no numbered table'}{whole}")
            _print(rows, "      ")
