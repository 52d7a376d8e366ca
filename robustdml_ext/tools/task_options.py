"""Which options of `run evaluate` each task reads, and that no other ones are given."""

from __future__ import annotations

import dataclasses

from robustdml_ext.tools.evaluate_options import Evaluate, JudgmentOptions, TaskOptions
from robustdml_ext.training import RunRefusedError

_SCORED = ("retrieval", "verification", "few-shot")
READ_BY: dict[str, tuple[str, ...]] = {
    "scorers": _SCORED,
    **dict.fromkeys(("heads", "step_size"), ("classification",)),
    "attacks": ("suite", "classification"),
    **dict.fromkeys(("ways", "shots", "queries", "episodes"), ("few-shot",)),
    **dict.fromkeys(("trials", "symmetric"), ("verification",)),
    **dict.fromkeys(("corruptions", "metrics", "surrogate"), ("suite",)),
}
"""Options that only some tasks read."""


def check_options(asked: Evaluate) -> None:
    """Check that every option that was given is read by one of the tasks.

    An option that is given its default value changes nothing, and passes; so do attacks none.

    Raises:
        RunRefusedError: an option that only other tasks read.
    """
    defaults = {**dataclasses.asdict(JudgmentOptions()), **dataclasses.asdict(TaskOptions()), "surrogate": None}
    given = {part: getattr(asked, part) for part in ("judgment", "tasks", "subject")}
    for name, tasks in READ_BY.items():
        value = next(getattr(part, name) for part in given.values() if hasattr(part, name))
        if value == defaults[name] or (name, value) == ("attacks", ("none",)) or set(tasks) & set(asked.tasks.task):
            continue
        raise RunRefusedError(
            f"--{name.replace('_', '-')} is read by --task {' or '.join(tasks)} alone; got --task "
            f"{' '.join(asked.tasks.task)}"
        )
