"""Tables of the EAT paper's methods: every recall, published figures, routes, members, and the width of a screen."""

from __future__ import annotations

from typing import Any

import pytest
from made_up import made_up, shown

from robustdml_ext.recipes import read_recipe_file
from robustdml_ext.recipes.names import DEFENSES
from robustdml_ext.reporting import comparison_markdown, comparison_table, group_results, result_table

HEADINGS = ["R@1 %", "R@2 %", "R@4 %", "R@8 %", "NMI %", "F1 %"]


def _published(name: str) -> dict[str, Any]:
    published = read_recipe_file(f"eat/{name}").published
    assert published is not None
    return published.model_dump(mode="json")


def _heading(lines: list[str]) -> str:
    return next(line for line in lines if "R@1" in line)


def _row(lines: list[str], start: str) -> str:
    return next(line for line in lines if line.strip("│┃ ").startswith(start))


def test_a_run_shows_every_recall_and_the_published_row_in_120_columns() -> None:
    result = {**made_up("eat"), "published": _published("table1-cub200-2010-mobilenetv2-eat")}
    lines = shown(result_table(result))
    assert all(heading in _heading(lines) for heading in HEADINGS) and max(map(len, lines)) <= 120
    clean, attacked = _row(lines, "published, clean"), _row(lines, "published, adversarial")
    assert [cell.strip() for cell in clean.split("│")[2:8]] == ["52.78", "62.34", "71.31", "80.48", "56.91", "19.28"]
    assert [cell.strip() for cell in attacked.split("│")[2:8]] == ["24.02", "30.43", "37.56", "47.49", "38.02", "4.84"]
    assert "PGD-10 away from clean, ε = 8/255" in "".join(lines) and "…" not in "".join(lines)


def test_a_run_of_mdprop_shows_the_papers_recalls_alone() -> None:
    result = made_up("pal")
    result["recipe"] |= {"method": "standard", "targets": []}
    heading = _heading(shown(result_table(result)))
    assert "R@4" in heading and "R@2" not in heading and "R@8" not in heading
    result["published"] = {"clean": {"recall@1": 50.0, "recall@8": 80.0}, "adversarial": {}}
    assert "R@8" in _heading(shown(result_table(result)))


def test_recalls_are_in_order_of_k() -> None:
    result = made_up("at")
    for entry in result["results"]:
        entry["metrics"] = {"recall@20": 0.9, "recall@1": 0.5, "recall@2": 0.6, "recall@10": 0.8, "nmi": 0.4, "f1": 0.2}
    result["published"] = _published("table4-inshop-mobilenetv2-at")
    lines = shown(result_table(result))
    heading = _heading(lines)
    places = [heading.index(name) for name in ("R@1 %", "R@2 %", "R@10 %", "R@20 %", "NMI %")]
    assert places == sorted(places)
    assert [cell.strip() for cell in _row(lines, "published, adv").split("│")[2:6]] == ["38.06", "", "62.46", "69.20"]


def test_members_and_routes_have_rows_of_their_own() -> None:
    result = made_up("eat", members=3)
    plain = shown(result_table(result))
    assert [number for number in (1, 2, 3) if any(f"member {number} of 3" in line for line in plain)] == [1, 2, 3]
    assert sum("PGD-10 away from clean, ε = 16/255" in line for line in plain) == 4
    assert not any("through" in line for line in plain)  # one route says nothing more
    entry = result["results"][1]
    entry["routes"] = {
        "whole": entry["metrics"],
        "average": entry["metrics"],
        "member 0": {"recall@1": 0.123, "nmi": 0.4},
    }
    routed = shown(result_table(result))
    assert sum("through" in line for line in routed) == 3
    row = _row(routed, "through member 1 alone")
    assert any("worst of" in line for line in routed) and max(map(len, routed)) <= 120
    assert "12.30" in row and row.count("│") == plain[4].count("│")


def test_members_of_one_ensemble_and_of_no_other_are_counted_once() -> None:
    groups = group_results([made_up("eat", members=3), made_up("eat", seed=1), made_up("at")])
    assert [len(group.members) for group in groups] == [3, 0]
    text = comparison_markdown(groups)
    assert "| PAL + EAT | 2 |" in text and "| PAL + EAT: member 3 | 1 |" in text


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_comparison_of_all_seven_fits_a_screen(seeds: int) -> None:
    results = [
        made_up(method, seed, members=3 if method == "eat" else 0) for method in DEFENSES for seed in range(seeds)
    ]
    lines = shown(comparison_table(group_results(results)))
    assert max(map(len, lines)) <= 120 and "…" not in "".join(lines)
    # Not one cell is broken over two lines: a row for each kind of input and method, and one for each kind.
    assert sum(line.strip("│┃ ").startswith("PAL + Mix-Up") for line in lines) == 6
    assert sum("±" in line for line in lines) == (0 if seeds == 1 else 1 + 6 * 7 + 2 * 3)
    expected = [*HEADINGS, "π_ratio"] if seeds == 1 else ["R@1 %", "R@8 %", "NMI %", "F1 %"]
    assert [cell.strip() for cell in _heading(lines).split("┃")[3:-1]] == expected


def test_markdown_has_every_figure() -> None:
    groups = group_results([made_up("eat", seed) for seed in range(2)])
    assert all(heading in comparison_markdown(groups).splitlines()[0] for heading in HEADINGS)


def test_tables_have_a_row_of_training_images_only_where_there_are_some() -> None:
    plain = made_up("at")
    seen = {**made_up("pal"), "seen": {"threat": None, "metrics": {"recall@1": 0.987, "nmi": 0.5}}}
    (row,) = [line for line in shown(result_table(seen)) if "training images" in line]
    assert "98.70" in row
    assert not any("training images" in line for line in shown(result_table(plain)))
    groups = group_results([plain, seen])
    lines = comparison_markdown(groups).splitlines()
    assert [line.split("|")[2].strip() for line in lines if "training images" in line] == ["PAL"]
    # Right below the clean figures of test images.
    kinds = [line.split("|")[1].strip() for line in lines[2:]]
    assert kinds[:3] == ["clean", "clean", "clean, training images"]
    assert any("98.70" in line for line in shown(comparison_table(groups)))
