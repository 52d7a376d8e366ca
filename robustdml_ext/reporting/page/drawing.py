"""Panels as SVG within the page: its font, its text color and its colors, in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from robustdml_ext.reporting.style import COLORS, FAINT, GRID, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "★")  # as style.MARKERS
_INK = "#123456"  # of text and axes; no other thing has it
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# What the style sheet of the page has a light and a dark form of.
_THEMED = {_INK: "currentColor", GRID: "var(--grid)", FAINT: "var(--faint)"}
_THEMED |= {color.lower(): f"var(--c{number})" for number, color in enumerate(COLORS)}
_PAGE_STYLE = STYLE | {
    "svg.fonttype": "none",  # text stays text, in the page's font
    "text.parse_math": False,  # names may hold dollar signs
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _INK),
}  # fmt: skip


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure.

    Attributes:
        svg: the drawing.
        width: it is shown at most so wide, in CSS pixels.
        labels: of the groups in it.
    """

    svg: Markup
    width: int
    labels: frozenset[str] = frozenset()


def key_of(number: int) -> dict[str, str]:
    """Return what stands for a run, or a class, beside its name: a shape, and the style's name for its color."""
    return {"glyph": GLYPHS[number % len(GLYPHS)], "color": f"c{number % len(COLORS)}"}


def draw_panel(identity: str, alt: str, paint: Callable[[Axes], None], size: tuple[float, float] = (3.9, 2.8)) -> Panel:
    """Return one pair of axes as SVG.

    Args:
        identity: unique on the page.
        alt: what the drawing shows, for those who do not see it; the ends of its curves are added.
        paint: draws into the axes.
        size: width and height in inches.
    """
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_PAGE_STYLE | {"svg.hashsalt": identity}):
        figure = Figure(figsize=size, layout="constrained")
        canvas = FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        paint(axes)
        for patch in (figure.patch, axes.patch):
            patch.set_visible(False)
        for text in figure.findobj(lambda artist: hasattr(artist, "set_parse_math")):
            text.set_parse_math(False)  # type: ignore[attr-defined]
        out = io.BytesIO()
        canvas.print_svg(out, metadata={"Date": None})  # which draws once; savefig twice
        labels = frozenset(map(str, axes.get_legend_handles_labels()[1]))
        told = ". ".join(part for part in (alt, _told(axes)) if part)
    return Panel(_themed(out.getvalue(), identity, told), round(96 * size[0] * 1.15), labels)


def _told(axes: Axes) -> str:
    """The named curves in words: where each begins and ends."""
    said = []
    for line in axes.get_lines():
        label, heights = str(line.get_label()), np.asarray(line.get_ydata(), dtype=float).tolist()
        if heights and not label.startswith("_"):
            said.append(f"{label}: {heights[0]:.4g}" + (f" to {heights[-1]:.4g}" if len(heights) > 1 else ""))
    return "; ".join(said)


def _themed(svg: bytes, identity: str, alt: str) -> Markup:
    """The drawing with colors that follow the page's, names that are unique on it, and nothing that it can do without.

    Numbers are cut to hundredths of a point, and what all parts of a group are styled by is said once.
    """
    root = ElementTree.fromstring(svg)
    used = set(re.findall(r"url\(#([^)]+)\)", svg.decode()))
    used |= {node.attrib[f"{{{_XLINK}}}href"][1:] for node in root.iter(f"{{{_SVG}}}use")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)
    for node in root.iter():
        if node.attrib.get("id") not in used:
            node.attrib.pop("id", None)
        for name, value in node.attrib.items():
            node.set(name, _attribute(name.rpartition("}")[2], value, identity))
    for node in root.iter(f"{{{_SVG}}}g"):
        _style_once(node, node)
    _drop_empty(root)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    # Black, which matplotlib leaves to SVG's default, is the first of the colors.
    root.attrib |= {"role": "img", "aria-label": alt, "style": "fill:var(--c0)"}
    ElementTree.register_namespace("", _SVG)
    ElementTree.register_namespace("xlink", _XLINK)
    text = ElementTree.tostring(root, encoding="unicode")
    # ElementTree has escaped what was text, and matplotlib what it was given.
    return Markup(re.sub(r">\s+<", "><", text))


def _attribute(name: str, value: str, identity: str) -> str:
    if name == "id":
        return f"{identity}-{value}"
    if name == "href":
        return f"#{identity}-{value[1:]}"
    if name == "style":
        value = re.sub(r"font-family:[^;]*;?\s*|stroke-miterlimit:[^;]*;?\s*", "", value)
        value = re.sub(r"\bfont: ([^;]*?)(\d[\d.]*px)[^;]*", r"font-size: \2", value)
        value = re.sub(r"#[0-9a-fA-F]{6}\b", lambda found: _THEMED.get(found[0].lower(), found[0]), value)
        value = value.replace(": ", ":").replace("; ", ";").rstrip("; ")
    value = re.sub(r"url\(#", f"url(#{identity}-", value)
    if name in ("d", "x", "y", "transform", "style", "points", "width", "height"):
        value = re.sub(r"-?\d+\.\d{3,}(?!\d)", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), value)
    return re.sub(r"\s+", " ", value).strip()


def _style_once(group: ElementTree.Element, children: Iterable[ElementTree.Element]) -> None:
    uses = [child for child in children if child.tag == f"{{{_SVG}}}use"]
    styles = {child.attrib.get("style") for child in uses}
    if len(uses) > 1 and len(styles) == 1 and None not in styles and "style" not in group.attrib:
        group.set("style", str(styles.pop()))
        for child in uses:
            del child.attrib["style"]


def _drop_empty(node: ElementTree.Element) -> None:
    for child in list(node):
        _drop_empty(child)
        if child.tag in (f"{{{_SVG}}}g", f"{{{_SVG}}}defs") and not len(child):
            node.remove(child)
