"""The folder of a run: refuse to overwrite one by accident, and leave no half-written file behind."""

from __future__ import annotations

import shutil
from pathlib import Path

from robustdml_ext.training.errors import RunRefusedError

LAST, BEST, METRICS, RESULT = "last.pt", "best.pt", "metrics.jsonl", "result.json"
BACKBONE, RECIPE, NAN_BATCH, FAILURE = "backbone.pt", "recipe.yaml", "nan_batch.pt", "failure.txt"
CLASSIFIER = "classifier.pt"
MEMBERS = "backbone-*.pt"
ANALYSIS, ANALYSIS_ARRAYS, PAGE = "analysis.json", "analysis.npz", "report.html"
_OURS = (
    LAST, BEST, METRICS, RESULT, BACKBONE, CLASSIFIER, RECIPE, NAN_BATCH, FAILURE, "tensorboard", ANALYSIS,
    ANALYSIS_ARRAYS, PAGE,
)  # fmt: skip


def check_folder(folder: Path, *, resume: bool, overwrite: bool) -> bool:
    """Decide how the run begins, changing nothing.

    Returns:
        Whether it goes on from ``last.pt``.

    Raises:
        RunRefusedError: the folder holds a run and neither ``resume`` nor ``overwrite`` was given, or both.
    """
    if resume and overwrite:
        raise RunRefusedError("--resume goes on with a run and --overwrite discards it; ask for one of them")
    if folder.exists() and not folder.is_dir():
        raise RunRefusedError(f"--out {folder} is a file; it must be a folder")
    if resume:
        return (folder / LAST).exists()
    standing = [name for name in _OURS if (folder / name).exists()]
    if standing and not overwrite:
        raise RunRefusedError(
            f"{folder} already holds a run ({', '.join(standing)}). "
            "Go on with it by --resume, discard it by --overwrite, or name another folder by --out."
        )
    return False


def prepare_folder(folder: Path, *, go_on: bool) -> None:
    """Make the folder; discard what an earlier run left in it, unless this one goes on with it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunRefusedError(f"cannot make the run's folder {folder}: {error.strerror}") from None
    for debris in folder.glob(".*.part"):
        debris.unlink()
    if go_on:
        return
    for name in _OURS:
        path = folder / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    for old in (*folder.glob("step-*.pt"), *folder.glob(MEMBERS)):
        old.unlink()
