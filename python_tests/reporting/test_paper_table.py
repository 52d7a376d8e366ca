"""A paper's table with ours beside it: figures of hand-made results, marks, attacks by name, and unfinished rows."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import away
from rich.console import Console

from robustdml_ext.recipes import read_recipe_file, resolve
from robustdml_ext.reporting import Group, PaperRow, paper_markdown, paper_table
from robustdml_ext.reporting.paper_figures import Cell, sections

STAX = {
    "name": "stax", "algorithm": "pgd", "epsilon": 0.01, "steps": 20, "step_size": 0.0005, "norm": "linf",
    "random_start": 0.0, "targets": 1, "attacked": "queries and gallery",
}  # fmt: skip
MTAX = {**STAX, "name": "mtax", "targets": 5}


def row(
    recipe: str, runs: Sequence[Sequence[tuple[dict[str, Any] | None, dict[str, Any]]]], seeds: int = 3, **more: Any
) -> PaperRow:
    """A row of a packaged recipe: for each run its entries, threat and metrics; clean first."""
    file = read_recipe_file(recipe)
    group = Group(recipe, resolve(recipe_file=file).model_dump(mode="json"))
    for seed, entries in enumerate(runs):
        results = [{"threat": threat, "metrics": metrics} for threat, metrics in entries]
        group.add({"recipe": {"seed": seed}, "results": results})
    published = None if file.published is None else file.published.model_dump(mode="json")
    return PaperRow(recipe, file.title, published, seeds, group, **more)


def shown(rows: Sequence[PaperRow], width: int = 120) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(paper_table(rows))
    return out.getvalue().splitlines()


def markdown(rows: Sequence[PaperRow]) -> tuple[list[str], dict[str, list[str]], str]:
    """Headings, cells by row, and the lines below."""
    text = paper_markdown(rows)
    lines = [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| ")]
    cleaned = [[cell.strip("| ") for cell in line] for line in lines]
    return cleaned[0], {line[0]: line[1:] for line in cleaned[2:]}, text.rpartition("published.\n\n")[2]


def metrics(recall: float, four: float = 0.85, nmi: float = 0.70, ratio: float = 0.974) -> dict[str, float]:
    return {"recall@1": recall, "recall@2": 0.8, "recall@4": four, "nmi": nmi, "f1": 0.3, "pi_ratio": ratio}


MP = "mdprop/table1-cub200-multisimilarity-mdprop-1-5"  # clean 65.75 ± 0.28, attacked 57.27 ± 1.90
ST = "mdprop/table1-cub200-multisimilarity-standard"


def test_ours_over_seeds_beside_what_was_printed_with_its_deviation() -> None:
    recalls = (0.66, 0.65, 0.661)
    runs = [[(None, metrics(r)), (STAX, metrics(r - 0.2)), (MTAX, metrics(0.01))] for r in recalls]
    headings, cells, notes = markdown([row(MP, runs), row(ST, [])])
    mean, deviation = 100 * statistics.fmean(recalls), 100 * statistics.stdev(recalls)
    attacked = f"{100 * statistics.fmean(r - 0.2 for r in recalls):.2f} ± {deviation:.2f}"
    assert headings[:4] == ["recipe", "seeds", "R@1 %, clean", "R@4 %, clean"]
    assert headings[6] == "R@1 %, STAX PGD-20, ε = 0.01" and len(headings) == 10
    # The first parts of the titles are alike and stand above.
    assert cells["MP''"][:2] == ["3 of 3", f"{mean:.2f} ± {deviation:.2f} (65.75 ± 0.28)"]
    assert cells["MP''"][5] == f"{attacked} ▼ (57.27 ± 1.90)"
    published = read_recipe_file(ST).published
    assert published is not None and cells["ST"][0] == "0 of 3"
    assert cells["ST"][1].startswith(f"– ({published.clean['recall@1']:.2f}")
    assert cells["ST"][5].startswith(f"– ({published.adversarial['recall@1']:.2f}")
    assert paper_markdown([row(MP, runs), row(ST, [])]).startswith("CUB200-2011, multi-similarity loss\n")
    assert "Seeds: 3 of 6 runs are finished." in notes
    assert "Multi-Targeted Adversarial Examples, table 1.\n" in notes and "row MP" not in notes
    assert "Threat, published: white-box PGD-20 towards one target (STAX), epsilon 0.01" in notes
    assert "Threat, ours: STAX PGD-20, ε = 0.01, in l∞, of pixels in [0, 1], on queries and gallery." in notes
    assert "not like for like" in notes and "MTAX" not in notes  # which no column is of


def test_the_screen_has_published_figures_below_ours_in_120_columns() -> None:
    runs = [[(None, metrics(0.60 + 0.01 * n)), (STAX, metrics(0.6))] for n in range(3)]
    lines = shown([row(MP, runs), row(ST, [], remark="cub200 is missing")])
    assert max(map(len, lines)) <= 120 and "…" not in "".join(lines)
    start = next(number for number, line in enumerate(lines) if "MP''" in line)
    ours, printed = ([cell.strip() for cell in lines[place].split("│")] for place in (start, start + 1))
    assert ours[2:4] == ["3 of 3", "61.00 ± 1.00 ▼"] and printed[3] == "65.75 ± 0.28"
    assert any("cub200 is missing" in line for line in lines)
    titles = [line.strip() for line in lines if line.startswith((" clean", "clean", "STAX", " STAX"))]
    assert titles[:2] == ["clean", "STAX PGD-20, ε = 0.01"]


@pytest.mark.parametrize(
    ("metric", "ours", "printed", "deviation", "expected"),
    [
        ("recall@1", (0.6575, 0.001), 65.75, 0.28, ""),
        ("recall@1", (0.6537, 0.001), 65.75, 0.28, ""),  # 0.38 = 0.1 + 0.28, and rounding
        ("recall@1", (0.6535, 0.001), 65.75, 0.28, "▼"),
        ("recall@1", (0.6620, 0.001), 65.75, 0.28, "▲"),
        ("recall@1", (0.6620, None), 65.75, None, "▲"),
        ("recall@1", (0.657504, None), 65.75, None, ""),
        ("recall@1", (0.5049, None), 50.5, None, ""),  # printed with one digit
        ("eer_similarity", (0.0255, None), 2.75, None, "▲"),
        ("pi_ratio", (1.1, 0.01), 0.974, None, "▼"),
        ("pi_ratio", (0.9, 0.01), 0.974, None, "▲"),
        ("recall@1", None, 65.75, None, ""),
        ("recall@1", (0.5, None), None, None, ""),
    ],
)
def test_a_mark_says_that_a_difference_is_beyond_the_known_deviations(
    metric: str, ours: tuple[float, float | None] | None, printed: float | None, deviation: float | None, expected: str
) -> None:
    cell = Cell(metric, metric != "pi_ratio", ours, printed=printed, deviation=deviation)
    assert cell.mark == expected


@given(mean=st.floats(0, 1), spread=st.floats(0, 0.2), printed=st.integers(0, 10_000), deviation=st.floats(0, 20))
def test_a_figure_is_marked_one_way_at_most(mean: float, spread: float, printed: int, deviation: float) -> None:
    good = Cell("recall@1", True, (mean, spread), printed=printed / 100, deviation=deviation)
    bad = Cell("eer_cosine", True, (mean, spread), printed=printed / 100, deviation=deviation)
    assert {good.mark, bad.mark} in ({""}, {"▲", "▼"})
    beyond = abs(100 * mean - printed / 100) > 100 * spread + deviation + 0.05
    assert not beyond or good.mark


def test_several_attacks_stand_beside_those_of_their_name_and_steps() -> None:
    fgsm = {"name": "fgsm", "algorithm": "fgsm", "epsilon": 0.3, "steps": 1, "norm": "linf", "random_start": 0.0}
    pgd = {"name": "pgd", "algorithm": "pgd", "epsilon": 0.3, "steps": 40, "step_size": 0.01, "norm": "linf",
           "random_start": 0.3}  # fmt: skip
    both = {"accuracy_similarity": 0.9, "accuracy_dense": 0.8, "accuracy_dense_from_similarity": 0.7}
    entries = [(None, both), (pgd, {**both, "accuracy_similarity": 0.2}), ({**pgd, "steps": 100}, both), (fgsm, both)]
    headings, cells, notes = markdown([row("prototypes/table1-mnist", [entries], seeds=1)])
    cell = dict(zip(headings[1:], cells["MNIST, LeNet, prototypes: SIM and DOL"], strict=True))
    assert cell["SIM %, clean"] == "90.00 ▼ (99.36)" and cell["DOL %, clean"] == "80.00 ▼ (99.31)"
    by_attack = {
        heading.partition(", ")[2].partition(":")[0]: text for heading, text in cell.items() if "SIM" in heading
    }
    assert by_attack["PGD (40)"] == "20.00 ▼ (23.85)" and by_attack["PGD (100)"] == "90.00 ▲ (13.61)"
    assert by_attack["FGSM (1)"] == "90.00 ▲ (68.51)" and not any("from" in heading for heading in headings)
    assert "Threat, published: white-box, l-infinity, epsilon 0.3." in notes
    # Judged with other steps: what was published has nothing beside it, and ours stands by itself.
    headings, cells, _ = markdown(
        [row("prototypes/table1-mnist", [[entries[0], ({**pgd, "steps": 2}, both)]], seeds=1)]
    )
    cell = dict(zip(headings[1:], cells["MNIST, LeNet, prototypes: SIM and DOL"], strict=True))
    assert cell["SIM %, PGD (40)"] == "– (23.85)" and any("PGD-2" in heading for heading in headings)


def test_figures_of_tasks_say_their_scorer_and_small_ones_are_good() -> None:
    found = {f"veri_test/eer_{name}": 0.026 for name in ("similarity", "cosine", "sum")} | {"recall@1": 0.5}
    headings, cells, _ = markdown([row("prototypes/table3-voxceleb", [[(None, found)]], seeds=1)])
    cell = dict(zip(headings[1:], next(iter(cells.values())), strict=True))
    assert cell["veri_test: EER % (SIM), clean"] == "2.60 ▼ (2.55)"
    assert cell["veri_test: EER % (cosine), clean"] == "2.60 ▲ (2.62)"
    assert cell["list_test_all: EER % (SIM + cosine), clean"] == "– (2.55)" and "R@1 %, clean" not in cell


def test_rows_of_other_attacks_share_a_column_that_names_none() -> None:
    eat = row("eat/table1-cub200-2010-mobilenetv2-eat", [[(None, metrics(0.5)), (away(8 / 255), metrics(0.2))]])
    headings, _, notes = markdown([eat, row(MP, [[(None, metrics(0.6)), (STAX, metrics(0.5))]])])
    assert "R@1 %, attacked" in headings
    assert "PGD-10 away from clean, ε = 8/255" in notes and "STAX PGD-20, ε = 0.01" in notes
    alone, _, _ = markdown([eat])
    assert "R@1 %, PGD-10 away from clean, ε = 8/255" in alone


def test_without_published_figures_everything_judged_is_shown() -> None:
    name = "eat/table2-cub200-2010-bninception-at"
    entries = [(None, metrics(0.5)), (away(8 / 255), metrics(0.3)), (away(16 / 255), metrics(0.1))]
    headings, cells, notes = markdown([row(name, [entries], seeds=1)])
    assert sum(heading.startswith("R@1 %") for heading in headings) == 3 and "Published:" not in notes
    assert "60.00" not in "".join(next(iter(cells.values()))) and "50.00" in next(iter(cells.values()))


def test_a_row_of_clean_figures_shows_the_same_ones_attacked() -> None:
    name = "mdprop/appendix-table9-cub200-multisimilarity-mdprop-1-3-5"
    found = sections([row(name, [[(None, metrics(0.5)), (STAX, metrics(0.3)), (MTAX, metrics(0.2))]])])
    assert [section.heading for section in found] == ["clean", "STAX PGD-20, ε = 0.01"]
    assert [column[0] for column in found[1].columns] == ["recall@1", "recall@4", "nmi", "pi_ratio"]
    assert found[1].cells[0][0].our_text == "30.00" and found[1].cells[0][0].printed_text == ""


def test_nothing_finished_and_undefined_figures() -> None:
    assert "no run has finished" in "".join(shown([row("eat/table2-cub200-2010-bninception-at", [])]))
    _, cells, _ = markdown([row(MP, [[(None, {**metrics(0.5), "nmi": None})]])])
    assert next(iter(cells.values()))[3].startswith("– (70.43")


def test_figures_of_another_attack_than_the_published_one_have_no_mark() -> None:
    """The same attack is found among those that were judged, wherever it stands; another is shown without a mark."""
    other = {**STAX, "epsilon": 0.1}
    both = [[(None, metrics(0.66)), (other, metrics(0.9)), (STAX, metrics(0.1))]]
    _, cells, _ = markdown([row(MP, both), row(ST, [])])
    assert cells["MP''"][5] == "10.00 ▼ (57.27 ± 1.90)"
    for threat in (other, {**STAX, "steps": 40}, MTAX):
        runs = [[(None, metrics(0.66)), (threat, metrics(0.9))]]
        headings, cells, _ = markdown([row(MP, runs), row(ST, [])])
        assert cells["MP''"][5] == "90.00 (57.27 ± 1.90)" and "PGD-" in headings[6]
