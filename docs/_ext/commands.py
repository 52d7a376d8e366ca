"""The command line reference: training options from the recipe's own schema, tools by their own --help."""

from __future__ import annotations

import contextlib
import io
import os
import typing
from typing import Any

from tables import plain, table

from robustdml_ext import run
from robustdml_ext.recipes import METHODS, RecipeError, defaults_for, resolve
from robustdml_ext.recipes.commandline import _RunFlags
from robustdml_ext.recipes.defense_options import READ_BY
from robustdml_ext.recipes.options import GROUPS
from robustdml_ext.recipes.regularizer_options import READ_WITH
from robustdml_ext.recipes.schema import NEUTRAL_FIELDS

_WIDTH = "88"


def command_line() -> str:
    """All commands: an overview, the options of training in groups, and each tool's help."""
    parts = ["## Overview", _literal(run._overview()), "## Options of training", _RULES]
    parts += ["### The run itself", *_run_flags()]
    for group in GROUPS:
        parts.append(f"### {_heading(group.__name__)}\n\n{plain(group.__doc__)}")
        parts += [_option(name, info) for name, info in group.model_fields.items()]
    parts += ["## Defaults of each method", _DEFAULTS, *_defaults_of_methods()]
    parts.append("## Tools")
    for tool, summary in run.TOOLS.items():
        parts.append(f"### `{tool}`\n\n{plain(summary)}\n\n{_literal(_help([tool, '--help']))}")
    return "\n\n".join(parts)


_RULES = (
    "Every option of training is a field of {py:class}`~robustdml_ext.recipes.Recipe`, is written `--like-this` on the "
    "command line and `like_this` in a recipe file, and is saved with the run. What counts, from weak to strong: the "
    "defaults below, those of the method and the data set, a recipe file, a flag. A switch is turned off by "
    "`--no-NAME`. *Neutral* options may differ when a run is resumed."
)
_DEFAULTS = (
    "Where a method on digits, the data set that needs no download, sets another default than the one above. `run "
    "METHOD --dataset D --help` shows the defaults of exactly that run."
)


def _heading(name: str) -> str:
    return name.removesuffix("Options") + " options"


def _literal(text: str) -> str:
    return f"```{{code-block}} text\n{text.strip()}\n```"


def _help(words: list[str]) -> str:
    """What a command prints, at a fixed width, with neither colors nor a folder of this machine."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = _WIDTH
    try:
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = run.main(words)
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    if code:
        raise RuntimeError(f"{run.PROGRAM} {' '.join(words)} ended with {code}")
    return printed.getvalue()


def _run_flags() -> list[str]:
    """The flags that are about the run, and no part of the recipe."""
    found = []
    for name, kind in typing.get_type_hints(_RunFlags, include_extras=True).items():
        annotated, argument = typing.get_args(kind)
        value = "" if annotated is bool else f" {_values(annotated)}"
        found.append(f"````{{option}} --{name}{value}\n{plain(argument.help)}\n````")
    return found


def _option(name: str, info: Any) -> str:
    flag = name.replace("_", "-")
    said = [plain(info.description)]
    kind = info.annotation
    signature = f"--{flag}, --no-{flag}" if kind is bool else f"--{flag} {_values(kind)}"
    said.append(f"Default: `{_value(info.default)}`." + (" Neutral." if name in NEUTRAL_FIELDS else ""))
    if name in READ_BY:
        said.append(f"Read by {', '.join(READ_BY[name])}.")
    for switch, names in READ_WITH.items():
        if name in names:
            said.append(f"Read only with `--{switch.replace('_', '-')}`.")
    return f"````{{option}} {signature}\n{said[0]}\n\n{' '.join(said[1:])}\n````"


def _values(kind: Any) -> str:
    """What may follow a flag, in a few letters."""
    arguments = [part for part in typing.get_args(kind) if part is not type(None)]
    if typing.get_origin(kind) is typing.Literal:
        return "|".join(map(str, arguments))
    if typing.get_origin(kind) is tuple:
        return f"{_values(arguments[0])} ..."
    if arguments:
        return _values(arguments[0])
    return {int: "N", float: "X"}.get(kind, "TEXT")


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _defaults_of_methods() -> list[str]:
    plain_defaults = {name: info.default for group in GROUPS for name, info in group.model_fields.items()}
    parts = []
    for method in METHODS:
        try:
            recipe = resolve(method)
        except RecipeError:  # of a method that has no defaults of its own to start from
            recipe = resolve(method, {"dataset": "digits", **defaults_for(method, "digits", "default", None)})
        rows = [
            [f"`--{name.replace('_', '-')}`", f"`{_value(getattr(recipe, name))}`"]
            for name, default in plain_defaults.items()
            if getattr(recipe, name) != default
        ]
        parts.append(f"### `{method}`\n\n{plain(METHODS[method])}\n\n{table(['option', 'default'], rows)}")
    return parts
