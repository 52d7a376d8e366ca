"""Runs every variant of a job in one session, on the same data, and sets it beside what the machine can do.

pytest benches                      on the CPU
pytest benches --device cuda        on the GPU
pytest benches --results DIR        also writes DIR/<device>.json
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import roofline

# glibc gives large blocks back to the system at once, so every large result begins with page faults that take longer
# than the kernel under test. Kept, as a training process keeps its memory too, they cost nobody anything.
if sys.platform == "linux":
    import ctypes

    _libc = ctypes.CDLL(None)
    _libc.mallopt(-4, 0)  # M_MMAP_MAX
    _libc.mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD

_MEASURED: dict[str, dict[str, dict[str, float]]] = {}
_LIMITS: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", choices=["cpu", "cuda"])
    parser.addoption("--results", default=None, help="folder to write <device>.json to")


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> str:
    name = str(request.config.getoption("--device"))
    if name == "cuda" and not torch.cuda.is_available():
        pytest.exit("--device cuda: this PyTorch sees no GPU", returncode=2)
    return name


@pytest.fixture(scope="session")
def limits(device: str) -> dict[str, float]:
    """Copy bandwidth (bytes a second) and GEMM rate (operations a second) of this machine, now."""
    if not _LIMITS:
        _LIMITS["copy_bytes_per_second"] = roofline.copy_bandwidth(device)
        _LIMITS["gemm_float32_per_second"] = roofline.gemm_rate(device)
        if device == "cuda":
            _LIMITS["gemm_bfloat16_per_second"] = roofline.gemm_rate(device, torch.bfloat16)
    return _LIMITS


@pytest.fixture
def measure(
    benchmark: Any, device: str, limits: dict[str, float], request: pytest.FixtureRequest
) -> Callable[..., None]:
    """measure(group, variant, function, bytes=…, operations=…): times `function` as one variant of a group."""

    def run(
        group: str,
        variant: str,
        function: Callable[[], object],
        *,
        bytes: int = 0,
        operations: float = 0,
        rounds: int = 15,
    ) -> None:
        benchmark.group = group

        def job() -> None:
            function()
            roofline.synchronize(device)

        job()  # compile and allocate outside the measurement
        start = time.perf_counter()
        job()
        # Jobs of seconds get fewer rounds.
        some = max(3, min(rounds, int(3 / (time.perf_counter() - start))))
        benchmark.pedantic(job, rounds=some, iterations=1, warmup_rounds=1)
        seconds = benchmark.stats.stats.min
        row = {"min_ms": 1e3 * seconds, "median_ms": 1e3 * benchmark.stats.stats.median}
        if bytes:
            row["share_of_copy_bandwidth"] = bytes / seconds / limits["copy_bytes_per_second"]
        if operations:
            # Of torch.mm in float32, which a product of our own may well exceed.
            row["share_of_gemm_rate"] = operations / seconds / limits["gemm_float32_per_second"]
        benchmark.extra_info.update(row)
        _MEASURED.setdefault(group, {})[variant] = row

    return run


@pytest.fixture
def measure_in_turn(device: str, limits: dict[str, float]) -> Callable[..., None]:
    """measure_in_turn(group, functions by variant): one round of each after the other, so that noise falls on all."""

    def run(group: str, functions: dict[str, Callable[[], object]], *, seconds: float = 6.0, rounds: int = 100) -> None:
        times: dict[str, list[float]] = {variant: [] for variant in functions}
        begin = time.perf_counter()
        for number in range(-2, rounds):  # two rounds to compile and allocate
            for variant, function in functions.items():
                start = time.perf_counter()
                function()
                roofline.synchronize(device)
                if number >= 0:
                    times[variant].append(time.perf_counter() - start)
            if number >= 4 and time.perf_counter() - begin > seconds:
                break
        _MEASURED[group] = {
            variant: {"min_ms": 1e3 * min(found), "median_ms": 1e3 * statistics.median(found)}
            for variant, found in times.items()
        }

    return run


@pytest.fixture
def keep_peak(benchmark: Any) -> Callable[[str, str, float], None]:
    """keep_peak(group, variant, mib): records a peak of memory among the results."""

    def run(group: str, variant: str, mib: float) -> None:
        benchmark.extra_info["peak_mib"] = mib
        _MEASURED.setdefault(group, {})[variant] = {"peak_mib": mib}

    return run


def _environment(device: str) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    facts: dict[str, Any] = {
        "commit": commit.stdout.strip() or "unknown",
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "processor": _processor(),
    }
    if device == "cuda":
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"], capture_output=True, text=True
        )
        facts["gpu"] = torch.cuda.get_device_name()
        facts["driver"] = driver.stdout.strip()
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    if not _MEASURED:
        return
    write = terminalreporter.write_line
    write("")
    write("  ".join(f"{name}: {value:.3g}" for name, value in _LIMITS.items()))
    for group, variants in _MEASURED.items():
        write(f"\n{group}")
        ours = variants.get("ours", {}).get("median_ms")
        for name, row in variants.items():
            if "peak_mib" in row:
                write(f"  {name:<34} {row['peak_mib']:9.0f} MiB")
                continue
            share = row.get("share_of_copy_bandwidth")
            text = f"  {name:<34} {row['median_ms']:9.3f} ms"
            text += f"   {row['median_ms'] / ours:6.2f} x ours" if ours else ""
            text += f"   {100 * share:4.0f} % of copy bandwidth" if share else ""
            rate = row.get("share_of_gemm_rate")
            text += f"   {100 * rate:4.0f} % of torch.mm's rate" if rate else ""
            write(text)
    folder = config.getoption("--results")
    if folder:
        device = str(config.getoption("--device"))
        facts = _environment(device)
        name = facts.get("gpu", facts["processor"]).replace(" ", "-").lower()
        path = Path(str(folder)) / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": facts, "limits": _LIMITS, "measured": _MEASURED}, indent=1) + "\n")
        write(f"\nwritten to {path}")
