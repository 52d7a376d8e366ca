"""What a suite of attacks consists of, and the record by which two reports can be compared."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from robustdml_ext.evaluation.figures import Wanted
from robustdml_ext.evaluation.score import fingerprint
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.threats import ATTACKS, DISTILLED, ThreatModel, check_names, standard_threat

SUITE = "robustdml-suite-2"


def radii_of(norms: Sequence[str], linf: Sequence[float], l2: Sequence[float]) -> dict[str, list[float]]:
    """Norm → its radii, in order.

    Raises:
        ValueError: another norm, or radii that are not above 0.
    """
    found: dict[str, list[float]] = {}
    for norm in norms:
        if norm not in ("linf", "l2"):
            raise ValueError(f"norms: expected 'linf' or 'l2', got {norm!r}")
        radii = sorted({float(epsilon) for epsilon in (linf if norm == "linf" else l2)})
        if not radii or radii[0] <= 0 or not math.isfinite(radii[-1]):
            name = "epsilons" if norm == "linf" else "l2_epsilons"
            raise ValueError(f"{name}: expected at least one finite number, all above 0, got {list(radii)}")
        found[norm] = radii
    return found


def threats_of(
    attacks: Sequence[str],
    radii: Mapping[str, Sequence[float]],
    steps: int,
    changes: Mapping[str, object],
    surrogate: nn.Module | None,
) -> list[ThreatModel]:
    """Each attack at each ε of each norm, but "square" in l2, which has no such form.

    Args:
        attacks: names of `ATTACKS`.
        radii: norm → radii.
        steps: of gradient attacks.
        changes: other fields; "targets" are those of "mtax" alone, "queries" of "square", and "k" of what has a depth.
        surrogate: of "transfer"; None for one that is taught.

    Raises:
        ValueError: as `ThreatModel`.
    """
    check_names(attacks)
    found = []
    for norm, epsilons in radii.items():
        for name in attacks:
            if name == "square" and norm == "l2":
                continue
            only = {"targets": {"mtax"}, "queries": {"square"}, "k": {"out", "square", "transfer"}}
            fields = {key: value for key, value in changes.items() if name in only.get(key, ATTACKS)}
            if name == "transfer":
                fields["surrogate"] = DISTILLED if surrogate is None else named(surrogate)
            found += [standard_threat(name, epsilon, steps=steps, norm=norm, **fields) for epsilon in epsilons]
    return found


def named(model: nn.Module) -> str:
    """A model's class and a digest of its weights: enough to tell whether two are the same."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            digest.update(name.encode())
            digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{type(model).__name__} {digest.hexdigest()[:16]}"


def varied(threat: ThreatModel, epsilon: float, steps: int) -> ThreatModel:
    """The threat at another ε and number of steps: what was a share of ε or of ε / steps stays that share."""
    fields = {name: getattr(threat, name) for name in threat.__dataclass_fields__}
    if threat.step_size is not None and math.isclose(threat.step_size, threat.epsilon / threat.steps):
        fields["step_size"] = None
    if threat.epsilon:
        fields["random_start"] = threat.random_start * epsilon / threat.epsilon
    return ThreatModel(**{**fields, "epsilon": epsilon, "steps": steps})


def protocol_of(
    subject: Subject,
    threats: Sequence[ThreatModel],
    radii: Mapping[str, Sequence[float]],
    seed: int,
    wanted: Wanted,
) -> dict[str, Any]:
    """All that a score depends on, but for the model.

    And "inference" where the model's is a vote: how it answers is a part of the model, like its weights, so that it has
    no part in the fingerprint, and an ensemble that votes compares with a single model.
    """
    first = {}
    for threat in threats:
        fields = {name: getattr(threat, name) for name in threat.__dataclass_fields__}
        for share in ("epsilon", "step_size", "random_start"):
            if fields[share] is not None:
                fields[share] = f"{fields[share]:.9g}"
        first[f"{threat.name} {threat.norm} {threat.epsilon:.9g}"] = fields
    labels = hashlib.sha256()
    for classes in (subject.labels, subject.gallery_labels):
        labels.update(classes.numpy().tobytes())
    content: dict[str, Any] = {
        "suite": SUITE,
        "attacks": list(dict.fromkeys(threat.name for threat in threats)),
        "epsilons": {norm: list(values) for norm, values in radii.items()},
        "steps": sorted({threat.steps for threat in threats}),
        "seed": seed,
        "threats": fingerprint(first),
        "surrogate": next((threat.surrogate for threat in threats if threat.name == "transfer"), None),
        "images": len(subject.labels),
        "gallery": len(subject.gallery_labels) if subject.separate else None,
        "labels": labels.hexdigest()[:16],
        **subject.images_read,
        "recall_at": list(wanted.recall_at),
    }
    voting = {} if subject.voters is None else {"inference": f"vote of {len(subject.voters)}"}
    return content | {"fingerprint": fingerprint(content)} | voting
