"""What methods, attacks and images are called in tables and figures."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

CLEAN = "clean"
SEEN = "clean, training images"

# The EAT paper's names, and which label vectors a run of each has unless it says otherwise.
DEFENSES = {"pal": "PAL", "at": "AT", "mixup": "Mix-Up", "iat": "IAT", "trades": "TRADES", "ensemble": "", "eat": "EAT"}
_USUAL_LABELS = dict.fromkeys(("at", "mixup", "iat", "ensemble", "eat"), "classes")
_LABEL_WORDS = {"classes": "class labels", "embeddings": "clean embeddings"}


def is_defense(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe is of a method that the EAT paper compares."""
    return recipe["method"] in DEFENSES


def shows_every_recall(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe's paper prints every Recall@k, NMI and F1, as most do."""
    return is_defense(recipe) or recipe["method"] in ("ecaml", "daml", "prototypes", *_LOSS_LABELS)


def is_plain(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe's method trains on clean images alone, by one loss of theirs."""
    return recipe["method"] in ("standard", "pal", "ecaml", "daml", *_LOSS_LABELS)


def has_members(recipe: Mapping[str, Any]) -> bool:
    """Whether the recipe's model is an ensemble."""
    return recipe["method"] in ("ensemble", "eat")


_LOSS_LABELS = {
    "contrastive": "Contrastive", "triplet": "Triplet", "lifted": "Lifted", "npair": "N-Pair", "binomial": "Binomial",
    "angular": "Angular",
}  # fmt: skip


def method_label(recipe: Mapping[str, Any]) -> str:
    """Return a method's short name as the papers print it: ST, AP′, MP″ (1, 5); PAL + AT; ECAML (N-Pair)."""
    parts = [_own_label(recipe)]
    if recipe.get("hard_negatives") and recipe["method"] != "daml":
        parts.append("DAML")
    if recipe.get("energy_confusion") and recipe["method"] != "ecaml":
        parts.append("EC")
    if recipe.get("s2sd"):
        parts.append("S2SD")
    if recipe.get("dropout"):
        parts.append(f"dropout {recipe['dropout']:g}")
    return " + ".join(parts)


def _own_label(recipe: Mapping[str, Any]) -> str:
    method, loss = recipe["method"], str(recipe.get("loss", ""))
    if is_defense(recipe):
        return _defense_label(recipe)
    if method in _LOSS_LABELS:
        return _LOSS_LABELS[method]
    if method in ("ecaml", "daml"):
        return f"{method.upper()} ({_LOSS_LABELS.get(loss, loss)})"
    if method == "prototypes":
        attacked = recipe.get("adversarial", "none")
        alone = "" if recipe.get("auxiliary_weight", 1.0) else ", without L_aux"
        return "prototypes" + alone + ("" if attacked == "none" else f" + AT ({attacked})")
    targets = ", ".join(str(count) for count in recipe["targets"])
    primes = {1: "′", 2: "″", 3: "‴"}.get(len(recipe["targets"]), f"^{len(recipe['targets'])}")
    names = {
        "standard": "ST",
        "adversarial": "AT" if targets == "1" else f"AT ({targets})",
        "advprop": "AP′",
        "mdprop": f"MP{primes} ({targets})",
    }
    return names.get(recipe["method"], str(recipe["method"]))


def _defense_label(recipe: Mapping[str, Any]) -> str:
    method, proxy_anchor = recipe["method"], recipe["loss"] == "proxyanchor"
    if method == "pal":
        return "PAL" if proxy_anchor else f"baseline ({recipe['loss']})"
    split = recipe.get("split", True)
    label = f"PAL + {DEFENSES[method]}" if proxy_anchor else DEFENSES[method]
    if method == "ensemble":
        label = "naive ensemble"
    elif method == "eat" and not split:
        label = "EAT without split"
    usual = _USUAL_LABELS.get(method)
    plain = method == "ensemble" and recipe.get("member_method") == "pal"
    remarks = {
        f"of {recipe.get('members')}": has_members(recipe) and recipe.get("members", 3) != 3,
        "members trained plainly": plain,
        _LABEL_WORDS.get(recipe.get("label_vectors", ""), ""): not plain
        and usual is not None
        and recipe.get("label_vectors", usual) != usual,
        "no self-transfer": method == "eat" and not recipe.get("self_transfer", True),
        f"inference by {recipe.get('inference')}": has_members(recipe) and recipe.get("inference", "vote") != "vote",
    }
    said = ", ".join(text for text, differs in remarks.items() if differs)
    return f"{label} ({said})" if said else label


def entry_label(entry: Mapping[str, Any]) -> str:
    """Return what the images of an entry were."""
    corruption = entry.get("corruption")
    if corruption is not None:
        severity = corruption["severity"]
        return f"corrupted: {corruption['name']}" + ("" if severity is None else f", severity {severity}")
    return inputs_label(entry["threat"])


def pixels_label(value: float) -> str:
    """Return a number of pixels in [0, 1]: as a fraction, 8/255, where that is shorter."""
    digits, levels = f"{value:.4g}", round(value * 255)
    fraction = f"{levels}/255"
    return fraction if len(fraction) < len(digits) and math.isclose(value * 255, levels, rel_tol=1e-6) else digits


def inputs_label(threat: Mapping[str, Any] | None) -> str:
    """Return what the images were: clean, or the attack with its steps, targets and ε."""
    if threat is None:
        return CLEAN
    name, epsilon = threat["name"], f"ε = {pixels_label(threat['epsilon'])}"
    l2 = ", l2" if threat.get("norm", "linf") == "l2" else ""
    if name == "worst":
        count = len(threat["attacks"])
        return f"worst of {count} attack{'s' if count > 1 else ''}, {epsilon}{l2}"
    return f"{attack_label(threat)}, {epsilon}{l2}{_beyond(threat)}"


# Attacks on a classifier, and what they are called after how they are run.
_CLASS_ATTACKS = {
    "fgsm": "", "pgd": "", "pgd-probabilities": ", probabilities for logits",
    "fgsm-probabilities": ", probabilities for logits", "apgd": "",
    "apgd-margin": " on the margin", "square-margin": "",
}  # fmt: skip


def attack_label(threat: Mapping[str, Any]) -> str:
    """Return an attack's name with its algorithm and targets: STAX PGD-20, PGD-10 away from clean."""
    name, algorithm = threat["name"], algorithm_label(threat)
    if name == "away":
        return f"{algorithm} away from clean"
    if name in _CLASS_ATTACKS:
        return algorithm + _CLASS_ATTACKS[name]
    targets = f", T = {threat['targets']}" if name == "mtax" else ""
    shown = name.upper() if name in ("stax", "mtax") else name
    return f"{'' if name == 'square' else f'{shown} '}{algorithm}{targets}"


def algorithm_label(threat: Mapping[str, Any]) -> str:
    """Return how an attack was run: PGD-20, or a search of so many queries."""
    kind = threat.get("algorithm", "pgd")
    if kind == "square":
        return f"square, {threat.get('queries', threat['steps'])} queries"
    if kind == "fgsm":
        return "FGSM"
    return f"{'PGD' if kind == 'pgd' else 'APGD'}-{threat['steps']}"


def is_attack(words: str, threat: Mapping[str, Any] | None) -> bool:
    """Whether a threat is the one that a paper describes by its algorithm, ε, and, where it has one, MDProp's name.

    Args:
        words: as recipes have them: "white-box PGD-20 towards one target (STAX), epsilon 0.01 in the l-infinity norm".
        threat: ours; None of clean images.
    """
    if threat is None or threat["name"] == "worst" or threat.get("epsilon") is None:
        return False
    named = [name for name in ("STAX", "MTAX") if name in words]
    said = words.replace(",", " ").split()
    return (
        algorithm_label(threat) in said
        and bool({pixels_label(threat["epsilon"]), f"{threat['epsilon']:g}"} & set(said))
        and (threat["name"].upper() in named if named else threat["name"] not in ("stax", "mtax"))
    )


def _beyond(threat: Mapping[str, Any]) -> str:
    """Say in what an attack differs from the usual one, so that figures under both never share a row."""
    pgd = threat.get("algorithm", "pgd") == "pgd"
    of_class = threat["name"] in _CLASS_ATTACKS
    share = 1 / threat["steps"]
    usual_step = threat["epsilon"] * (max(1 / 30, 2.5 * share) if of_class else share)
    # Away from the clean embedding needs a start, whose usual radius is a tenth of ε.
    usual_start = threat["epsilon"] * (1.0 if of_class else 0.1 if threat["name"] == "away" else 0.0)
    step, start = threat.get("step_size") or usual_step, threat.get("random_start", usual_start)
    parts = {
        f"step {pixels_label(step)}": pgd and not math.isclose(step, usual_step),
        f"start {pixels_label(start)}": pgd and not math.isclose(start, usual_start),
        f"momentum {threat.get('momentum')}": threat.get("momentum", 0) > 0,
        f"{threat.get('restarts')} restarts": threat.get("restarts", 1) > 1,
        f"{threat.get('turns')} turns": threat.get("turns", 1) not in (1, 4),
        f"k = {threat.get('k')}": threat.get("k", 1) > 1,
        "best iterate": pgd and threat.get("keep_best", False),
        f"through {threat.get('route')}": threat.get("route", "whole") not in ("whole", "every"),
        "bfloat16": threat.get("precision", "float32") == "bfloat16",
    }
    return "".join(f", {text}" for text, differs in parts.items() if differs)
