"""Figures and ablations of classifiers, which have accuracies where others have Recall@1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import image

from robustdml_ext.recipes import resolve
from robustdml_ext.reporting import ablation_markdown, draw_ablation, draw_comparison, group_results
from robustdml_ext.reporting.figures import robustness_metrics
from robustdml_ext.reporting.tables import metric_heading, small_is_good


def result(weight: float, seed: int = 0) -> dict[str, Any]:
    """A run of prototypes: clean, and under PGD with two numbers of steps."""
    threat = {"name": "pgd", "algorithm": "pgd", "epsilon": 0.3, "norm": "linf", "step_size": 0.01, "random_start": 0.3}
    entries = [{"threat": None, "metrics": {"accuracy_similarity": 0.9 + weight / 100, "accuracy_dense": 0.8}}]
    for steps in (40, 100):
        metrics = {"accuracy_similarity": weight / steps, "accuracy_dense": 0.1, "accuracy_dense_from_similarity": 0.2}
        entries.append({"threat": {**threat, "steps": steps}, "metrics": metrics})
    fields = {"dataset": "mnist", "pair_weight": weight, "seed": seed}
    return {"recipe": resolve("prototypes", fields).model_dump(mode="json"), "results": entries}


def test_a_comparison_draws_the_accuracy_of_each_head(tmp_path: Path) -> None:
    groups = group_results([result(1.0), result(2.0), result(2.0, seed=1)])
    assert [metric for metric, _, _ in robustness_metrics(groups)] == ["accuracy_similarity", "accuracy_dense"]
    draw_comparison(groups, tmp_path / "figure.png")
    pixels = image.imread(tmp_path / "figure.png")[..., :3]
    # Lines are there: an empty figure is white but for its frames and words.
    assert (pixels.min(2) < 0.3).mean() > 0.005


def test_an_ablation_shows_accuracies_clean_and_attacked(tmp_path: Path) -> None:
    groups = group_results([result(1.0), result(2.0)])
    table = ablation_markdown("pair_weight", groups, ["1", "2"])
    head = table.splitlines()[0]
    assert head.count("SIM %") == 3 and head.count("DOL %") >= 3 and "R@1" not in head
    assert "**92.00**" in table and "5.00" in table and "2.00" in table
    draw_ablation("pair_weight", groups, ["1", "2"], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000


def test_little_is_good_of_errors_and_costs() -> None:
    for name in ("eer_similarity", "veri_test/eer_cosine", "min_dcf@0.01_sum", "pi_ratio", "eer"):
        assert small_is_good(name)
    for name in ("recall@1", "accuracy_similarity", "few_shot_5way_1shot_similarity"):
        assert not small_is_good(name)
    assert metric_heading("accuracy_similarity") == ("SIM %", True)
    assert metric_heading("eer_similarity") == ("EER %", True)
