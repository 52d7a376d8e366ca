"""Reporting: results of several runs as tables and figures."""

from __future__ import annotations

from robustdml_ext.reporting.ablation import ablation_markdown, ablation_table, draw_ablation
from robustdml_ext.reporting.analysis_tables import analysis_tables
from robustdml_ext.reporting.figures import draw_comparison
from robustdml_ext.reporting.labels import method_label
from robustdml_ext.reporting.paper_figures import PaperRow
from robustdml_ext.reporting.paper_table import paper_markdown, paper_table
from robustdml_ext.reporting.result_tables import result_table, task_tables
from robustdml_ext.reporting.results import Group, ReportError, group_results, read_result
from robustdml_ext.reporting.screen import doctor_report
from robustdml_ext.reporting.tables import comparison_markdown, comparison_table, evaluation_table
from robustdml_ext.reporting.training_curves import curves_table, group_curves, read_curves
from robustdml_ext.reporting.training_figure import draw_curves

__all__ = [
    "Group",
    "PaperRow",
    "ReportError",
    "ablation_markdown",
    "ablation_table",
    "analysis_tables",
    "comparison_markdown",
    "comparison_table",
    "curves_table",
    "doctor_report",
    "draw_ablation",
    "draw_comparison",
    "draw_curves",
    "evaluation_table",
    "group_curves",
    "group_results",
    "method_label",
    "paper_markdown",
    "paper_table",
    "read_curves",
    "read_result",
    "result_table",
    "task_tables",
]
