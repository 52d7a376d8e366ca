"""Finds and loads the kernel libraries, and keeps the reason where one is missing.

The libraries only *add* CPU and CUDA kernels to operators that `robustdml_ext.ops` defines with a plain PyTorch
reference. A missing library therefore changes speed, never results: the dispatcher falls back to the reference.

Environment:
    ROBUSTDML_KERNELS=0   load nothing; every operator runs its reference
    ROBUSTDML_SIMD        `default`, `avx2` or `avx512`: take that CPU library instead of the best one
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

LIBRARY_FOLDER = Path(__file__).parent / "lib"
_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"
# From the slowest to the fastest; a processor that runs one of them runs all before it.
_SIMD_LEVELS = ("default", "avx2", "avx512")

# Operators are defined in this namespace (ops/*.py); the libraries add kernels to it.
NAMESPACE = "robustdml"
LIBRARY = torch.library.Library(NAMESPACE, "DEF")


@dataclass
class LibraryStatus:
    """What became of one kernel library: live from `path`, or not, for `reason`."""

    live: bool = False
    path: str | None = None
    reason: str | None = None
    simd: str | None = None
    archs: list[str] = field(default_factory=list)


def build_facts() -> dict[str, Any]:
    """Facts of the build (compiler, SIMD levels, CUDA architectures, ABI target); empty where nothing was built."""
    try:
        module = importlib.import_module("robustdml_ext.lib._build_facts")
    except ImportError:
        return {}
    return dict(module.facts())


def _simd_levels() -> list[str]:
    """SIMD levels to try, best first: what the processor can do, or what ROBUSTDML_SIMD asks for."""
    asked = os.environ.get("ROBUSTDML_SIMD", "").lower()
    if asked:
        if asked not in _SIMD_LEVELS:
            raise ValueError(f"ROBUSTDML_SIMD={asked!r}: expected one of {', '.join(_SIMD_LEVELS)}")
        return [asked]
    # PyTorch's own detection: a level it runs its kernels at is a level ours can use too.
    capability = torch.backends.cpu.get_cpu_capability().lower()
    best = max((i for i, level in enumerate(_SIMD_LEVELS) if capability.startswith(level)), default=0)
    return list(reversed(_SIMD_LEVELS[: best + 1]))


def _try_load(path: Path) -> str | None:
    """Loads one library; returns the reason where that fails."""
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} does not load: {error}"
    return None


def _load_cpu() -> LibraryStatus:
    levels = _simd_levels()  # first, so that a wrong level is refused where nothing was built as well
    if not LIBRARY_FOLDER.is_dir():
        return LibraryStatus(reason=f"not built: {LIBRARY_FOLDER} does not exist; `pip install .` builds it")
    reason = "not built"
    for level in levels:
        path = LIBRARY_FOLDER / f"librobustdml_cpu_{level}{_SUFFIX}"
        if not path.exists():
            reason = f"not built: {path.name} is not in {LIBRARY_FOLDER}"
            continue
        failure = _try_load(path)
        if failure is None:
            return LibraryStatus(live=True, path=str(path), simd=level)
        reason = failure
    return LibraryStatus(reason=reason)


def _load_cuda() -> LibraryStatus:
    path = LIBRARY_FOLDER / f"librobustdml_cuda{_SUFFIX}"
    archs = list(build_facts().get("cuda_archs", []))
    if not path.exists():
        return LibraryStatus(reason="not built: no nvcc was found when the package was installed")
    if torch.version.cuda is None:
        return LibraryStatus(path=str(path), archs=archs, reason="built, but this PyTorch has no CUDA")
    failure = _old_driver() or _try_load(path)
    if failure is not None:
        return LibraryStatus(path=str(path), archs=archs, reason=failure)
    return LibraryStatus(live=True, path=str(path), archs=archs)


def _old_driver() -> str | None:
    """Why this machine's NVIDIA driver cannot run what nvcc built: kernels would fail, not fall back."""
    built = re.search(r"\d+", str(build_facts().get("cuda_compiler", "")))
    version = ctypes.c_int(0)
    try:
        # Asks the driver alone, which makes no context.
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None  # no driver, no GPU: nothing will be launched
    supported = version.value // 1000
    if built is None or supported == 0 or supported >= int(built.group()):
        return None
    return f"built by CUDA {built.group()}, but the driver supports up to CUDA {supported}; update it, or rebuild"


def _load_all() -> dict[str, LibraryStatus]:
    if os.environ.get("ROBUSTDML_KERNELS") == "0":
        reason = "switched off by ROBUSTDML_KERNELS=0"
        return {"cpu": LibraryStatus(reason=reason), "cuda": LibraryStatus(reason=reason)}
    return {"cpu": _load_cpu(), "cuda": _load_cuda()}


_STATUS = _load_all()


def status() -> dict[str, dict[str, Any]]:
    """State of the `cpu` and `cuda` kernel libraries: `live`, `path`, `reason`, `simd`, `archs`."""
    return {name: asdict(library) for name, library in _STATUS.items()}
