"""What a table is made of: its recipes in order, their runs and folders, and the data that they need."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from robustdml_ext.recipes import (
    METHODS,
    Recipe,
    RecipeError,
    find_recipes,
    make_recipe,
    packaged_recipes,
    place_in_paper,
    read_recipe_file,
    resolve,
)
from robustdml_ext.recipes.commandline import parse_run
from robustdml_ext.tools.planned_runs import PLACE, PlannedRun

_LONGEST_NAME = 80


@dataclass(frozen=True, eq=False)
class TableRun(PlannedRun):
    """One run of a table.

    Attributes:
        words: the training command that makes it, from the method on.
    """

    words: tuple[str, ...]


@dataclass(frozen=True)
class TableRow:
    """A recipe of a table.

    Attributes:
        name: of the recipe, or the path of its file.
        title: what the row is called.
        runs: one for each seed.
    """

    name: str
    title: str
    runs: tuple[TableRun, ...]


def plan_table(
    patterns: Sequence[str], seeds: Sequence[int], out: str | None, others: Sequence[str], prog: str
) -> tuple[list[TableRow], Path]:
    """Return the rows of a table with all their runs, each checked, and its folder.

    Args:
        patterns: of recipes.
        seeds: of each recipe's runs.
        out: the folder; None: one named after the patterns.
        others: flags of training for all runs alike.
        prog: what a message about these flags begins with.

    Raises:
        RecipeError: a pattern selects nothing, a flag or value does not fit a recipe, or two rows have one folder.
        SystemExit: 2 after a flag that cannot be read (its message is on stderr).
    """
    names = _in_order(find_recipes(patterns))
    root = Path(out) if out is not None else Path("runs") / f"table-{_folder_name(patterns)}"
    rows = [_row(name, seeds, root, list(others), prog) for name in names]
    folders: dict[Path, str] = {}
    for row in rows:
        other = folders.setdefault(row.runs[0].folder, row.name)
        if other != row.name:
            raise RecipeError(f"recipes need names of their own, as folders have; {other} and {row.name} have one")
    return rows, root


def _row(name: str, seeds: Sequence[int], root: Path, others: list[str], prog: str) -> TableRow:
    file = read_recipe_file(name)
    method = file.fields.get("method", Recipe.model_fields["method"].default)
    if method not in METHODS:
        raise RecipeError(f"{name}: method must be one of {', '.join(METHODS)}; got {method!r}")
    try:
        request = parse_run(method, "", ["--recipe", name, *others], f"{prog} {method}")
        fields = request.recipe.model_dump()
        stem = name if name in packaged_recipes() else Path(name).stem
        runs = []
        for seed in seeds:
            folder = str(root / f"{_as_folder(stem)}-seed{seed}")
            recipe = make_recipe({**fields, "seed": seed, "out": folder})
            words = (method, "--recipe", name, *others, "--seed", str(seed), "--out", folder)
            asked = dataclasses.replace(request, recipe=recipe, resume=True, overwrite=False)
            runs.append(TableRun(f"{stem}, seed {seed}", asked, words))
    except RecipeError as error:
        raise RecipeError(f"{name}: {error}") from None
    return TableRow(name, file.title or name, tuple(runs))


def _as_folder(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.,+_-]", "-", name)


def _folder_name(patterns: Sequence[str]) -> str:
    """What the patterns say, as a folder's name."""
    plain = [re.sub(r"\.ya?ml$", "", pattern.removeprefix("./").removeprefix("recipes/")) for pattern in patterns]
    named = [re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.") or "all" for name in plain]
    return "+".join(named)[:_LONGEST_NAME].rstrip("-.+")


def _in_order(names: Sequence[str]) -> list[str]:
    """Packaged recipes as papers print them: by table, data set and loss, the plain method first; own files as named.

    Of one method those with fewer targets come first.
    """
    known = packaged_recipes()
    return sorted(names, key=lambda name: _place(name) if name in known else ())


def _place(name: str) -> tuple[Any, ...]:
    fields = read_recipe_file(name).fields
    paper, table = place_in_paper(name)
    number = int("".join(re.findall(r"^\D+(\d+)", table)) or 0)
    losses = get_args(Recipe.model_fields["loss"].annotation)
    loss, method, targets = str(fields.get("loss")), str(fields["method"]), fields.get("targets", [])
    # The regularized and the generating method stand below the loss that they are of.
    rank = (method in ("ecaml", "daml"), list(METHODS).index(method))
    return (paper, number, table, str(fields["dataset"]), losses.index(loss) if loss in losses else 0, rank,
            len(targets), list(targets), name)  # fmt: skip


def changed(rows: Sequence[TableRow]) -> list[str]:
    """Return in one line, or none, what flags have changed of the recipes, but for where and how fast they run."""
    found: dict[str, None] = {}
    for row in rows:
        plain, ours = resolve(recipe_file=read_recipe_file(row.name)), row.runs[0].request.recipe
        for name in Recipe.model_fields:
            value = getattr(ours, name)
            if name not in PLACE | {"seed"} and value != getattr(plain, name):
                words = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
                found[f"--{name.replace('_', '-')} {words}".rstrip()] = None
    return [f"Ours differ from the recipes in {', '.join(found)}."] if found else []


def is_begun(run: PlannedRun) -> bool:
    """Whether there is a checkpoint to go on from."""
    return (run.folder / "last.pt").exists()


def missing_data(rows: Sequence[TableRow]) -> dict[str, str]:
    """Return by the names of recipes what is missing of their data, and where to get it; nothing for all others.

    Nothing is opened but lists of files. Data that are to be downloaded are not missing.
    """
    if not rows:
        return {}
    from robustdml_ext.data import look_for

    found: dict[tuple[str, str | None], str] = {}
    missing = {}
    for row in rows:
        recipe = row.runs[0].request.recipe
        if recipe.download:
            continue
        where = (recipe.dataset, recipe.root)
        if where not in found:
            probe = look_for(recipe.dataset, recipe.root)
            found[where] = "" if probe.found else f"{recipe.dataset}: {probe.detail}"
        if found[where]:
            missing[row.name] = found[where]
    return missing
