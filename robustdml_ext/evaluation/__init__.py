"""How good are the embeddings: clean, corrupted, and under attack."""

from __future__ import annotations

from robustdml_ext.evaluation.chance import adjusted_rand_index, ami
from robustdml_ext.evaluation.checks import CHECKS
from robustdml_ext.evaluation.class_robustness import judge_classifier, places_of
from robustdml_ext.evaluation.class_threats import CLASS_ATTACKS, ClassThreat
from robustdml_ext.evaluation.classification import accuracy, nearest_prototype_accuracy
from robustdml_ext.evaluation.clustering import f1, nmi, purity
from robustdml_ext.evaluation.corruptions import CORRUPTIONS, corrupt
from robustdml_ext.evaluation.density import density
from robustdml_ext.evaluation.kmeans import KMeansFit, fit_kmeans, kmeans
from robustdml_ext.evaluation.pairs import all_pairs_det, all_pairs_eer
from robustdml_ext.evaluation.retrieval import ranking_scores, recall_at_k
from robustdml_ext.evaluation.robustness import attack_dataset, evaluate_under, judge_robustness, judge_threats, sweep
from robustdml_ext.evaluation.score import DEFINITION, RobustnessReport, rank_models, summary_rows
from robustdml_ext.evaluation.spectrum import rho_spectrum
from robustdml_ext.evaluation.suite import DEFAULT_GROUPS, GROUPS, embed, evaluate
from robustdml_ext.evaluation.tasks import judge_tasks
from robustdml_ext.evaluation.threats import ATTACKS, STANDARD, ThreatModel, standard_threat
from robustdml_ext.evaluation.verification import DetPoints, det_points, eer, pair_scores
from robustdml_ext.evaluation.voting_clusters import voted_clusters
from robustdml_ext.evaluation.voting_retrieval import voted_recall_at_k

__all__ = [
    "ATTACKS",
    "CHECKS",
    "CLASS_ATTACKS",
    "CORRUPTIONS",
    "DEFAULT_GROUPS",
    "DEFINITION",
    "GROUPS",
    "STANDARD",
    "ClassThreat",
    "DetPoints",
    "KMeansFit",
    "RobustnessReport",
    "ThreatModel",
    "accuracy",
    "adjusted_rand_index",
    "all_pairs_det",
    "all_pairs_eer",
    "ami",
    "attack_dataset",
    "corrupt",
    "density",
    "det_points",
    "eer",
    "embed",
    "evaluate",
    "evaluate_under",
    "f1",
    "fit_kmeans",
    "judge_classifier",
    "judge_robustness",
    "judge_tasks",
    "judge_threats",
    "kmeans",
    "nearest_prototype_accuracy",
    "nmi",
    "pair_scores",
    "places_of",
    "purity",
    "rank_models",
    "ranking_scores",
    "recall_at_k",
    "rho_spectrum",
    "standard_threat",
    "summary_rows",
    "sweep",
    "voted_clusters",
    "voted_recall_at_k",
]
