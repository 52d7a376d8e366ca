"""Kernel libraries: which one is taken, what switches them off, and that results stay."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustdml_ext import _load

ROOT = Path(__file__).parent.parent
SCRIPT = """
import json, torch
from robustdml_ext import _load, ops
torch.manual_seed(0)
x, g = torch.rand(4, 3, 9, 9), torch.randn(4, 3, 9, 9)
w, b = torch.ones(2, 3), torch.zeros(2, 3)
print(json.dumps({
    "status": _load.status(),
    "step": ops.pgd_step(x, g, x, epsilon=0.1, step_size=0.05, norm="l2").sum().item(),
    "norm": ops.distribution_norm(x, w, b, None, None, [2, 2], training=True).square().sum().item(),
    "distance": ops.target_distance(x.flatten(1), g.flatten(1), torch.tensor([[0], [1], [2], [3]])).sum().item(),
}))
"""


def run(**environment: str) -> dict:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, **environment}, capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout)  # type: ignore[no-any-return]


def built() -> list[str]:
    return list(_load.build_facts().get("simd_levels", []))


def test_references_take_over_where_kernels_are_switched_off() -> None:
    off, on = run(ROBUSTDML_KERNELS="0"), run(ROBUSTDML_KERNELS="1")
    for library in ("cpu", "cuda"):
        assert off["status"][library]["live"] is False
        assert "ROBUSTDML_KERNELS=0" in off["status"][library]["reason"]
    for figure in ("step", "norm", "distance"):
        assert off[figure] == pytest.approx(on[figure], rel=1e-5)


@pytest.mark.skipif(not built(), reason="pure-Python installation: no libraries to choose from")
def test_every_level_this_processor_runs_can_be_asked_for() -> None:
    best = run()["status"]["cpu"]["simd"]
    levels = built()
    figures = []
    for level in levels[: levels.index(best) + 1]:
        result = run(ROBUSTDML_SIMD=level)
        assert result["status"]["cpu"]["live"] and result["status"]["cpu"]["simd"] == level
        figures.append((result["step"], result["norm"], result["distance"]))
    for other in figures[1:]:
        assert other == pytest.approx(figures[0], rel=1e-5)


def test_an_unknown_level_is_refused() -> None:
    environment = {**os.environ, "ROBUSTDML_SIMD": "sse9"}
    finished = subprocess.run(
        [sys.executable, "-c", "import robustdml_ext.ops"], env=environment, capture_output=True, text=True, cwd=ROOT
    )
    assert finished.returncode != 0 and "expected one of default, avx2, avx512" in finished.stderr


def test_a_missing_or_broken_library_is_a_reason_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_load, "LIBRARY_FOLDER", tmp_path)
    assert "not built" in str(_load._load_cpu().reason)
    monkeypatch.setenv("ROBUSTDML_SIMD", "default")
    (tmp_path / f"librobustdml_cpu_default{_load._SUFFIX}").write_bytes(b"not a library")
    status = _load._load_cpu()
    assert not status.live and "does not load" in str(status.reason)


@pytest.mark.skipif(not built(), reason="pure-Python installation: no facts of a build")
def test_build_facts() -> None:
    facts = _load.build_facts()
    assert facts["torch_abi_target"] == "2.10" and "default" in facts["simd_levels"] and facts["compiler"]
