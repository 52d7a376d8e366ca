"""The benchmark pages, from benches/results/*.json: what was measured where, and how it stands to the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from repository import ROOT
from tables import plain, table

RESULTS = ROOT / "benches" / "results"
_OURS = ("ours", "ECAML", "DAML")
# What does the same work without this package's kernel; every other variant is named for what it is.
_REFERENCE = {
    "reference", "plain", "pairwise", "split", "gathered", "chunk-norm-concatenate", "separate passes",
    "one member at a time",
}  # fmt: skip


def benchmark_pages() -> str:
    """Markdown of every result file."""
    files = sorted(RESULTS.glob("*.json"))
    contents = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    on_cuda = [content for content in contents if _on_cuda(content)]
    parts = [
        f"{len(on_cuda)} of these {len(files)} files were measured on a GPU."
        if on_cuda
        else "**No result of a GPU exists.** Every figure here was measured on a CPU; what the CUDA kernels cost on a "
        "GPU is not known."
    ]
    parts += [_page(file, content) for file, content in zip(files, contents, strict=True)]
    return "\n\n".join(parts)


def _on_cuda(content: dict[str, Any]) -> bool:
    return "gemm_bfloat16_per_second" in json.dumps(content["limits"]) or "gpu" in content["environment"]


def _page(file: Path, content: dict[str, Any]) -> str:
    facts = content["environment"]
    said = ", ".join(f"{plain(key)} {plain(value)}" for key, value in facts.items())
    parts = [f"## {plain(file.stem)}", f"{said}.", _limits(content["limits"])]
    if "note" in content:
        parts.append(plain(content["note"]).capitalize() + ".")
    groups: dict[str, list[str]] = {}
    for job in content["measured"]:
        groups.setdefault(re.split(r"[ ,(]", job)[0], []).append(job)
    for name, jobs in groups.items():
        rows = [_row(job, content["measured"][job]) for job in jobs]
        header = ["job", "ours", "reference", "compiled", "others", "of copy bandwidth", "of GEMM rate"]
        kept = [k for k in range(len(header)) if k < 2 or any(row[k] for row in rows)]
        body = table([header[k] for k in kept], [[row[k] for k in kept] for row in rows], "lr")
        parts.append(f"### {plain(name)}\n\n{body}")
    return "\n\n".join(parts)


def _limits(limits: dict[str, Any], of: str = "") -> str:
    if any(isinstance(value, dict) for value in limits.values()):
        return "\n\n".join(_limits(value, f" ({name})") for name, value in limits.items())
    rates = [f"copy {limits['copy_bytes_per_second'] / 1e9:.1f} GB/s"]
    rates += [
        f"{key.removeprefix('gemm_').removesuffix('_per_second')} GEMM {value / 1e9:,.0f} Gflop/s"
        for key, value in limits.items()
        if key.startswith("gemm_")
    ]
    return f"The machine in that session{of}: {', '.join(rates)}."


def _row(job: str, variants: dict[str, dict[str, float]]) -> list[str]:
    """Ours in milliseconds (median) or MiB, the others as how many times ours they take."""
    ours = next((name for name in _OURS if name in variants), next(iter(variants)))
    mine = variants[ours]
    unit = "median_ms" if "median_ms" in mine else "peak_mib"
    columns: dict[str, list[str]] = {"reference": [], "compiled": [], "others": []}
    for name, figures in variants.items():
        if name == ours or unit not in figures:
            continue
        kind = "compiled" if name.startswith("compiled") else "reference" if name in _REFERENCE else "others"
        columns[kind].append(f"{plain(name)} {figures[unit] / mine[unit]:.3g}×")
    shown = _time(mine[unit]) if unit == "median_ms" else f"{mine[unit]:,.0f} MiB"
    shares = [f"{mine[key]:.0%}" if key in mine else "" for key in ("share_of_copy_bandwidth", "share_of_gemm_rate")]
    return [plain(job), shown, *("<br>".join(column) for column in columns.values()), *shares]


def _time(milliseconds: float) -> str:
    return f"{milliseconds / 1e3:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"
