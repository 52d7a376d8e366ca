"""Attacks on embeddings: objectives, targets, and projected gradient descent."""

from robustdml_ext.attacks.objectives import AwayFromClean, FromStart, Joined, Objective, TowardsTargets
from robustdml_ext.attacks.pgd import BIM, FGSM, PGD
from robustdml_ext.attacks.targets import sample_targets
from robustdml_ext.attacks.victim import under_attack

__all__ = [
    "BIM",
    "FGSM",
    "PGD",
    "AwayFromClean",
    "FromStart",
    "Joined",
    "Objective",
    "TowardsTargets",
    "sample_targets",
    "under_attack",
]
