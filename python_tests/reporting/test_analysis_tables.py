"""Tables of what norms are worth."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from robustdml_ext.recipes import resolve
from robustdml_ext.reporting import analysis_tables


def _run(seed: int, recalls: tuple[float | None, ...], method: str = "mdprop") -> tuple[dict[str, Any], dict[str, Any]]:
    names = ["clean", "T1", "T5"]
    entries = [
        {"name": name, "metrics": {"recall@1": recall, "nmi": 0.5}}
        for name, recall in zip(names, recalls, strict=False)
    ]
    sizes = {"gamma": [0.1, 0.2, 0.3 + 0.01 * seed], "beta": [0.4, 0.5, 0.6]}
    norms: dict[str, Any] = {"distributions": names, "pairs": [[0, 1], [0, 2], [1, 2]], "mean_absolute": sizes}
    auxiliary: dict[str, Any] = {"distributions": entries}
    if method != "mdprop":
        norms = auxiliary = {"missing": "one distribution: standard has no auxiliary norms"}
    recipe = resolve(method, {"seed": seed}).model_dump(mode="json")
    return {"recipe": recipe}, {"norms": norms, "auxiliary": auxiliary}


def _shown(*runs: tuple[dict[str, Any], dict[str, Any]]) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=120).print(analysis_tables(runs))
    return out.getvalue().splitlines()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("│")[1:-1]]


def test_seeds_are_put_together_and_points_are_those_of_each_run() -> None:
    rows = [_cells(line) for line in _shown(_run(0, (0.9, 0.88, 0.87)), _run(1, (0.8, 0.80, 0.82))) if "│" in line]
    assert rows[0] == ["MP″ (1, 5), digits", "2", "clean", "85.00 ± 7.07", "", "50.00 ± 0.00"]
    assert rows[1][2:5] == ["T1", "84.00 ± 5.66", "-1.00 ± 1.41"]
    assert rows[2][2:5] == ["T5", "84.50 ± 3.54", "-0.50 ± 3.54"]
    assert rows[3] == ["MP″ (1, 5), digits", "clean and T1", "0.1000 ± 0.0000", "0.4000 ± 0.0000"]
    assert rows[5][1:] == ["T1 and T5", "0.3050 ± 0.0071", "0.6000 ± 0.0000"]


def test_one_seed_has_no_deviation_and_a_gain_has_a_sign() -> None:
    rows = [_cells(line) for line in _shown(_run(0, (0.5, 0.525, 0.5))) if "│" in line]
    assert [row[4] for row in rows[:3]] == ["", "+2.50", "+0.00"] and rows[3][2] == "0.1000"


def test_a_run_without_auxiliary_norms_says_so() -> None:
    lines = _shown(_run(0, (), "standard"))
    assert lines == ["ST, digits: one distribution: standard has no auxiliary norms"]
    both = _shown(_run(0, (), "standard"), _run(0, (0.5, 0.5, 0.5)))
    assert any("T1 and T5" in line for line in both) and any("ST, digits: one" in line for line in both)
