"""Markdown tables of what the package itself lists: attacks, checks, corruptions, methods, data sets."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def plain(text: object) -> str:
    """Text as Markdown that shows it as it is; what stands in backticks stays code."""
    parts = str(text).split("`")
    escaped = [part if k % 2 else re.sub(r"([\\*_<>\[\]#~$])", r"\\\1", part) for k, part in enumerate(parts)]
    return "`".join(escaped).replace("\n", " ").replace("|", r"\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]], align: str = "") -> str:
    """A Markdown table of cells that are Markdown already; `align` has l or r for each column."""
    marks = ["--:" if letter == "r" else "---" for letter in align.ljust(len(header), "l")]
    lines = [header, marks, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def attacks() -> str:
    """The attacks on embeddings."""
    from robustdml_ext.evaluation import ATTACKS

    return table(
        ["attack", "perturbs", "algorithm", "targets", "start", "turns", "in words"],
        [
            [f"`{name}`", attack.attacked, attack.algorithm, str(attack.targets),
             f"{attack.random_start:g} ε" if attack.random_start else "the image", str(attack.turns),
             plain(attack.summary)]
            for name, attack in ATTACKS.items()
        ],
    )  # fmt: skip


def class_attacks() -> str:
    """The attacks on classifiers."""
    from robustdml_ext.evaluation import CLASS_ATTACKS

    return table(
        ["attack", "algorithm", "climbs", "start", "in words"],
        [
            [f"`{name}`", attack.algorithm, attack.objective,
             "in the ball" if attack.random_start else "the image", plain(attack.summary)]
            for name, attack in CLASS_ATTACKS.items()
        ],
    )  # fmt: skip


def checks() -> str:
    """The checks of masked gradients."""
    from robustdml_ext.evaluation import CHECKS

    return table(["check", "passes where"], [[plain(name), plain(text)] for name, text in CHECKS.items()])


def corruptions() -> str:
    """The common corruptions."""
    from robustdml_ext.evaluation import CORRUPTIONS

    return table(
        ["corruption", "in words", "severities 1 to 5"],
        [
            [f"`{name}`", plain(kind.summary), plain(", ".join(map(str, kind.severities)))]
            for name, kind in CORRUPTIONS.items()
        ],
    )


def methods() -> str:
    """The methods of the command line."""
    from robustdml_ext.recipes import METHODS

    return table(["`run …`", "what it is"], [[f"`{name}`", plain(text)] for name, text in METHODS.items()])


def data_sets() -> str:
    """The data sets of the command line."""
    from robustdml_ext.data import NAMES

    return table(["`--dataset`", "what it is"], [[f"`{name}`", plain(text)] for name, text in NAMES.items()])
