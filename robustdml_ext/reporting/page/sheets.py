"""Retrieval sheets: queries and their nearest images, clean and attacked, and the perturbation magnified."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from robustdml_ext.reporting.labels import inputs_label
from robustdml_ext.reporting.page.analysis import Analysis, AnalysisError

MOST_BYTES = 4_500_000  # of all sheets of a page
_SIDE = 112  # of the largest tile, in pixels
_QUERIES = 8  # of a sheet


@dataclass(frozen=True)
class Tile:
    """An image of a sheet: its PNG as a data URI, side in pixels, class, and whether that is the query's.

    `right` is None for the query itself.
    """

    source: str
    side: int
    label: str
    right: bool | None = None
    similarity: float | None = None


@dataclass(frozen=True)
class Query:
    """One query: itself clean and attacked, the perturbation, and what was found for both."""

    label: str
    clean: Tile
    attacked: Tile
    perturbation: Tile
    found: list[Tile]
    found_attacked: list[Tile]


@dataclass(frozen=True)
class Sheet:
    """A sheet: its queries, how many there are of its kind, and what perturbations were multiplied by."""

    queries: list[Query]
    of: int
    magnified: float


@dataclass(frozen=True)
class RetrievalSheets:
    """A run's sheets by their kind, and what their captions tell."""

    sheets: dict[str, Sheet]
    top: int
    threat: str
    note: str


def retrieval_sheets(analysis: Analysis, budget: int = MOST_BYTES) -> RetrievalSheets:
    """Return the sheet of queries drawn at ``random``, and that of ``broken`` ones; no empty one.

    Args:
        analysis: of the run.
        budget: bytes that the images of all its sheets may take; as many queries are shown as fit, and one at least.

    Raises:
        AnalysisError: there are none, or the arrays do not fit together.
    """
    facts, arrays = analysis.part("sheets"), analysis.arrays
    names = [str(name) for name in facts.get("class_names", [])]
    labels = [arrays[f"sheet_{name}_class"] for name in ("query", "clean_top", "attacked_top")]
    if any(len(own) and not 0 <= own.min() <= own.max() < len(names) for own in labels):
        raise AnalysisError("the sheets have images of classes that they do not name")
    drawn = arrays["sheet_random"].astype(bool)
    parts = {"random": np.flatnonzero(drawn), "broken": np.flatnonzero(~drawn)}
    kinds = [name for name, rows in parts.items() if len(rows)]
    sheets = {}
    for kind in kinds:
        rows = parts[kind][:_QUERIES]
        largest = float(np.abs(arrays["sheet_perturbation"][rows]).max())
        factor = _magnifier(largest)
        queries: list[Query] = []
        left = budget // len(kinds)
        for row in rows.tolist():
            query = _query(arrays, row, names, factor)
            left -= _size(query)
            if left < 0 and queries:
                break
            queries.append(query)
        sheets[kind] = Sheet(queries, len(parts[kind]), factor)
    if not sheets:
        raise AnalysisError("there are no queries")
    top, threat = arrays["sheet_clean_top"].shape[1], analysis.facts.get("threat")
    return RetrievalSheets(
        sheets, top, "attack" if not threat else inputs_label(threat), str(facts.get("note") or "").rstrip(".")
    )


def _magnifier(largest: float) -> float:
    """What brings the largest change to half of the pixels' range, of two digits."""
    if not (largest > 0 and math.isfinite(largest)):
        return 1.0
    factor = 0.5 / largest
    unit = 10.0 ** (math.floor(math.log10(factor)) - 1)
    # Half a unit's share more than a whole number of units is rounding, as of 0.5 / 0.1.
    return math.floor(factor / unit + 1e-6) * unit


def _query(arrays: dict[str, NDArray[Any]], row: int, names: Sequence[str], factor: float) -> Query:
    label = int(arrays["sheet_query_class"][row])
    magnified = np.clip(0.5 + factor * arrays["sheet_perturbation"][row].astype(float), 0.0, 1.0)

    def found(kind: str) -> list[Tile]:
        images, classes = arrays[f"sheet_{kind}_top"][row], arrays[f"sheet_{kind}_top_class"][row].tolist()
        similarity = arrays[f"sheet_{kind}_similarity"][row].tolist()
        return [
            tile(image, names[one], one == label, near)
            for image, one, near in zip(images, classes, similarity, strict=True)
        ]

    return Query(
        names[label],
        tile(arrays["sheet_query"][row], names[label]),
        tile(arrays["sheet_attacked"][row], names[label]),
        tile(np.round(255 * magnified).astype(np.uint8), names[label]),
        found("clean"),
        found("attacked"),
    )


def _size(query: Query) -> int:
    tiles = [query.clean, query.attacked, query.perturbation, *query.found, *query.found_attacked]
    return sum(len(one.source) for one in tiles)


def tile(pixels: NDArray[Any], label: str, right: bool | None = None, similarity: float | None = None) -> Tile:
    """Return an image as PNG, made smaller where it is large.

    Args:
        pixels: uint8 `[H, W, C]`, C 1 or 3.
        label: its class.
        right: whether the class is the query's.
        similarity: to the query, the cosine.

    Raises:
        AnalysisError: another shape or type.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise AnalysisError(f"the sheets hold images {pixels.dtype} {list(pixels.shape)}, not uint8 [H, W, 1 or 3]")
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    side = max(image.size)
    if side > _SIDE:
        width, height = (max(1, round(length * _SIDE / side)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
    return Tile(source, max(image.size), label, right, similarity)
