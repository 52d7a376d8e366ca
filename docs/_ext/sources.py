"""The role `src`, and a page for each source file that a page names: a link that cannot lead nowhere.

    {src}`robustdml_ext/methods/mdprop.py`                  the file
    {src}`robustdml_ext/methods/mdprop.py:MDProp`           a class, function, method or variable in it
    {src}`line 11 <robustdml_ext/methods/mdprop.py:MDProp>`  with a text of its own

A file or name that is not there is a warning, which ends a build with -W. Every documented object gets a link to its
line too.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from html import escape
from typing import Any

from docutils import nodes
from repository import ROOT, line_of, source_file
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.docutils import ReferenceRole
from sphinx.util.nodes import make_refnode

_LANGUAGES = {
    ".py": "python",
    ".cpp": "cpp",
    ".h": "cpp",
    ".cu": "cuda",
    ".cuh": "cuda",
    ".yaml": "yaml",
    ".toml": "toml",
}


class source(nodes.Inline, nodes.TextElement):
    """A place in a source file, to be turned into a link once the page is written."""


class SourceRole(ReferenceRole):
    """`src`: see the module."""

    def run(self) -> tuple[list[nodes.Node], list[nodes.system_message]]:
        path, _, name = self.target.partition(":")
        try:
            source_file(path)
            line = line_of(path, name) if name else 0
        except ValueError as error:
            return [], [self.inliner.reporter.warning(f"src: {error}", line=self.lineno)]
        text = self.title if self.has_explicit_title else path
        if name and not self.has_explicit_title:
            text = f"{path.removeprefix('robustdml_ext/')}: {name}"
        node = source("", path=path, line=line)
        node += nodes.literal(text, text)
        return [node], []


def _link_documented(app: Sphinx, doctree: nodes.document) -> None:
    """Adds to the signature of each documented object the link to where it is defined."""
    for signature in list(doctree.findall(addnodes.desc_signature)):
        place = _place(signature.get("module"), signature.get("fullname"))
        if place is not None:
            node = source("", path=place[0], line=place[1], classes=["source-link"])
            node += nodes.inline("", "[source]")
            signature += node


def _place(module: str | None, fullname: str | None) -> tuple[str, int] | None:
    if not module or not fullname or not module.startswith("robustdml_ext"):
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in fullname.split("."):
            found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
        found = inspect.unwrap(found)
        file, (_, line) = inspect.getsourcefile(found), inspect.getsourcelines(found)
    except (ImportError, AttributeError, TypeError, OSError):
        return None  # a constant or an attribute, which has no source of its own
    if file is None or not file.startswith(str(ROOT)):
        return None
    return file.removeprefix(f"{ROOT}/"), line


def _resolve(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    named: set[str] = app.env.__dict__.setdefault("source_files", set())
    for node in list(doctree.findall(source)):
        named.add(node["path"])
        anchor = f"L-{node['line']}" if node["line"] else ""
        link = make_refnode(app.builder, docname, _page(node["path"]), anchor, list(node.children))
        link["classes"] += node.get("classes", [])
        node.replace_self(link)


def _link_to_source(app: Sphinx, env: BuildEnvironment, node: addnodes.pending_xref, content: nodes.TextElement) -> Any:
    """A class of ours that signatures name, but no page documents, links to its source."""
    module, _, name = node.get("reftarget", "").rpartition(".")
    place = _place(module, name) if module.startswith("robustdml_ext.") else None
    if place is None:
        return None
    found = source("", path=place[0], line=place[1])
    found += content
    return found


def _page(path: str) -> str:
    return f"source/{path}"


def _pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    for path in sorted(app.env.__dict__.get("source_files", ())):
        file = source_file(path)
        code = file.read_text(encoding="utf-8")
        highlighter = getattr(app.builder, "highlighter", None)
        assert highlighter is not None
        language = _LANGUAGES.get(file.suffix, "text")
        body = highlighter.highlight_block(code, language, linespans="L", location=_page(path))
        yield _page(path), {"title": path, "body": f"<h1>{escape(path)}</h1>{body}"}, "page.html"


def _known_page(app: Sphinx) -> None:
    """Lets links point at pages that are made from no document."""
    builder, ordinary = app.builder, app.builder.get_target_uri

    def target(docname: str, typ: str | None = None) -> str:
        return f"{docname}.html" if docname.startswith("source/") else ordinary(docname, typ)

    builder.get_target_uri = target  # type: ignore[method-assign]


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the role and the pages."""
    app.add_node(source)
    app.add_role("src", SourceRole())
    app.connect("builder-inited", _known_page)
    app.connect("doctree-read", _link_documented)
    app.connect("missing-reference", _link_to_source, priority=600)
    app.connect("doctree-resolved", _resolve, priority=900)  # what was missing is found by then
    app.connect("html-collect-pages", _pages)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": False}
