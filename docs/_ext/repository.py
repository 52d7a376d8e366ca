"""The repository that the pages are about, and checks of what they say of it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def source_file(path: str) -> Path:
    """A file of the repository.

    Raises:
        ValueError: there is no such file.
    """
    found = ROOT / path
    if not found.is_file():
        raise ValueError(f"no file {path} in the repository")
    return found


def line_of(path: str, name: str) -> int:
    """The line at which a Python file defines `name`: a function, a class, `Class.method` or a module's variable.

    Raises:
        ValueError: it defines no such name, or is no Python file.
    """
    if not path.endswith(".py"):
        raise ValueError(f"{path} is no Python file, whose names could be looked up")
    names = _names(source_file(path))
    if name not in names:
        raise ValueError(f"{path} defines no {name}")
    return names[name]


@cache
def _names(file: Path) -> dict[str, int]:
    found: dict[str, int] = {}

    def visit(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                found[prefix + node.name] = node.lineno
                if isinstance(node, ast.ClassDef):
                    visit(node.body, f"{prefix}{node.name}.")
            elif isinstance(node, ast.Assign):
                found.update({prefix + t.id: node.lineno for t in node.targets if isinstance(t, ast.Name)})
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found[prefix + node.target.id] = node.lineno

    visit(ast.parse(file.read_text(encoding="utf-8")).body, "")
    return found
