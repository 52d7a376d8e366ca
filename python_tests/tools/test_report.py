"""`run report`: where the page goes, what is analyzed for it, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from python_tests.commands import said
from robustdml_ext import run
from robustdml_ext.tools import report

sys.path.insert(0, str(Path(__file__).parents[1] / "reporting" / "page"))
from page_runs import analyze, result_of, write_result, write_run


@pytest.fixture
def analyzed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of folders that were analyzed, by a stand-in."""
    names: list[str] = []

    def stand_in(folder: Path, console: object, device: str, root: str | None) -> None:
        names.append(folder.name)
        analyze(folder)

    monkeypatch.setattr(report, "analyze_run", stand_in)
    return names


def test_the_page_of_one_run_lies_in_its_folder(
    tmp_path: Path, analyzed: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "at")
    assert run.main(["report", str(folder)]) == 0
    assert str(folder / "report.html") in capsys.readouterr().out
    assert 'id="embedding-map-1"' in (folder / "report.html").read_text(encoding="utf-8")
    assert analyzed == ["at"]
    assert run.main(["report", str(folder)]) == 0
    assert analyzed == ["at"]  # it is of the same weights still
    (folder / "last.pt").write_bytes(b"others")
    assert run.main(["report", str(folder), "--no-analysis"]) == 0
    assert analyzed == ["at"]
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert "other weights" in text and 'id="embedding-map-1"' not in text
    assert run.main(["report", str(folder)]) == 0
    assert analyzed == ["at", "at"]


def test_the_page_of_several_lies_here(tmp_path: Path, analyzed: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = [str(write_run(tmp_path / m, m)) for m in ("at", "pal")]
    write_run(tmp_path / "iat", "iat", ended=False)
    assert run.main(["report", *names, "iat", "ablation.md"]) == 0
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "3 methods side by side" in text and sorted(analyzed) == ["at", "pal"]
    # What a shell makes of FOLDER/* now holds the page itself.
    assert run.main(["report", *names, "report.html", "--out", "pages/two.html"]) == 0
    assert "2 methods" in (tmp_path / "pages" / "two.html").read_text(encoding="utf-8")


def test_where_a_run_cannot_be_analyzed_the_page_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(folder: Path, *_: object) -> None:
        raise FileNotFoundError(f"no images of <sop> for {folder.name}")

    monkeypatch.setattr(report, "analyze_run", refuse)
    folder = write_run(tmp_path / "at")
    assert run.main(["report", str(folder)]) == 0
    assert "no images of <sop> for at" in said(capsys)
    text = (folder / "report.html").read_text(encoding="utf-8")
    assert text.count("no images of &lt;sop&gt; for at") == 3  # map, sheets, norms
    assert 'id="robustness-epsilon"' in text


def test_an_evaluation_beside_its_run_comes_with_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    inner = folder / "evaluation-digits-test"
    inner.mkdir()
    result = result_of(folder)
    judged = {
        "protocol": {"task": ["retrieval"], "seed": 0},
        "data": {"dataset": "digits", "split": "test", "images": 9},
    }
    write_result(inner, {"recipe": result["recipe"], "results": result["results"][:1], **judged})
    file = tmp_path / "page.html"
    assert run.main(["report", str(folder), str(inner), "--no-analysis", "--out", str(file)]) == 0
    text = file.read_text(encoding="utf-8")
    assert "<h1>PAL + AT" in text and "Evaluated on 9 images of digits, test" in text
    assert run.main(["report", str(inner), "--out", str(file)]) == 0
    assert "evaluation of a model" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none"], "nothing of a run at none"),
        (["ablation.md"], "name at least one run"),
        (["at", "at"], "are one run; name it once"),
        (["at", "--out", "at"], "it is a folder; name a file by --out"),
    ],
)
def test_a_wrong_request_is_refused(
    tmp_path: Path, words: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "at")
    assert run.main(["report", *words, "--no-analysis"]) == 2
    assert message in said(capsys)
    assert not list(tmp_path.glob("**/report.html"))


def test_help_says_where_the_page_goes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["report", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "RUN/report.html of one run, ./report.html of several" in shown and "--no-analysis" in shown


def test_a_run_leaves_its_page_at_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:  # type: ignore[no-untyped-def]
    words = ["mdprop", "--iterations", "2", "--eval-attacks", "stax", "--eval-steps", "1", "--threads", "1"]
    assert run.main([*words, "--report", "--out", str(tmp_path / "a")]) == 0
    assert 'id="norm-differences-1"' in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    # Nothing that keeps the page from being written makes a failure of the run.
    monkeypatch.setattr(report, "write_page", lambda *_: (_ for _ in ()).throw(OSError("no room left")))
    assert run.main([*words, "--report", "--out", str(tmp_path / "b")]) == 0
    assert "its page could not be written: no room left" in capsys.readouterr().err
    assert (tmp_path / "b" / "result.json").exists() and not (tmp_path / "b" / "report.html").exists()
    # Another run in its place discards the page, too.
    assert run.main([*words, "--overwrite", "--out", str(tmp_path / "a")]) == 0
    assert not (tmp_path / "a" / "report.html").exists()
