"""The options of `run enroll`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import tyro

from robustdml_ext.tools.tool import Train


@dataclasses.dataclass(frozen=True)
class Enroll:
    """Add classes to a trained model of prototypes from a few examples, without training; they are saved with it.

    Example: python -m robustdml_ext.run enroll runs/cub200-prototypes-seed0 --examples new_birds

    Each class's prototype is the mean embedding of its examples. Afterwards the similarity head tells the new classes
    from the old ones; the dense output layer knows the old ones alone.
    """

    model: Annotated[
        str, tyro.conf.Positional, tyro.conf.arg(help="Folder of a run of prototypes, or its classifier.pt.")
    ]
    examples: Annotated[str, tyro.conf.arg(help="Folder with a folder of images for each new class, by its name.")]
    out: Annotated[
        str | None, tyro.conf.arg(help="File to write the larger classifier to. None: the model's own is replaced.")
    ] = None
    device: Annotated[str, tyro.conf.arg(help="auto, cpu, cuda, or cuda:N.")] = "auto"
    debug: Annotated[bool, tyro.conf.arg(help="Show the traceback of an error.")] = False


def command(words: Sequence[str], prog: str, train: Train) -> int:
    """Add classes to a classifier's file, see `enroll_command`.

    Returns:
        The exit code.
    """
    asked = tyro.cli(Enroll, args=list(words), prog=prog)
    from robustdml_ext.tools.enroll import enroll_command

    return enroll_command(asked)
