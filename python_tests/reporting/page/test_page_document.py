"""The page as a whole: its sections, its figures, what stands in its table, and what it must not let through."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from analyses import arrays_of, facts_of, noise, write_analysis
from page_runs import Parsed, analyze, page_of, result_of, write_result, write_run

from robustdml_ext.reporting import ReportError
from robustdml_ext.reporting.page import Scoring, page, read_run, write_page
from robustdml_ext.reporting.style import COLORS

NASTY = ["<script>alert(1)</script>", '" onerror="alert(2)', "$\\frac{1}{0}$", "_hidden & <b>bold</b>", "猫 'n' 犬"]
TEMPLATES = Path(__file__).parents[3] / "robustdml_ext" / "reporting" / "page" / "templates"


def test_every_section_and_figure_has_its_place(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"{m}-{s}", m, s) for m in ("eat", "at") for s in (0, 1)]
    for folder in folders[:3]:
        analyze(folder)
    parsed = Parsed(page_of(*folders))
    assert list(parsed.sections) == [
        "runs", "results", "training", "robustness", "embeddings", "retrieval", "norms", "time", "recipes",
    ]  # fmt: skip
    assert parsed.figures == [
        "training-recall", "training-loss", "robustness-epsilon", "robustness-steps", "robustness-members",
        "embedding-map-1", "embedding-map-2", "sheet-random-1", "sheet-broken-1", "sheet-random-2", "sheet-broken-2",
        "norm-differences-1", "norm-differences-2", "auxiliary-norms", "time-stages",
    ]  # fmt: skip
    assert len(parsed.ids) == len(set(parsed.ids))
    for tag, attributes in parsed.tags:
        if tag == "a" and str(attributes["href"]).startswith("#"):
            assert str(attributes["href"])[1:] in parsed.ids
        assert tag != "img" or attributes["alt"]
        assert tag != "svg" or (attributes["role"] == "img" and attributes["aria-label"])


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_fetched_and_no_name_is_markup(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at", dataset="digits")
    analyze(folder, NASTY)
    result = result_of(folder)
    result["recipe"]["dataset"] = NASTY[0]
    result["environment"]["commit"] = NASTY[0]
    write_result(folder, result)
    text = page_of(folder)
    parsed = Parsed(text)
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in parsed.tags}
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    for name in NASTY:
        assert name in parsed.text or any(name in str(a.get("alt")) for _, a in parsed.tags)
    sources = [str(a[name]) for _, a in parsed.tags for name in ("src", "href", "xlink:href") if name in a]
    assert sources and all(source.startswith(("data:", "#")) for source in sources)
    assert "@import" not in text and not re.search(r"url\((?!#)", text)


def test_colors_follow_the_page(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "at"), write_run(tmp_path / "pal", "pal"))
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, re.S))
    assert "currentColor" in drawings and "var(--grid)" in drawings
    assert not re.findall(r"#[0-9a-f]{6}\b(?!-)", re.sub(r'(id|href)="[^"]*"|url\([^)]*\)', "", drawings))
    # The best run is the first color everywhere, the other the second.
    for panel in re.findall(r'aria-label="Recall@1, % under.*?</svg>', text, re.S):
        assert "stroke:var(--c0)" in panel and "stroke:var(--c1)" in panel


def _luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_every_color_stands_out_in_both_modes() -> None:
    style = (TEMPLATES / "page.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", part)) for part in style.split("* { box-sizing")[0].split("@media")
    )
    for mode in (light, dark):
        for name, color in mode.items():
            at, on = sorted([_luminance(color), _luminance(mode["paper"])])
            contrast = (on + 0.05) / (at + 0.05)
            if re.fullmatch(r"c\d|faint", name):
                assert contrast >= 3, (name, color)
            elif name in ("ink", "soft", "link", "good", "bad"):
                assert contrast >= 4.5, (name, color)
        assert {f"c{number}" for number in range(len(COLORS))} <= set(mode)


@pytest.mark.usefixtures("undrawn")
def test_sections_without_content_are_absent(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "pal", "pal")
    result = result_of(folder)
    write_result(folder, {**result, "results": result["results"][:1], "timing": {}})
    (folder / "metrics.jsonl").unlink()
    parsed = Parsed(page_of(folder))
    assert list(parsed.sections) == ["runs", "results", "recipes"] and not parsed.figures
    assert "score" not in parsed.text


@pytest.mark.usefixtures("undrawn")
def test_what_an_analysis_lacks_is_said_in_its_place(tmp_path: Path) -> None:
    one, other = write_run(tmp_path / "at"), write_run(tmp_path / "pal", "pal")
    analyze(one)
    facts, arrays = facts_of(["a", "b"]), arrays_of(*noise(classes=2))
    facts["norms"] = facts["auxiliary"] = {"missing": "the network has <one> distribution"}
    facts["map"] = {"missing": "openTSNE is not installed"}
    del arrays["sheet_clean_top"]
    write_analysis(other, facts, arrays)
    parsed = Parsed(page_of(one, other))
    assert "openTSNE is not installed" in parsed.sections["embeddings"]
    assert "analysis.npz lacks sheet_clean_top" in parsed.sections["retrieval"]
    # Once, though it is why norms are neither compared nor exchanged.
    assert parsed.sections["norms"].count("the network has <one> distribution") == 1
    assert {"embedding-map-1", "sheet-broken-1", "norm-differences-1"} <= set(parsed.figures)
    assert not {"embedding-map-2", "sheet-broken-2", "norm-differences-2"} & set(parsed.figures)


@pytest.mark.usefixtures("undrawn")
def test_published_figures_stand_under_ours(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    published = {
        "source": "A & B, table 3, row AT", "threat": "white-box PGD-10, epsilon 8/255", "note": "another <batch>",
        "clean": {"recall@1": 54.3, "nmi": 70.1}, "clean_deviation": {"recall@1": 0.25},
        "adversarial": {"recall@1": 41.2},
    }  # fmt: skip
    write_result(folder, {**result_of(folder), "published": published})
    text = page_of(folder, write_run(tmp_path / "pal", "pal"))
    table = text[text.index('<table class="results">') :]
    blocks = table[: table.index("</table>")].split('<tr class="kind">')[1:]
    titles = [re.search(r"<span>(.*?)</span>", block)[1] for block in blocks]  # type: ignore[index]
    by_title = dict(zip(titles, blocks, strict=True))
    assert "54.30 ± 0.25" in by_title["clean"] and "70.10" in by_title["clean"]
    assert "41.20" in by_title["PGD-10 away from clean, ε = 8/255"]
    assert 'href="#note-1"' in by_title["clean"] and "another &lt;batch&gt;" in text and "A &amp; B" in text
    # Of an attack that was not run here, under a title of its own.
    write_result(folder, {**result_of(folder), "published": {**published, "threat": "PGD-7, epsilon 8/255"}})
    assert "published, under attack: PGD-7, epsilon 8/255" in page_of(folder)


@pytest.mark.usefixtures("undrawn")
def test_means_are_over_seeds_and_the_best_is_bold(tmp_path: Path) -> None:
    text = page_of(*(write_run(tmp_path / f"{m}{s}", m, s) for m in ("pal", "at") for s in (0, 1)))
    # 0.55 and 0.54 for both when clean; under the strongest attack PAL falls further.
    assert text.count("<td>54.50 ± 0.71</td>") >= 2
    row = re.search(r"PGD-10 away from clean, ε = 16/255</span>.*?</tbody>", text, re.S)[0]  # type: ignore[index]
    assert re.search(r"PAL \+ AT</th><td>2</td>\s*<td><strong>", row)
    assert not re.search(r"PAL</th><td>2</td>\s*<td><strong>", row)


@pytest.mark.usefixtures("undrawn")
def test_a_run_of_prototypes_has_its_tasks(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    result = result_of(folder)
    metrics = {"recall@1": 0.6, "cosine_recall@1": 0.8, "few_shot_5way_1shot_similarity": 0.5, "eer_cosine": 0.2,
               "few_shot_5way_1shot_similarity_interval": 0.01, "min_dcf@0.01_similarity": None}  # fmt: skip
    recipe = {**result["recipe"], "method": "prototypes", "loss": "prototypical"}
    write_result(folder, {**result, "recipe": recipe, "results": [{"threat": None, "metrics": metrics}]})
    text = page_of(folder)
    assert "scored by cosine" in text and "80.00" in text and "5-way 1-shot %" in text
    classified = [{"threat": None, "metrics": {"accuracy_similarity": 0.9}}]
    threat = {"name": "pgd", "algorithm": "pgd", "epsilon": 0.1, "steps": 5, "step_size": 0.05, "random_start": 0.1}
    classified.append({"threat": threat, "metrics": {"accuracy_similarity": 0.3}})  # type: ignore[dict-item]
    write_result(folder, {**result, "recipe": recipe, "results": classified})
    parsed = Parsed(page_of(folder))
    assert "robustness-epsilon" in parsed.figures and "the similarity head's accuracy" in parsed.text


def test_stages_are_in_the_order_of_a_step(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "at")
    text = page_of(folder)
    drawing = text[text.index('id="time-stages"') :]
    names = ["data", "attack", "forward", "backward", "update", "evaluation", "judging"]
    places = [drawing.index(f">{name}</text>") for name in names]
    assert places == sorted(places) and "4 s (30%)" in drawing  # of 13.5
    result = result_of(folder)
    result["timing"] = {"seconds": {"checkpoint": 0.5, "step": 1.5, "data": 1.0, "more": 1.0}}
    write_result(folder, result)
    drawing = page_of(folder).partition('id="time-stages"')[2]
    places = [drawing.index(f">{name}</text>") for name in ("data", "step", "checkpoint", "more")]
    assert places == sorted(places)


@pytest.mark.usefixtures("undrawn")
def test_the_head_tells_what_was_run(tmp_path: Path) -> None:
    text = page_of(write_run(tmp_path / "at", batch_size=24), write_run(tmp_path / "pal", "pal", seed=3))
    parsed = Parsed(text)
    head = parsed.sections["runs"]
    for words in ("0123456789+changes", "cpu, float32", "no nvcc at <build>; the plain PyTorch references ran", "avx2"):
        assert words in head
    differing = text[text.index("What the recipes differ in</caption>") :].partition("</table>")[0]
    assert ">method</th>" in differing and ">batch</th>" in differing and ">seed</th>" not in differing
    assert "pixels of [0, 1]" in parsed.sections["results"] and "running, clean" in parsed.sections["results"]
    assert "batch_size: 24" in parsed.sections["recipes"] and "torch" in parsed.sections["recipes"]


@pytest.mark.usefixtures("undrawn")
def test_a_page_replaces_another_whole_or_not_at_all(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / "at"))]
    file = tmp_path / "pages" / "report.html"
    write_page(runs, Scoring(), file)
    assert file.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [path.name for path in file.parent.iterdir()] == ["report.html"]
    with pytest.raises(ReportError, match="cannot write"):
        write_page(runs, Scoring(), file / "within.html")
    with pytest.raises(ReportError, match="at least one run"):
        page([], Scoring())


@pytest.mark.usefixtures("undrawn")
def test_a_result_of_an_earlier_version_has_a_page(tmp_path: Path) -> None:
    """A result that an earlier version wrote, without environment, timing and weights, has a page all the same."""
    folder = write_run(tmp_path / "at")
    result = result_of(folder)
    (folder / "result.json").write_text(json.dumps({name: result[name] for name in ("recipe", "results")}))
    assert "robustness-epsilon" in Parsed(page_of(folder)).figures
