"""Made-up results of the EAT paper's methods: a run with two ε, a sweep of steps, and members judged alone."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from robustdml_ext.recipes import resolve

EPSILONS = (8 / 255, 16 / 255)
STEPS = (1, 5, 20)
_ROBUST = {"pal": 1.0, "at": 0.5, "mixup": 0.95, "iat": 0.7, "trades": 0.8, "ensemble": 0.45, "eat": 0.3}


def away(epsilon: float, steps: int = 10, **changes: Any) -> dict[str, Any]:
    """A threat away from the clean embedding, as a result records it."""
    threat = {"name": "away", "algorithm": "pgd", "epsilon": epsilon, "steps": steps, "step_size": epsilon / steps}
    return {**threat, "random_start": 0.1 * epsilon, "norm": "linf", "targets": 1, "route": "whole", **changes}


def _metrics(recall: float) -> dict[str, float]:
    recalls = {f"recall@{k}": min(1.0, recall * (1 + 0.1 * n)) for n, k in enumerate((1, 2, 4, 8))}
    return {**recalls, "nmi": 0.3 + recall / 2, "f1": recall / 3, "pi_ratio": 1 - recall / 2}


def entries(strength: float, shift: float = 0.0) -> list[dict[str, Any]]:
    """Entries that fall with ε and with steps, by `strength`; all lower by `shift`."""
    threats = [None, *(away(epsilon) for epsilon in EPSILONS), *(away(EPSILONS[0], steps) for steps in STEPS)]
    found = []
    for threat in threats:
        harm = 0.0 if threat is None else strength * (8 * threat["epsilon"]) * (1 - 0.5 / threat["steps"])
        metrics = _metrics(0.55 - shift - 0.5 * min(1.0, harm))
        found.append({"threat": threat, "metrics": metrics, "routes": {} if threat is None else {"whole": metrics}})
    return found


def made_up(method: str, seed: int = 0, members: int = 0, **fields: Any) -> dict[str, Any]:
    """A result of a method on digits; with `members`, each judged alone."""
    recipe = resolve(method, {"seed": seed, **fields}).model_dump(mode="json")
    result: dict[str, Any] = {"recipe": recipe, "results": entries(_ROBUST[method], 0.01 * seed)}
    if members:
        result["members"] = [entries(_ROBUST[method], 0.01 * seed + 0.03 * (1 + n)) for n in range(members)]
    return result


def shown(table: Table, width: int = 120) -> list[str]:
    """The lines of a table on a screen so wide."""
    out = io.StringIO()
    Console(file=out, width=width).print(table)
    return out.getvalue().splitlines()
