"""Words and tables for the screen: the doctor's findings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table


def doctor_report(facts: Mapping[str, Any]) -> Group:
    """Return the doctor's findings as tables: versions, kernel libraries, GPU, data sets.

    Args:
        facts: what ``doctor --json`` prints.
    """
    versions = Table("package", "version", title="Versions", title_justify="left")
    versions.add_row("python", facts["python"])
    for name, version in facts["versions"].items():
        versions.add_row(name, version or "[red]not installed[/red]")
    return Group(versions, _kernels(facts["kernels"], facts["build"]), _gpu(facts), _data(facts["data"]))


def _state(live: bool) -> str:
    return "[green]yes[/green]" if live else "[yellow]no[/yellow]"


def _kernels(kernels: Mapping[str, Any], build: Mapping[str, Any]) -> Table:
    table = Table("kernels", "live", "detail", title="Kernel libraries", title_justify="left")
    for name, status in kernels.items():
        if status["live"]:
            extra = f"SIMD {status['simd']}" if status.get("simd") else ", ".join(status.get("archs") or [])
            detail = f"{status['path']}" + (f" ({extra})" if extra else "")
        else:
            detail = f"{status['reason']}; the plain PyTorch references run"
        table.add_row(name, _state(status["live"]), escape(detail))
    if build:
        table.add_row("build", "", escape(", ".join(f"{name} {value}" for name, value in build.items() if value)))
    return table


def _gpu(facts: Mapping[str, Any]) -> Table:
    table = Table("device", "available", "detail", title="Devices", title_justify="left")
    machine = facts["machine"]
    table.add_row(
        "cpu",
        _state(True),
        f"{machine['architecture']}, {machine['cores']} cores, {facts['threads']} threads",
    )
    if not facts["gpu"]["available"]:
        table.add_row("cuda", _state(False), facts["gpu"]["reason"])
    for number, device in enumerate(facts["gpu"]["devices"]):
        detail = f"{device['name']}, {device['memory_gib']} GiB, compute capability {device['capability']}"
        table.add_row(f"cuda:{number}", _state(True), detail)
    return table


def _data(found: list[Mapping[str, Any]]) -> Table:
    table = Table("data set", "found", "detail", title="Data sets", title_justify="left")
    for entry in found:
        table.add_row(entry["name"], _state(entry["found"]), escape(entry["detail"]))
    return table
