"""Tables of one model on several tasks: of a run, of an evaluation, and of runs side by side."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from robustdml_ext.recipes import Published, resolve
from robustdml_ext.reporting import (
    comparison_markdown,
    comparison_table,
    group_results,
    result_table,
    task_tables,
)
from robustdml_ext.reporting.tasks import has_tasks, place_of, task_columns, task_table


def shown(table: RenderableType, width: int = 120) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue().splitlines()


def cells(lines: list[str], first: str) -> list[str]:
    """The cells of the row whose first is so, without that."""
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
    return next(row[1:] for row in rows if row[:1] == [first])


TASKS = {
    "recall@1": 0.5, "recall@8": 0.875, "cosine_recall@1": 0.25, "cosine_recall@8": 0.75, "sum_recall@1": 0.6,
    "eer_similarity": 0.0255, "min_dcf@0.01_similarity": 0.25, "eer_cosine": 0.0262, "min_dcf@0.01_cosine": 0.375,
    "few_shot_5way_1shot_similarity": 0.5123, "few_shot_5way_1shot_similarity_interval": 0.0071,
    "few_shot_5way_5shot_similarity": 0.7, "few_shot_5way_5shot_similarity_interval": 0.006,
    "few_shot_5way_1shot_cosine": 0.4, "few_shot_5way_1shot_cosine_interval": 0.008,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("recall@4", ("similarity", "R@4 %")), ("published-sum_recall@16", ("published-sum", "R@16 %")),
        ("eer_sum", ("sum", "EER %")), ("min_dcf@0.05_published-sum", ("published-sum", "minDCF 0.05")),
        ("few_shot_20way_1shot_cosine", ("cosine", "20-way 1-shot %")),
        ("few_shot_5way_5shot_similarity_interval", ("similarity", "5-way 5-shot % ±")),
        ("eer", None), ("nmi", None), ("accuracy_similarity", None), ("map@r", None),
    ],
)  # fmt: skip
def test_figures_have_a_row_and_a_column(name: str, place: tuple[str, str] | None) -> None:
    assert place_of(name) == place


def test_the_plain_recall_is_the_first_scorers() -> None:
    assert place_of("recall@1", "cosine") == ("cosine", "R@1 %")
    lines = shown(task_table({"recall@1": 0.5, "eer_cosine": 0.1}, "title", "cosine"))
    assert cells(lines, "cosine") == ["50.00", "10.00"] and not any("SIM" in line for line in lines)


def test_other_runs_have_no_tasks() -> None:
    assert not has_tasks({"recall@1": 0.5, "nmi": 0.4, "f1": 0.3, "eer": 0.1})
    assert not has_tasks({"accuracy_similarity": 0.5})
    for name in ("cosine_recall@1", "eer_similarity", "few_shot_5way_1shot_cosine"):
        assert has_tasks({"recall@1": 0.5, name: 0.5})


def test_one_row_a_scorer_in_percent_with_intervals() -> None:
    lines = shown(task_table(TASKS, "Birds"))
    assert lines[0].strip() == "Birds"
    headings = [cell.strip() for cell in next(line for line in lines if "R@1" in line).split("┃")[2:-1]]
    assert headings == ["R@1 %", "R@8 %", "EER %", "minDCF 0.01", "5-way 1-shot %", "5-way 5-shot %"]
    assert cells(lines, "SIM") == ["50.00", "87.50", "2.55", "0.250", "51.23 ± 0.71", "70.00 ± 0.60"]
    assert cells(lines, "cosine") == ["25.00", "75.00", "2.62", "0.375", "40.00 ± 0.80", ""]
    assert cells(lines, "SIM + cosine") == ["60.00", "", "", "", "", ""]
    undefined = shown(task_table({"recall@1": 0.5, "eer_similarity": None}, "Birds"))
    assert cells(undefined, "SIM") == ["50.00", "–"]


def run(seed: int = 0, entries: list[dict[str, Any]] | None = None, **fields: Any) -> dict[str, Any]:
    """A result of prototypes; figures fall by a hundredth a seed."""
    recipe = resolve("prototypes", {"seed": seed, **fields}).model_dump(mode="json")
    found = [{"threat": None, "metrics": TASKS}] if entries is None else entries
    lowered = [
        {**entry, "metrics": {name: value - 0.01 * seed for name, value in entry["metrics"].items()}} for entry in found
    ]
    return {"recipe": recipe, "results": lowered, "data": {"zero_shot": entries is None}}


PGD = {
    "name": "pgd", "algorithm": "pgd", "epsilon": 0.3, "steps": 40, "step_size": 0.01, "random_start": 0.3,
    "norm": "linf", "restarts": 1, "keep_best": False,
}  # fmt: skip
OF_CLASSES = [
    {"threat": None, "metrics": {"accuracy_similarity": 0.99, "accuracy_dense": 0.98}},
    {
        "threat": PGD,
        "metrics": {
            "accuracy_similarity": 0.24, "accuracy_dense_from_similarity": 0.5, "accuracy_dense": 0.12,
            "accuracy_similarity_from_dense": 0.6,
        },
    },
]  # fmt: skip


def test_a_run_of_unseen_classes_ends_with_the_table_of_tasks() -> None:
    published = Published(
        source="Table 7", threat="none", clean={"recall@1": 61.5, "few_shot_5way_1shot_similarity": 50}
    )
    lines = shown(result_table({**run(), "published": published.model_dump()}))
    assert "unseen" in lines[0] and cells(lines, "SIM")[0] == "50.00" and max(map(len, lines)) <= 120
    assert any("published: R@1 % (similarity) 61.5, 5-way 1-shot % (similarity) 50" in line for line in lines)


def test_a_run_of_classes_trained_on_ends_with_accuracies_and_every_published_attack() -> None:
    published = Published(
        source="Table 1", threat="PGD", clean={"accuracy_similarity": 99.36, "accuracy_dense": 99.31},
        attacks={
            "PGD (40)": {"accuracy_similarity": 23.85, "accuracy_dense": 0.02},
            "FGSM (1)": {"accuracy_similarity": 68.51, "accuracy_dense": 17.18},
        },
    )  # fmt: skip
    lines = shown(result_table({**run(entries=OF_CLASSES), "published": published.model_dump()}), 160)
    assert "of the classes trained on" in lines[0]
    assert cells(lines, "clean") == ["99.00", "98.00", "", ""]
    assert cells(lines, "PGD-40, ε = 0.3, step 0.01") == ["24.00", "12.00", "60.00", "50.00"]
    assert cells(lines, "published, clean")[:2] == ["99.36", "99.31"]
    assert cells(lines, "published, PGD (40)")[:2] == ["23.85", "0.02"]
    assert cells(lines, "published, FGSM (1)")[:2] == ["68.51", "17.18"]


def test_an_evaluation_shows_both_kinds_of_figures() -> None:
    both = [{**OF_CLASSES[0], "metrics": {**OF_CLASSES[0]["metrics"], **TASKS}}, OF_CLASSES[1]]
    lines = shown(task_tables(both, "a model on birds"), 160)
    assert any("Classification: a model on birds" in line for line in lines)
    assert cells(lines, "clean") == ["99.00", "98.00", "", ""] and cells(lines, "SIM")[0] == "50.00"
    alone = shown(task_tables(OF_CLASSES, "a model"), 160)
    assert not any("scored by" in line for line in alone)
    others = shown(task_tables([{"threat": None, "metrics": TASKS}], "a model"))
    assert not any("Classification" in line for line in others)


def _comparison(results: list[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in comparison_markdown(group_results(results)).splitlines()
    ]
    return rows[0], rows[2:]


def test_two_methods_with_two_seeds_each_compare_by_few_shot_and_verification() -> None:
    results = [run(seed, adversarial=name) for name in ("none", "both") for seed in (0, 1)]
    headings, rows = _comparison(results)
    assert headings[3:] == ["R@1 %", "R@8 %", "EER %", "minDCF 0.01", "5-way 1-shot %", "5-way 5-shot %"]
    assert [row[1] for row in rows] == ["prototypes", "prototypes + AT (both)"]
    assert rows[0][2:] == [
        "2", "49.50 ± 0.71", "87.00 ± 0.71", "2.05 ± 0.71", "0.245 ± 0.007", "50.73 ± 0.71", "69.50 ± 0.71",
    ]  # fmt: skip
    lines = shown(comparison_table(group_results(results)))
    assert max(map(len, lines)) <= 120 and "…" not in "".join(lines)
    heading = next(line for line in lines if "R@1" in line)
    for name in ("R@1 %", "R@8 %", "EER %", "5-way 1-shot %", "5-way 5-shot %"):
        assert name in heading
    assert cells(lines, "prototypes + AT (both)")[-2:] == ["50.73 ± 0.71", "69.50 ± 0.71"]


def test_two_methods_with_two_seeds_each_compare_by_accuracies() -> None:
    results = [run(seed, OF_CLASSES, auxiliary_weight=weight) for weight in (1.0, 0.0) for seed in (0, 1)]
    headings, rows = _comparison(results)
    assert headings[3:] == ["SIM %", "DOL %", "SIM, attacked through DOL %", "DOL, attacked through SIM %"]
    assert [row[:2] for row in rows] == [
        ["clean", "prototypes"], ["clean", "prototypes, without L_aux"],
        ["PGD-40, ε = 0.3, step 0.01", "prototypes"],
        ["PGD-40, ε = 0.3, step 0.01", "prototypes, without L_aux"],
    ]  # fmt: skip
    assert rows[2][2:] == ["2", "23.50 ± 0.71", "11.50 ± 0.71", "59.50 ± 0.71", "49.50 ± 0.71"]
    lines = shown(comparison_table(group_results(results)))
    heading = next(line for line in lines if "SIM %" in line)
    assert "DOL %" in heading and max(map(len, lines)) <= 120
    assert cells(lines, "prototypes")[:3] == ["2", "98.50 ± 0.71", "97.50 ± 0.71"]


def test_columns_of_tasks_are_the_similaritys() -> None:
    names = [name for name, _, _ in task_columns([TASKS, {"eer_similarity": 0.1}])]
    assert names == [
        "eer_similarity", "min_dcf@0.01_similarity", "few_shot_5way_1shot_similarity", "few_shot_5way_5shot_similarity",
    ]  # fmt: skip
    assert dict((name, percent) for name, _, percent in task_columns([TASKS]))["min_dcf@0.01_similarity"] is False
