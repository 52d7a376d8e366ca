"""Recipe files: YAML with ``recipe:`` (the options that are set) and ``published:`` (what was printed)."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from robustdml_ext.recipes.defaults import FROM_SCRATCH, defaults_for
from robustdml_ext.recipes.names import METHODS, is_untrained
from robustdml_ext.recipes.schema import Published, Recipe, RecipeError, explain, make_recipe

PACKAGED = Path(__file__).parent


@dataclass(frozen=True)
class RecipeFile:
    """What a recipe file says: the options it sets, and the figures published for them."""

    name: str
    title: str
    fields: Mapping[str, Any]
    published: Published | None


def packaged_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package: ``{"mdprop/table3-sop-mdprop-1-5": path, ...}``."""
    found = {path.relative_to(PACKAGED).with_suffix("").as_posix(): path for path in PACKAGED.glob("*/*.yaml")}
    return dict(sorted(found.items()))


def did_you_mean(name: str) -> str:
    """Return "; did you mean …?" with the packaged recipes nearest to a name, with or without its table; or nothing."""
    known = {}
    for recipe in packaged_recipes():
        known[recipe] = known[re.sub(r"/(?:table|figures?)[\d-]+-", "/", recipe)] = recipe
    close = difflib.get_close_matches(name, known, n=5, cutoff=0.5)
    return f"; did you mean {', '.join(dict.fromkeys(known[found] for found in close))}?" if close else ""


def read_recipe_file(name: str | Path) -> RecipeFile:
    """Read a recipe file, given its path or its packaged name.

    Raises:
        RecipeError: no such file, or its content is not a recipe.
    """
    path = packaged_recipes().get(str(name), Path(name))
    if not path.is_file():
        hint = did_you_mean(str(name))
        raise RecipeError(f"no recipe {str(name)!r}: neither a file nor a packaged recipe, which `list` names{hint}")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not readable as YAML: {error}") from None
    if not isinstance(content, dict) or not isinstance(content.get("recipe"), dict):
        raise RecipeError(f"{path} must hold a mapping `recipe:` with the options that it sets")
    if unknown := sorted(set(content) - {"title", "recipe", "published"}):
        raise RecipeError(f"{path} holds {unknown}; expected only title, recipe and published")
    fields = content["recipe"]
    if unknown := sorted(str(key) for key in fields if key not in Recipe.model_fields):
        raise RecipeError(f"{path}: {', '.join(unknown)}: not an option")
    published = content.get("published")
    try:
        figures = None if published is None else Published.model_validate(published)
    except ValidationError as error:
        raise RecipeError(f"{path}: published: {explain(error)}") from None
    return RecipeFile(name=str(name), title=str(content.get("title", "")), fields=fields, published=figures)


def write_recipe_file(path: Path, recipe: Recipe, published: Published | None = None) -> None:
    """Write the whole recipe, so that ``--recipe path`` runs it again whatever the defaults become."""
    content: dict[str, Any] = {"recipe": recipe.model_dump(mode="json")}
    if published is not None:
        content["published"] = published.model_dump(mode="json")
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")


def resolve(
    method: str | None = None, flags: Mapping[str, Any] | None = None, recipe_file: RecipeFile | None = None
) -> Recipe:
    """Make a recipe: schema defaults < method's and data set's defaults < recipe file < explicit flags.

    Raises:
        RecipeError: a value is wrong, or the file is for another method than the one asked for.
    """
    explicit = dict(flags or {})
    from_file = dict(recipe_file.fields) if recipe_file is not None else {}
    chosen = method or from_file.get("method") or Recipe.model_fields["method"].default
    if not isinstance(chosen, str) or chosen not in METHODS:
        raise RecipeError(f"method must be one of {', '.join(METHODS)}; got {chosen!r}")
    if recipe_file is not None and from_file.get("method", chosen) != chosen:
        raise RecipeError(f"recipe {recipe_file.name} is for {from_file['method']}, but {chosen} was asked for")
    dataset = explicit.get("dataset", from_file.get("dataset", Recipe.model_fields["dataset"].default))
    if not isinstance(dataset, str):
        raise RecipeError(f"dataset must be a name; got {dataset!r}")
    protocol = explicit.get("protocol", from_file.get("protocol", "default"))
    loss = explicit.get("loss", from_file.get("loss"))
    defaults = dict(defaults_for(chosen, dataset, protocol, loss))
    if is_untrained(str({**defaults, **from_file, **explicit}.get("arch"))):
        defaults["weights"] = "none"
    if {"weights": Recipe.model_fields["weights"].default, **defaults, **from_file, **explicit}["weights"] == "none":
        defaults |= FROM_SCRATCH
    return make_recipe({**defaults, **from_file, **explicit, "method": chosen})
