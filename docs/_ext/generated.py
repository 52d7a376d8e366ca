"""Parts of pages that are made when the site is built, so that they cannot fall behind what they describe.

A line of a page that is one of these comments is replaced:

    <!-- readme: FROM ... TO -->          the README's text between two of its lines
    <!-- file: CHANGELOG.md -->           a file of the repository, or a line that says it is not there yet
    <!-- example: add_loss.py -->         a literal file of guides/examples, which a test runs
    <!-- recipes: mdprop -->              packaged recipes with the published figures
    <!-- command line -->                 every command with every option
    <!-- methods -->                      tables of what the package lists; likewise attacks, class attacks, checks,
                                          corruptions, data sets
    <!-- benchmarks -->                   benches/results/*.json
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import tables
from benchmarks import benchmark_pages
from commands import command_line
from recipe_tables import recipe_tables
from repository import ROOT
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

_MARK = re.compile(r"^<!-- ([a-z ]+?)(?:: (.+?))? -->$", re.MULTILINE)


def _readme(argument: str) -> str:
    """The README's lines after the one that is FROM and before the one that is TO."""
    first, _, last = argument.partition(" ... ")
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    for line in (first, last):
        if lines.count(line) != 1:
            raise ExtensionError(
                f"README.md has {lines.count(line)} lines {line!r}, which a page of the site begins or ends at"
            )
    part = lines[lines.index(first) + 1 : lines.index(last)]
    kept = [line for line in part if not _MARK.match(line) and not re.fullmatch(r"<!-- /?[\w-]+ -->", line)]
    return "\n".join(kept).strip().replace("](docs/", "](/").replace(" ± ", "\u00a0±\u00a0")


def _file(name: str) -> str:
    file = ROOT / name
    if not file.is_file():
        return f"There is no `{name}` yet."
    text = file.read_text(encoding="utf-8")
    return text.partition("\n")[2] if file.suffix == ".md" else f"```{{code-block}} yaml\n{text}\n```"


def _example(name: str) -> str:
    file = ROOT / "docs" / "guides" / "examples" / name
    language = {".py": "python", ".yaml": "yaml", ".cpp": "cpp", ".cu": "cuda"}[file.suffix]
    return f"```{{code-block}} {language}\n{file.read_text(encoding='utf-8').rstrip()}\n```"


_MAKERS: dict[str, Callable[[str], str]] = {
    "readme": _readme,
    "file": _file,
    "example": _example,
    "recipes": recipe_tables,
    "command line": lambda _: command_line(),
    "methods": lambda _: tables.methods(),
    "attacks": lambda _: tables.attacks(),
    "class attacks": lambda _: tables.class_attacks(),
    "checks": lambda _: tables.checks(),
    "corruptions": lambda _: tables.corruptions(),
    "data sets": lambda _: tables.data_sets(),
    "benchmarks": lambda _: benchmark_pages(),
}


def _fill(app: Sphinx, docname: str, source: list[str]) -> None:
    def made(match: re.Match[str]) -> str:
        name, argument = match[1], match[2] or ""
        if name not in _MAKERS:
            raise ExtensionError(f"{docname}: nothing is made of <!-- {name} -->")
        app.env.note_reread()
        return _MAKERS[name](argument)

    source[0] = _MARK.sub(made, source[0])


def setup(app: Sphinx) -> dict[str, Any]:
    """Fills pages as they are read; such pages are read again at every build."""
    app.connect("source-read", _fill)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
