"""How the package's docstrings are read: Google style, in which, beyond what Sphinx knows,

- single backticks mean code, and link where the code is a public name of the package;
- an indented block is a formula, kept as it is written, with no empty line needed around it;
- a bar is a bar, |P| the size of P, and lines of bars are a table.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from docutils import nodes
from docutils.parsers.rst.states import Inliner
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

PACKAGES = (
    "ops", "losses", "models", "attacks", "methods", "data", "data.sets", "evaluation", "training", "recipes",
    "reporting",
)  # fmt: skip
_NAME = re.compile(r"[A-Za-z_][\w.]*")


@lru_cache(maxsize=1)
def public_names() -> dict[str, str]:
    """Each public name as docstrings write it (`ops.pgd_step`, `PGD`), and in full.

    A function's bare name (`embed`) may be an argument's too, and stands for the function only behind its package.
    """
    found: dict[str, str] = {}
    for package in PACKAGES:
        module = importlib.import_module(f"robustdml_ext.{package}")
        for name in module.__all__:
            full = f"robustdml_ext.{package}.{name}"
            found[f"{package}.{name}"] = found[full] = full
            if isinstance(getattr(module, name), type):
                found.setdefault(name, full)
    return found


def code(
    name: str, rawtext: str, text: str, lineno: int, inliner: Inliner, options: Any = None, content: Any = ()
) -> tuple[list[nodes.Node], list[nodes.system_message]]:
    """The role of single backticks."""
    plain = nodes.literal(text, nodes.unescape(text))
    full = public_names().get(text.split("(")[0]) if _NAME.match(text) else None
    if full is None:
        return [plain], []
    link = addnodes.pending_xref(
        text,
        plain,
        refdomain="py",
        reftype="obj",
        reftarget=full,
        refexplicit=True,
        ours=True,
        refdoc=_document(inliner),
    )
    return [link], []


def _document(inliner: Inliner) -> str:
    docname: str = inliner.document.settings.env.docname
    return docname


_SECTION = re.compile(r"(Args|Attributes|Returns|Raises|Yields|Args, Raises)( \(.*\))?:\s*$")
_ITEM = re.compile(r"\s*([-*]|\d+\.) ")


def prepare(lines: list[str]) -> list[str]:
    """A docstring's lines, as reStructuredText has to have them; sections are left to napoleon."""
    found: list[str] = []
    formula = items = section = item = False
    for line in lines:
        indented, empty = line.startswith(" "), not line.strip()
        if not indented and not empty:
            if formula or items:
                found.append("")
            formula, items, item = False, False, bool(_ITEM.match(line))
            section = bool(_SECTION.match(line))
        elif indented and not formula and not items and not section and not item and not empty:
            if _ITEM.match(line):
                items = True
                found.append("")
            else:
                formula = True
                found += ["", "::", ""]
        found.append(line if formula else _plain_bars(line))
    return list(_tables(found))


_ATTRIBUTES = re.compile(r"    (\w+(?:, \w+)+): (.*)")


def _one_attribute_an_entry(lines: list[str]) -> list[str]:
    """`weight, bias: …` of a section of attributes as an entry of each, which napoleon makes of arguments alone."""
    found: list[str] = []
    names: list[str] = []
    entry: list[str] = []
    inside = False
    for line in [*lines, ""]:
        if names and not line.startswith("     "):
            for name in names:
                found += [f"    {name}: {entry[0]}", *entry[1:]]
            names, entry = [], []
        if line and not line.startswith(" "):
            inside = line.startswith("Attributes:")
        match = _ATTRIBUTES.match(line) if inside else None
        if match:
            names, entry = match[1].split(", "), [match[2]]
        elif names:
            entry.append(line)
        else:
            found.append(line)
    return found[:-1]


def _plain_bars(line: str) -> str:
    """Bars outside of backticks escaped, which would ask for a substitution; those of tables stay."""
    if line.lstrip().startswith("|") and line.rstrip().endswith("|"):
        return line
    parts = line.split("`")
    return "`".join(part if k % 2 else part.replace("|", "\\|") for k, part in enumerate(parts))


def _tables(lines: list[str]) -> Iterator[str]:
    rows: list[list[str]] = []
    for line in [*lines, ""]:
        if line.startswith("|") and line.rstrip().endswith("|"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            if not all(set(cell) <= set("-: ") for cell in cells):
                rows.append(cells)
            continue
        if rows:
            yield from ["", ".. list-table::", "   :header-rows: 1", ""]
            for row in rows:
                yield from [f"   {'* -' if k == 0 else '  -'} {cell}" for k, cell in enumerate(row)]
            yield ""
            rows = []
        yield line


def _process(app: Sphinx, what: str, name: str, found: Any, options: Any, lines: list[str]) -> None:
    lines[:] = prepare(_one_attribute_an_entry(lines))
    if what in ("property", "attribute", "data"):
        lines[:0] = ["..", ""]  # else napoleon takes what is before a colon in the first line for a type


def _signature(
    app: Sphinx, what: str, name: str, found: Any, options: Any, signature: str | None, returned: str | None
) -> tuple[str | None, str | None] | None:
    """A recipe takes each of the options of the command line, which its signature would list on a page of its own."""
    if what == "class" and name.endswith(".Recipe"):
        return "(**options)", None
    # Defaults that no Python could read back, as `<factory>`, would end the reading of the whole signature.
    return (re.sub(r"<[^<>]*>", "...", signature), returned) if signature else None


def _dashes(app: Sphinx, doctree: nodes.document) -> None:
    """A dash between an argument and its text; in the text itself two hyphens begin an option and stay."""
    for text in list(doctree.findall(lambda node: isinstance(node, nodes.Text) and node == " -- ")):
        text.parent.replace(text, nodes.Text(" – "))


def _leave(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement) -> Any:
    """A public name that has no entry of its own, as a constant has none, stays plain code."""
    return content if node.get("ours") else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the role and what reads docstrings."""
    app.add_role("backticks", code)
    app.connect("doctree-read", _dashes)
    app.connect("missing-reference", _leave)
    app.connect("autodoc-process-docstring", _process, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", _signature)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
