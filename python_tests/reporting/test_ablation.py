"""The table and the figure of an ablation."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from made_up import made_up
from rich.console import Console

from robustdml_ext.reporting import Group, ReportError, ablation_markdown, ablation_table, draw_ablation

VALUES = ("0", "0.1", "1")


def _groups(seeds: int = 2, seen: bool = False) -> list[Group]:
    """Recall@1 falls with the value's place, so that the first is the best, and π_ratio rises."""
    groups = []
    for value, method in zip(VALUES, ("eat", "at", "pal"), strict=True):
        group = Group(value, {})
        for seed in range(seeds):
            result: dict[str, Any] = made_up(method, seed)
            if seen:
                result["seen"] = {"threat": None, "metrics": {"recall@1": 0.9}}
            group.add(result)
        groups.append(group)
    return groups


def _cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]


def test_a_row_a_value_with_clean_figures_and_attacks() -> None:
    headings, _, *rows = _cells(ablation_markdown("λ", _groups(seen=True), VALUES))
    attacks = [heading for heading in headings if "PGD" in heading]
    assert headings[:9] == ["λ", "seeds", "R@1 %", "R@2 %", "R@4 %", "R@8 %", "NMI %", "F1 %", "π_ratio"]
    assert headings[9] == "R@1 %, clean, training images" and len(attacks) == 5 and len(headings) == 15
    assert [row[0] for row in rows] == list(VALUES) and {row[1] for row in rows} == {"2"}
    assert rows[1][2].strip("*") == "54.50 ± 0.71"
    # All are alike on clean images, and the first falls least under attack.
    attacked = headings.index("R@1 %, PGD-10 away from clean, ε = 8/255")
    assert [row[attacked].startswith("**") for row in rows] == [True, False, False]
    assert all(row[2].startswith("**") for row in rows)


def test_the_best_ratio_is_the_smallest_and_what_is_missing_is_a_dash() -> None:
    groups = _groups(seeds=1)
    for group, ratio in zip(groups, (0.9, 0.7, 0.8), strict=True):
        group.rows["clean"]["pi_ratio"] = [ratio]
    groups[0] = Group("0", {})
    headings, _, *rows = _cells(ablation_markdown("λ", groups, VALUES))
    ratio = headings.index("π_ratio")
    assert [row[ratio] for row in rows] == ["–", "**0.700**", "0.800"]
    assert rows[0][1:] == ["0", *["–"] * (len(headings) - 2)]
    only = ablation_markdown("λ", groups[1:2], VALUES[1:2])
    assert "**" not in only  # there is nothing to be better than


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_screen_holds_the_tables_unbroken(seeds: int) -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(ablation_table("energy-confusion", _groups(seeds), VALUES))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 120 and "…" not in out.getvalue()
    rows = [line for line in lines if line.startswith("│")]
    assert len(rows) == 6 and sum("±" in line for line in rows) == (0 if seeds == 1 else 6)
    heading = next(line for line in lines if "NMI" in line)
    assert ("R@2" in heading) == (seeds == 1) and "R@1" in heading and "R@8" in heading


def test_the_figure_has_a_line_for_each_kind_of_images(tmp_path: Path) -> None:
    import matplotlib

    file = tmp_path / "new" / "figure.svg"
    with matplotlib.rc_context({"svg.fonttype": "none"}):  # words as words
        draw_ablation("energy-confusion", _groups(seen=True), VALUES, file)
    text = file.read_text()
    for words in (
        "energy-confusion",
        "Recall@1, %",
        "NMI, %",
        "π_ratio",
        "clean, training images",
        "PGD-10 away from clean",
    ):
        assert words in text
    with pytest.raises(ReportError, match="no run of this ablation"):
        draw_ablation("λ", [Group("0", {})], ("0",), tmp_path / "none.png")
    with pytest.raises(ReportError, match="cannot write"):
        draw_ablation("λ", _groups(), VALUES, tmp_path / "figure.xyz")
