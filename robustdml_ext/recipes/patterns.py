"""Sets of recipes: all rows of a table by one pattern."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from robustdml_ext.recipes.files import packaged_recipes
from robustdml_ext.recipes.schema import RecipeError

_ENDINGS = (".yaml", ".yml")
_PLACE = re.compile(r"(?:appendix-)?(?:table|figures?)\d+(?:-\d)?(?=-)")


def find_recipes(patterns: Sequence[str]) -> list[str]:
    """Return the recipes that patterns select, each once: packaged names, or paths of the user's own files.

    A pattern is a packaged name with ``*``, ``?`` and ``[...]`` in it, ``mdprop/table1*``; the same written as a file
    of the package, ``recipes/mdprop/table1*.yaml``; or a path of files with one of these endings, which come first
    where there are such files. A row that a paper prints in two tables is found by either.

    Args:
        patterns: one or several. The order of the patterns is kept, and within each that of the names.

    Raises:
        RecipeError: a pattern selects nothing, or there is no pattern; the message says what is near it.
    """
    if not patterns:
        raise RecipeError("name at least one recipe or pattern, as mdprop/table1*")
    found: dict[str, None] = {}
    for pattern in patterns:
        selected = _selected(pattern)
        if not selected:
            raise RecipeError(
                f"no recipe matches {pattern!r}: neither a file nor a packaged one, which `list` names{_near(pattern)}"
            )
        found |= dict.fromkeys(selected)
    return list(found)


def place_in_paper(name: str) -> tuple[str, str]:
    """Return the paper and the table (or figure) that a packaged recipe's name says, ``("mdprop", "table1")``.

    Of a recipe that is a row of no table the second is empty; of a user's own file both are.
    """
    paper, slash, rest = name.partition("/")
    if name not in packaged_recipes():
        return "", ""
    found = _PLACE.match(rest)
    return (paper, found[0] if found else "") if slash else ("", "")


def _selected(pattern: str) -> list[str]:
    is_file = pattern.endswith(_ENDINGS)
    files = sorted(path for path in glob.glob(str(Path(pattern).expanduser()), recursive=True) if Path(path).is_file())
    if is_file and files:
        ours = {path.resolve(): recipe for recipe, path in packaged_recipes().items()}
        return [ours.get(Path(file).resolve(), file) for file in files]
    name = _as_name(pattern)
    packaged = [recipe for recipe, path in packaged_recipes().items() if _matches(name, recipe, path)]
    return packaged or files


def _as_name(pattern: str) -> str:
    for ending in _ENDINGS:
        pattern = pattern.removesuffix(ending)
    return pattern.removeprefix("./").removeprefix("robustdml_ext/").removeprefix("recipes/")


def _matches(pattern: str, recipe: str, path: Path) -> bool:
    if fnmatchcase(recipe, pattern):
        return True
    paper, _, rest = recipe.partition("/")
    own = _PLACE.match(rest)
    # The appendix's rows have names that table1* does not match, though they are of tables 9 and 10.
    if own is None or own[0].startswith("appendix") or not pattern.startswith(f"{paper}/"):
        return False
    return any(fnmatchcase(f"{paper}/{table}{rest[own.end() :]}", pattern) for table in _tables(path))


def _tables(path: Path) -> list[str]:
    """The tables that a recipe's source names."""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("source:"):
            return [f"table{number}" for number in re.findall(r"\btable (\d+)", line)]
    return []


def _near(pattern: str) -> str:
    """What the pattern may have meant: names, and patterns of whole tables."""
    name, names = _as_name(pattern), packaged_recipes()
    tables = {f"{paper}/{place}*" for paper, place in map(place_in_paper, names) if place}
    close = difflib.get_close_matches(name, [*sorted(tables), *names], n=4, cutoff=0.55)
    return f"; did you mean {', '.join(close)}?" if close else ""
