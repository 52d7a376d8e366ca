"""The page in headless Chromium: every figure is there to be seen, on a wide screen and a phone, light and dark."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from page_runs import Parsed, analyze, page_of, write_run

# With this set to "require", as in continuous integration, a missing browser fails the tests instead of skipping them.
REQUIRED = os.environ.get("ROBUSTDML_BROWSER") == "require"
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip
_SCREENS = {"wide": (1280, "light"), "wide-dark": (1280, "dark"), "phone": (360, "light"), "phone-dark": (360, "dark")}
_PATIENCE = 120_000  # milliseconds: test machines are busy

# For each figure its size, and those of the smallest drawing or image in it; of all images the natural width.
_MEASURE = """() => {
  const box = (node) => { const r = node.getBoundingClientRect(); return [r.width, r.height]; };
  const least = (nodes) => Math.min(...nodes.map((node) => Math.min(...box(node))));
  const seen = (node) => getComputedStyle(node).visibility === 'visible' && node.getClientRects().length > 0;
  return {
    figures: [...document.querySelectorAll('figure')].map((node) => ({
      id: node.id, seen: seen(node), size: box(node),
      parts: node.querySelectorAll('svg, img').length,
      least: least([...node.querySelectorAll('svg'), ...node.querySelectorAll('img')]
        .filter((one) => !one.closest('details:not([open])'))),
      caption: (node.querySelector('figcaption') || {}).innerText || '',
      right: Math.max(...[...node.querySelectorAll('*')].map((one) => one.getBoundingClientRect().right)),
    })),
    images: [...document.images].map((image) => [image.complete, image.naturalWidth]),
    overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    width: document.documentElement.clientWidth,
    scrolling: [...document.querySelectorAll('body *')].filter((node) =>
      ['auto', 'scroll'].includes(getComputedStyle(node).overflowX) && !node.querySelector('table')).length,
  };
}"""

# The colors of all text beside what lies behind it: [color, background, text].
_COLORS = """() => {
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if (!/, 0\\)$|transparent/.test(color)) return color;
    }
    return 'none';
  };
  const names = 'body, h1, h2, h3, p, td, th, figcaption, a, dt, dd, caption, summary, small, svg';
  return [...document.querySelectorAll(names)].map((node) =>
    [getComputedStyle(node).color, behind(node), node.tagName + ' ' + (node.textContent || '').slice(0, 20)]);
}"""


def _browser() -> str | None:
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


def _missing() -> str:
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed: pip install playwright"
    return "" if _browser() else f"none of {', '.join(_NAMES)} is installed: apt-get install chromium"


pytestmark = pytest.mark.skipif(bool(_missing()) and not REQUIRED, reason=_missing() or "a browser is there")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything on it: an ensemble, a defense with two seeds, and a run that has not ended."""
    root = tmp_path_factory.mktemp("pages")
    folders = [write_run(root / name, *what) for name, what in (("eat", ("eat",)), ("a", ("at",)), ("b", ("at", 1)))]
    for folder in folders[:2]:
        analyze(folder, ["cat", "a class of a very long name that does not fit below a tile", "<i>x</i>", "d", "e"])
    folders.append(write_run(root / "iat", "iat", ended=False))
    place = root / "report.html"
    place.write_text(page_of(*folders), encoding="utf-8")
    return place


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    assert not _missing(), _missing()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as profile:
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=_browser(), args=list(_FLAGS), offline=True, timeout=_PATIENCE
        )
        yield context
        context.close()


@pytest.fixture(scope="module", params=_SCREENS)
def shown(request: pytest.FixtureRequest, chromium: Any, file: Path) -> Iterator[Any]:
    """The page on a screen, and what was asked for or complained of while it was opened."""
    width, scheme = _SCREENS[request.param]
    tab = chromium.new_page()
    tab.set_viewport_size({"width": width, "height": 800})
    tab.emulate_media(color_scheme=scheme)
    requests: list[str] = []
    complaints: list[str] = []
    tab.on("request", lambda asked: requests.append(asked.url))
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(file.as_uri(), timeout=_PATIENCE)
    yield {"tab": tab, "scheme": scheme, "width": width, "requests": requests, "complaints": complaints}
    tab.close()


def test_it_asks_for_nothing_and_complains_of_nothing(shown: dict[str, Any], file: Path) -> None:
    assert shown["requests"][0] == file.as_uri()
    assert [url for url in shown["requests"][1:] if not url.startswith("data:")] == []
    assert shown["complaints"] == []


def test_every_figure_is_seen(shown: dict[str, Any], file: Path) -> None:
    found = shown["tab"].evaluate(_MEASURE)
    expected = Parsed(file.read_text(encoding="utf-8")).figures
    assert [figure["id"] for figure in found["figures"]] == expected and len(expected) == 15
    for figure in found["figures"]:
        assert figure["seen"] and min(figure["size"]) > 0 and figure["parts"] and figure["caption"], figure
        assert figure["least"] >= 20, figure
        assert figure["right"] <= found["width"] + 1, figure
    assert found["images"] and all(complete and width > 0 for complete, width in found["images"])


def test_nothing_but_tables_scrolls_sideways(shown: dict[str, Any]) -> None:
    found = shown["tab"].evaluate(_MEASURE)
    assert found["width"] == shown["width"] and found["overflow"] <= 0
    assert found["scrolling"] == 0


def _channels(color: str) -> list[float]:
    return [float(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def _luminance(color: str) -> float:
    parts = [channel / 255 for channel in _channels(color)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out(shown: dict[str, Any]) -> None:
    colors = shown["tab"].evaluate(_COLORS)
    (body,) = [background for _, background, name in colors if name.startswith("BODY")]
    assert (_luminance(body) < 0.1) == (shown["scheme"] == "dark")
    for color, background, name in colors:
        low, high = sorted([_luminance(color), _luminance(background)])
        assert (high + 0.05) / (low + 0.05) >= 4.5, (name, color, background)


def test_text_of_drawings_has_the_pages_color_and_is_large_enough(shown: dict[str, Any]) -> None:
    found = shown["tab"].evaluate(
        """() => [...document.querySelectorAll('svg text')].map((node) => [
             getComputedStyle(node).fill, getComputedStyle(document.body).color,
             parseFloat(getComputedStyle(node).fontSize) * node.ownerSVGElement.getScreenCTM().a, node.textContent])"""
    )
    assert len(found) > 100
    for fill, color, size, text in found:
        assert fill == color and size >= 8, (text, fill, size)
