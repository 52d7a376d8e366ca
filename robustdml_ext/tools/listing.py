"""`run list`: what there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import tyro

from robustdml_ext.recipes import METHODS, packaged_recipes, read_recipe_file
from robustdml_ext.tools.tool import Train


@dataclasses.dataclass(frozen=True)
class List:
    """Methods, data sets and packaged recipes."""


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Name methods, data sets and packaged recipes.

    Returns:
        The exit code.
    """
    from robustdml_ext.data import NAMES

    tyro.cli(List, args=list(words), prog=prog)
    for heading, entries in (("methods", METHODS), ("data sets", NAMES)):
        print(f"{heading}:")
        width = max(map(len, entries))
        for name, summary in entries.items():
            print(f"  {name:{width}}  {summary}")
    print("recipes (`show NAME` prints one, `METHOD --recipe NAME` runs it):")
    for name in packaged_recipes():
        print(f"  {name:48} {read_recipe_file(name).title}")
    return 0
