"""Command lines as tests run them, in this process and in others, and what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from robustdml_ext import run

QUICK = ("--epochs", "1", "--eval-steps", "1", "--attack-epsilons", "0.1", "--threads", "1")


def environment_with(**changes: str) -> dict[str, str]:
    paths = [str(Path(run.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1", **changes}


def run_apart(*words: str, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "robustdml_ext.run", *words]
    changed = environment_with(**environment)
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=changed, timeout=240)


def said(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return captured.err


def class_folders(root: Path, names: str) -> Path:
    random = np.random.default_rng(0)
    for name in names:
        (root / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (12, 12), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root
