"""The page of runs: one HTML file with everything in it, readable on a phone, in the light and in the dark."""

from __future__ import annotations

from robustdml_ext.reporting.page.analysis import Analysis, AnalysisError, read_analysis
from robustdml_ext.reporting.page.document import page, write_page
from robustdml_ext.reporting.page.runs import PageRun, group_runs, read_run
from robustdml_ext.reporting.page.scores import Scoring, score_runs

__all__ = [
    "Analysis",
    "AnalysisError",
    "PageRun",
    "Scoring",
    "group_runs",
    "page",
    "read_analysis",
    "read_run",
    "score_runs",
    "write_page",
]
