"""The documentation site builds without a warning, and what it links to and says of the machine is checked."""

from __future__ import annotations

import html.parser
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ("mdprop", "eat", "ecaml", "daml", "prototypes")
# The equations that each paper numbers, all of which its page has to place.
EQUATIONS = {"mdprop": 17, "eat": 13, "ecaml": 11, "daml": 12, "prototypes": 6}


class Page(html.parser.HTMLParser):
    """What a page links to and loads, and the names that it can be linked to by."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.names: set[str] = set()
        self.text: list[str] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value is None:
                continue
            if name == "id":
                self.names.add(value)
            elif tag == "a" and name == "href":
                self.links.append(value)
            elif name == "src" or (tag == "link" and name == "href"):
                self.loaded.append(value)

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def build(source: Path, out: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", str(source), str(out)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT / "docs", out)
    assert done.returncode == 0, done.stderr
    assert not done.stderr.strip(), done.stderr
    return out


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html")}


def test_every_link_inside_the_site_leads_somewhere(site: Path, pages: dict[Path, Page]) -> None:
    lost = []
    for file, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            name = unquote(parts.fragment)
            if not target.is_file():
                lost.append(f"{file.relative_to(site)}: {link}")
            elif name and target in pages and name not in pages[target].names:
                lost.append(f"{file.relative_to(site)}: {link}, no such place")
    assert not lost, "\n".join(lost[:20])


def test_nothing_is_loaded_from_elsewhere(pages: dict[Path, Page]) -> None:
    assert not [value for page in pages.values() for value in page.loaded if urlsplit(value).netloc]


def test_no_page_has_a_path_of_this_machine(site: Path) -> None:
    home = re.compile(rf"{re.escape(str(ROOT))}|{re.escape(sys.prefix)}|(?<![\w.])/(?:home|root|tmp|work|Users)/")
    found = [
        f"{file.relative_to(site)}: {match[0]}"
        for file in [*site.rglob("*.html"), *site.rglob("*.txt"), site / "searchindex.js"]
        # Source files are shown as they are; of them only this checkout's own place must not appear.
        for match in [home.search(file.read_text(encoding="utf-8"))]
        if match
    ]
    assert not found, "\n".join(found[:20])


@pytest.mark.parametrize("paper", PAPERS)
def test_every_equation_has_a_row_and_links_to_its_source(paper: str, site: Path, pages: dict[Path, Page]) -> None:
    lines = (ROOT / "docs" / "papers" / f"{paper}.md").read_text(encoding="utf-8").splitlines()
    start = lines.index("## Equation → file")
    rows = [line for line in lines[start : lines.index("", start + 2)] if line.startswith("|")]
    placed: set[int] = set()
    for row in rows:
        first = row.split("|")[1]
        for low, high in re.findall(r"(\d+)(?:–(\d+))?", first if "eq." in first else ""):
            placed |= set(range(int(low), int(high or low) + 1))
    assert placed == set(range(1, EQUATIONS[paper] + 1))
    links = set(pages[site / "papers" / f"{paper}.html"].links)
    named = re.findall(r"{src}`([^`:]+):([\w.]+)`", "\n".join(rows))
    assert len(named) >= 8
    for path, name in named:
        # The line that the link leads to defines the name.
        code, last = (ROOT / path).read_text(encoding="utf-8").splitlines(), name.rpartition(".")[2]
        anchors = [link.rpartition("#L-")[2] for link in links if link.startswith(f"../source/{path}.html#L-")]
        assert any(re.match(rf"\s*(class|def) {last}\b|{last}\b.*=", code[int(line) - 1]) for line in anchors), name


def test_a_renamed_class_ends_the_build(tmp_path: Path) -> None:
    """The role that names source files, on a small site of its own."""
    extension = ROOT / "docs" / "_ext"
    (tmp_path / "conf.py").write_text(
        f"import sys\nsys.path.insert(0, {str(extension)!r})\nextensions = ['myst_parser', 'sources']\n"
    )
    page = tmp_path / "index.md"
    page.write_text("# A\n\n{src}`robustdml_ext/methods/mdprop.py:MDProp.training_step`\n")
    done = build(tmp_path, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert 'id="L-' in (tmp_path / "out/source/robustdml_ext/methods/mdprop.py.html").read_text(encoding="utf-8")
    for wrong in ("robustdml_ext/methods/mdprop.py:NoSuchClass", "robustdml_ext/methods/no_such_file.py"):
        page.write_text(f"# A\n\n{{src}}`{wrong}`\n")
        done = build(tmp_path, tmp_path / "out")
        assert done.returncode != 0 and "src: " in done.stderr
