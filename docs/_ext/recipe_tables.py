"""The packaged recipes of a paper, by the table they are a row of, with the figures that it prints."""

from __future__ import annotations

import re
from collections.abc import Mapping

from tables import plain, table

from robustdml_ext.recipes import Published, packaged_recipes, read_recipe_file

_TABLE = re.compile(r"table (\d+)")
_NAMES = {"pi_ratio": "π_ratio", "nmi": "NMI", "f1": "F1", "eer": "EER"}
_AS_PRINTED = ("pi_ratio",)  # ratios; everything else is in percent


def recipe_tables(paper: str) -> str:
    """Markdown of every packaged recipe in the folder `paper`; each published row under the first table it is of.

    Raises:
        ValueError: there is none.
    """
    found: dict[int, list[tuple[str, str, Published]]] = {}
    unpublished = []
    for name in packaged_recipes():
        if not name.startswith(f"{paper}/"):
            continue
        recipe = read_recipe_file(name)
        if recipe.published is None:
            unpublished.append([f"`{name}`", plain(recipe.title)])
            continue
        number = _TABLE.search(recipe.published.source)
        found.setdefault(int(number[1]) if number else 0, []).append((name, recipe.title, recipe.published))
    if not found and not unpublished:
        raise ValueError(f"no packaged recipe of {paper}")
    parts = []
    for number, rows in sorted(found.items()):
        title = f"Table {number}" if number else "Figures in the text"
        attacked = any(published.adversarial or published.attacks for _, _, published in rows)
        parts.append(f"### {title}\n\n" + (_clean_and_attacked(rows) if attacked else _clean(rows)))
    if unpublished:
        parts.append("### Settings without published figures\n\n" + table(["recipe", "what it is"], unpublished))
    return "\n\n".join(parts)


def _clean(rows: list[tuple[str, str, Published]]) -> str:
    names = list(dict.fromkeys(name for _, _, published in rows for name in published.clean))
    lines = [
        [_recipe(name, title), *_cells(published.clean, published.clean_deviation, names)]
        for name, title, published in rows
    ]
    return table(["recipe", *map(_heading, names)], lines, "l" + "r" * len(names))


def _clean_and_attacked(rows: list[tuple[str, str, Published]]) -> str:
    """A line for the clean figures of each recipe, and one for each of its attacks."""
    names = list(
        dict.fromkeys(
            name
            for _, _, published in rows
            for figures in (published.clean, published.adversarial, *published.attacks.values())
            for name in figures
        )
    )
    lines = []
    for name, title, published in rows:
        lines.append([_recipe(name, title), "clean", *_cells(published.clean, published.clean_deviation, names)])
        if published.adversarial:
            lines.append(["", "attacked", *_cells(published.adversarial, published.adversarial_deviation, names)])
        lines += [["", plain(attack), *_cells(figures, {}, names)] for attack, figures in published.attacks.items()]
    threats = dict.fromkeys(published.threat for _, _, published in rows if published.threat)
    said = "Attacked by: " + "; ".join(map(plain, threats)) + "."
    return said + "\n\n" + table(["recipe", "", *map(_heading, names)], lines, "ll" + "r" * len(names))


def _recipe(name: str, title: str) -> str:
    return f"`{name}`<br>{plain(title)}"


def _cells(figures: Mapping[str, float], deviations: Mapping[str, float], names: list[str]) -> list[str]:
    cells = []
    for name in names:
        digits = 3 if name in _AS_PRINTED else 2
        cell = f"{figures[name]:.{digits}f}" if name in figures else "–"
        cells.append(f"{cell} ± {deviations[name]:.{digits}f}" if name in deviations else cell)
    return cells


def _heading(name: str) -> str:
    return _NAMES.get(name, name.replace("recall@", "R@").replace("_", " "))
