"""Recipes: everything that makes a run, typed, loadable from YAML, overridable on the command line."""

from __future__ import annotations

from robustdml_ext.recipes.defaults import defaults_for
from robustdml_ext.recipes.defense_options import ATTACKING
from robustdml_ext.recipes.files import (
    RecipeFile,
    packaged_recipes,
    read_recipe_file,
    resolve,
    write_recipe_file,
)
from robustdml_ext.recipes.names import CLEAN, METHODS
from robustdml_ext.recipes.patterns import find_recipes, place_in_paper
from robustdml_ext.recipes.schema import NEUTRAL_FIELDS, Published, Recipe, RecipeError, make_recipe

__all__ = [
    "ATTACKING",
    "CLEAN",
    "METHODS",
    "NEUTRAL_FIELDS",
    "Published",
    "Recipe",
    "RecipeError",
    "RecipeFile",
    "defaults_for",
    "find_recipes",
    "make_recipe",
    "packaged_recipes",
    "place_in_paper",
    "read_recipe_file",
    "resolve",
    "write_recipe_file",
]
