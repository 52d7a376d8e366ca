"""What a run stood on: versions, device, kernels, threads, commit. Every result and `doctor` show it."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from robustdml_ext import _load

_PACKAGES = (
    "robustdml_ext",
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "pydantic",
    "tyro",
    "matplotlib",
)


def describe_environment() -> dict[str, Any]:
    """Return plain facts, ready for JSON: python, versions, machine, gpu, kernels, build, threads, commit."""
    return {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "machine": {
            "system": platform.platform(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
        },
        "gpu": _gpus(),
        "kernels": _load.status(),
        "build": _load.build_facts(),
        "threads": torch.get_num_threads(),
        "commit": _commit(),
    }


def _version(package: str) -> str | None:
    if package == "robustdml_ext":
        from robustdml_ext import __version__

        return __version__
    if package == "torch":
        return str(torch.__version__)
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> dict[str, Any]:
    if not torch.cuda.is_available():
        reason = "this PyTorch is built without CUDA" if torch.version.cuda is None else "no GPU, or no driver for it"
        return {"available": False, "reason": reason, "devices": []}
    devices = []
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        devices.append(
            {
                "name": facts.name,
                "memory_gib": round(facts.total_memory / 2**30, 1),
                "capability": f"{facts.major}.{facts.minor}",
            }
        )
    return {"available": True, "cuda": torch.version.cuda, "devices": devices}


def _commit() -> str | None:
    """Return the commit of the checkout that this package runs from, with ``+changes`` where it has any."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    try:
        commit = _git(checkout, "rev-parse", "HEAD")
        return commit + ("+changes" if _git(checkout, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(checkout: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(checkout), *arguments], capture_output=True, text=True, check=True, timeout=10
    )
    return done.stdout.strip()
