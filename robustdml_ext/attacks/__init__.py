"""Attacks on embeddings: objectives, gradient and gradient-free searches, and the ways into a model."""

from robustdml_ext.attacks.adaptive import AdaptivePGD
from robustdml_ext.attacks.class_objectives import (
    CLASS_OBJECTIVES,
    ClassObjective,
    CrossEntropyAscent,
    MarginAscent,
    ProbabilityAscent,
    margins,
)
from robustdml_ext.attacks.gradient import gradient_flows
from robustdml_ext.attacks.joint import JointAttack, SideBySide, Summed
from robustdml_ext.attacks.loss_objective import MetricLossAscent
from robustdml_ext.attacks.objectives import AwayFromClean, FromStart, Joined, Objective, TowardsTargets
from robustdml_ext.attacks.pgd import BIM, FGSM, PGD
from robustdml_ext.attacks.rank_objectives import CandidateRank, OutOfTopK, RankAmong
from robustdml_ext.attacks.ranking import normalized_rank
from robustdml_ext.attacks.routes import ThroughRoutes, routes
from robustdml_ext.attacks.square import SquareAttack
from robustdml_ext.attacks.streams import in_streams
from robustdml_ext.attacks.targets import sample_targets
from robustdml_ext.attacks.victim import under_attack

__all__ = [
    "BIM",
    "CLASS_OBJECTIVES",
    "FGSM",
    "PGD",
    "AdaptivePGD",
    "AwayFromClean",
    "CandidateRank",
    "ClassObjective",
    "CrossEntropyAscent",
    "FromStart",
    "Joined",
    "JointAttack",
    "MarginAscent",
    "MetricLossAscent",
    "Objective",
    "OutOfTopK",
    "ProbabilityAscent",
    "RankAmong",
    "SideBySide",
    "SquareAttack",
    "Summed",
    "ThroughRoutes",
    "TowardsTargets",
    "gradient_flows",
    "in_streams",
    "margins",
    "normalized_rank",
    "routes",
    "sample_targets",
    "under_attack",
]
