"""Options of the defenses that the EAT paper (Ke, Towards Adversarially Robust Deep Metric Learning) compares."""

from __future__ import annotations

from typing import Literal

from robustdml_ext.recipes.option_group import OptionGroup, option
from robustdml_ext.recipes.prototype_options import PROTOTYPE_READ_BY


class DefenseOptions(OptionGroup):
    """The defenses compared in the paper of Ensemble Adversarial Training; each reads those that it has."""

    label_vectors: Literal["classes", "embeddings"] = option(
        "classes",
        "at, mixup, iat, ensemble, eat: what the loss compares a perturbed or mixed image with: classes, their labels, "
        "as lines 6 and 8 of Algorithm 1 do; or embeddings, the clean ones that the paper puts in place of y in "
        "equations 4, 6 and 7, which makes the training hard to converge where classes are many.",
    )
    beta: float = option(
        0.5,
        "at, mixup, iat, ensemble, eat: β of Algorithm 1, weight of the loss of clean images; that of adversarial or "
        "mixed ones has 1 - β.",
        ge=0,
        le=1,
    )
    mixup_alpha: float = option(1.0, "mixup, iat: α of Beta(α, α), which λ of equations 6 and 7 is drawn from.", gt=0)
    trades_lambda: float = option(6.0, "trades: λ of equation 8, weight of the second term.", ge=0)
    members: int = option(3, "ensemble, eat: N, how many networks there are.", ge=1)
    split: bool = option(True, "eat: each member trains on all parts of the data but its own.")
    self_transfer: bool = option(
        True,
        "eat: adversarial images are made against the sum of all members' gradients (equation 10); off: each member's "
        "against itself.",
    )
    member_method: Literal["at", "pal"] = option("at", "ensemble: how each member is trained.")
    inference: Literal["vote", "average", "concatenate"] = option(
        "vote",
        "ensemble, eat: how members answer as one: by vote, by the average of their unit embeddings, or by these side "
        "by side.",
        neutral=True,
    )
    attack_objective: Literal["away", "loss"] = option(
        "away",
        "at, iat, trades, ensemble, eat: what the training attack climbs: away, the distance from the clean embedding "
        "(equations 5 and 10); or loss, the metric loss (equation 3).",
    )


_MEMBERS = ("ensemble", "eat")
_UNTARGETED = ("at", "iat", "trades", *_MEMBERS)
ATTACKING = ("adversarial", "advprop", "mdprop", "prototypes", *_UNTARGETED)

READ_BY: dict[str, tuple[str, ...]] = {
    "label_vectors": ("at", "mixup", "iat", *_MEMBERS),
    "beta": ("at", "mixup", "iat", *_MEMBERS),
    "mixup_alpha": ("mixup", "iat"),
    "trades_lambda": ("trades",),
    **dict.fromkeys(("members", "inference", "judge_members"), _MEMBERS),
    **dict.fromkeys(("split", "self_transfer"), ("eat",)),
    "member_method": ("ensemble",),
    "attack_objective": _UNTARGETED,
    **dict.fromkeys(("epsilon", "attack_steps", "attack_step_size", "random_start"), ATTACKING),
    "targets_from": ("adversarial", "advprop", "mdprop"),
    **PROTOTYPE_READ_BY,
}
"""Options that only some methods read; all others every method does, or refuses."""
