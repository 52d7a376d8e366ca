"""Maps, sheets and norms: from the arrays of an analysis to what the page shows."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from analyses import arrays_of, facts_of, noise, write_analysis
from page_runs import analyze, page_of, write_run
from PIL import Image

from robustdml_ext.reporting.page import Analysis, AnalysisError, read_analysis, read_run
from robustdml_ext.reporting.page.maps import embedding_map, norm_differences
from robustdml_ext.reporting.page.sheets import retrieval_sheets, tile

NAMES = [f"class {number}" for number in range(5)]


def _pixels(source: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))))


def _analysis(**changes: np.ndarray) -> Analysis:
    return Analysis(facts_of(NAMES), arrays_of(*noise()) | changes)


@pytest.mark.usefixtures("undrawn")
def test_an_analysis_of_other_weights_is_out_of_date(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    weights = folder / "last.pt"
    weights.write_bytes(b"weights")
    write_analysis(folder, facts_of(NAMES, weights), arrays_of(*noise()))
    assert read_run(folder).analysis is not None
    weights.write_bytes(b"others")
    run = read_run(folder)
    assert run.analysis is None and "other weights than last.pt" in run.missing
    assert "other weights than last.pt" in page_of(folder)
    weights.unlink()  # carried here without them
    assert read_run(folder).analysis is not None
    with pytest.raises(AnalysisError, match=r"is of last\.pt, and its result of best\.pt"):
        read_analysis(folder, "best.pt")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("break_it", ["json", "npz", "format", "none"])
def test_a_broken_analysis_is_told_of(tmp_path: Path, break_it: str) -> None:
    folder = write_run(tmp_path / "at")
    analyze(folder)
    if break_it == "json":
        (folder / "analysis.json").write_text("{")
    elif break_it == "npz":
        (folder / "analysis.npz").write_bytes((folder / "analysis.npz").read_bytes()[:500])
    elif break_it == "format":
        (folder / "analysis.json").write_text(json.dumps(facts_of(NAMES) | {"format": 9}))
    else:
        (folder / "analysis.json").unlink()
    run = read_run(folder)
    assert run.analysis is None and run.missing
    text = page_of(folder)
    assert ('id="embeddings"' in text) == (break_it != "none") and '<figure id="embedding-map' not in text


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("map_class", np.zeros(3, np.int64), "different lengths"),
        ("map_class", np.full(60, 9), "classes that it does not name"),
        ("map_clean", np.full((60, 2), np.nan), "no points"),
        ("map_clean", np.zeros((60, 3)), "not pairs"),
    ],
)
def test_a_map_that_does_not_fit_is_refused(name: str, value: np.ndarray, said: str) -> None:
    with pytest.raises(AnalysisError, match=said):
        embedding_map(_analysis(**{name: value}), "map")


def test_both_panels_of_a_map_have_the_same_axes_and_classes() -> None:
    found = embedding_map(_analysis(), "map")
    assert len(found.panels) == 2 and found.shown == found.points == 60
    assert [key["label"] for key in found.classes] == NAMES
    assert len({(key["glyph"], key["color"]) for key in found.classes}) == 5
    # A point that only the attack moves far away: the clean panel leaves room for it too.
    far = arrays_of(*noise())["map_attacked"].copy()
    far[0] = 1e4
    text = embedding_map(_analysis(map_attacked=far), "map").panels[0].svg
    points = [float(part.split('"')[0]) for part in text.split("<use ")[1:] for part in [part.split(' x="')[1]]]
    assert max(points) - min(points) < 5  # of some 250


def test_many_points_are_thinned_out() -> None:
    images, labels = noise(5000, 2)
    found = embedding_map(Analysis(facts_of(NAMES), arrays_of(images, labels)), "map")
    assert found.shown == 800 and found.points == 5000
    assert sum(len(panel.svg) for panel in found.panels) < 150_000


def test_norms_are_drawn_for_each_pair() -> None:
    found = norm_differences(_analysis(), "norms", 0)
    assert len(found.panels) == 6 and "γ of clean − γ of T1" in found.panels[0].svg
    with pytest.raises(AnalysisError, match="norm_gamma has the shape"):
        norm_differences(_analysis(norm_gamma=np.zeros((2, 48)), norm_beta=np.zeros((2, 48))), "norms", 0)


def test_names_in_drawings_are_text() -> None:
    analysis = _analysis()
    analysis.facts["norms"]["distributions"][1] = "<b>$x$</b> & _T"
    svg = norm_differences(analysis, "norms", 0).panels[0].svg
    assert "&lt;b&gt;$x$&lt;/b&gt; &amp; _T" in svg and "<b>" not in svg


def test_sheets_frame_by_class_and_magnify_the_perturbation() -> None:
    analysis = _analysis()
    arrays = analysis.arrays
    found = retrieval_sheets(analysis)
    assert list(found.sheets) == ["random", "broken"] and found.top == 5
    broken = found.sheets["broken"]
    assert broken.magnified == pytest.approx(5.0)  # of 0.1, to half of the range
    first = int(np.flatnonzero(~arrays["sheet_random"])[0])
    query = broken.queries[0]
    label = arrays["sheet_query_class"][first]
    assert [one.right for one in query.found] == (arrays["sheet_clean_top_class"][first] == label).tolist()
    assert [one.right for one in query.found_attacked] == (arrays["sheet_attacked_top_class"][first] == label).tolist()
    assert query.found[1].similarity == pytest.approx(float(arrays["sheet_clean_similarity"][first, 1]))
    np.testing.assert_array_equal(_pixels(query.attacked.source), arrays["sheet_attacked"][first][..., 0])
    expected = 0.5 + 5 * arrays["sheet_perturbation"][first][..., 0].astype(float)
    np.testing.assert_array_equal(_pixels(query.perturbation.source), np.round(255 * expected.clip(0, 1)))


def test_a_sheet_without_queries_is_left_out() -> None:
    every = np.ones(8, bool)
    assert list(retrieval_sheets(_analysis(sheet_random=every)).sheets) == ["random"]
    empty = {name: array[:0] for name, array in arrays_of(*noise()).items() if name.startswith("sheet_")}
    with pytest.raises(AnalysisError, match="no queries"):
        retrieval_sheets(_analysis(**empty))


@pytest.mark.parametrize("channels", [1, 3])
def test_large_tiles_are_made_smaller_and_small_ones_left(channels: int) -> None:
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (8, 6, channels), dtype=np.uint8)
    np.testing.assert_array_equal(_pixels(tile(small, "a").source).reshape(small.shape), small)
    large = np.full((224, 112, channels), 7, np.uint8)
    assert _pixels(tile(large, "a").source).shape[:2] == (112, 56)
    for wrong in (small.astype(float), small[..., 0], np.zeros((4, 4, 2), np.uint8), small[:0]):
        with pytest.raises(AnalysisError, match="not uint8"):
            tile(wrong, "a")


def test_the_page_stays_small(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, name) for name in ("pal", "at", "trades", "mixup")]
    for folder in folders:
        analyze(folder, side=28, queries=24)
    assert len(page_of(*folders).encode()) < 3_000_000
    large = write_run(tmp_path / "large")
    analyze(large, side=224, channels=3, queries=24)  # of noise, which does not compress
    text = page_of(large)
    assert len(text.encode()) < 8_000_000
    assert text.count('class="query"') >= 2
