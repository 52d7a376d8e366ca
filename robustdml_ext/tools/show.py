"""`run show`: a recipe, whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro
import yaml

from robustdml_ext.recipes import read_recipe_file, resolve
from robustdml_ext.tools.tool import Train


@dataclasses.dataclass(frozen=True)
class Show:
    """A recipe, whole, and the figures published for it.

    Example: python -m robustdml_ext.run show mdprop/table3-sop-mdprop-1-5
    """

    recipe: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(help="A packaged recipe's name (see `list`), or a file.")
    ]


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Print a recipe as YAML.

    Returns:
        The exit code.

    Raises:
        RecipeError: there is no such recipe, or its file is wrong.
    """
    asked = tyro.cli(Show, args=list(words), prog=prog)
    file = read_recipe_file(asked.recipe)
    content = {"title": file.title, "recipe": resolve(recipe_file=file).model_dump(mode="json")}
    if file.published is not None:
        content["published"] = file.published.model_dump(mode="json")
    print(yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=110), end="")
    return 0
