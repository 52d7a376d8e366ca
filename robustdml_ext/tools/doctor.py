"""`run doctor`: what is live, and why the rest is not."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Annotated

import tyro

from robustdml_ext.tools.terminal import console
from robustdml_ext.tools.tool import Train


@dataclasses.dataclass(frozen=True)
class Doctor:
    """Versions, kernel libraries, GPU and data sets: what is live, and why the rest is not.

    Example: python -m robustdml_ext.run doctor --root DIR --json
    """

    json: Annotated[bool, tyro.conf.arg(help="Print JSON and nothing else.")] = False
    root: Annotated[str | None, tyro.conf.arg(help="Folder to look for data sets in.")] = None


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Say what is live, as tables or JSON.

    Returns:
        The exit code.
    """
    from robustdml_ext.data import probe
    from robustdml_ext.reporting import doctor_report
    from robustdml_ext.training import describe_environment

    asked = tyro.cli(Doctor, args=list(words), prog=prog)
    facts = {**describe_environment(), "data": [dataclasses.asdict(found) for found in probe(asked.root)]}
    if asked.json:
        print(json.dumps(facts, indent=2, default=str))
    else:
        console().print(doctor_report(facts))
    return 0
