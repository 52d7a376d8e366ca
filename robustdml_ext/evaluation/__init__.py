"""How good are the embeddings: clean, corrupted, and under attack."""

from __future__ import annotations

from robustdml_ext.evaluation.answers import answers
from robustdml_ext.evaluation.attacked_images import AttackedImages, attack_classified_images, attack_images
from robustdml_ext.evaluation.auxiliary_norms import judge_norms
from robustdml_ext.evaluation.chance import adjusted_rand_index, ami
from robustdml_ext.evaluation.checks import CHECKS
from robustdml_ext.evaluation.class_robustness import judge_classifier, places_of
from robustdml_ext.evaluation.class_threats import CLASS_ATTACKS, ClassThreat
from robustdml_ext.evaluation.classification import accuracy, nearest_prototype_accuracy
from robustdml_ext.evaluation.clustering import f1, nmi, purity
from robustdml_ext.evaluation.corruptions import CORRUPTIONS, corrupt
from robustdml_ext.evaluation.density import density
from robustdml_ext.evaluation.embedding_map import EmbeddingMap, embedding_map, map_rows
from robustdml_ext.evaluation.few_shot import FewShot, few_shot
from robustdml_ext.evaluation.kernel_tasks import MMDTest, NoveltyDetector, mmd_test, novelty_detector
from robustdml_ext.evaluation.kernels import NearestPsd, landmark_kernel, nearest_psd, similarity_kernel
from robustdml_ext.evaluation.kmeans import KMeansFit, fit_kmeans, kmeans
from robustdml_ext.evaluation.norm_differences import NormDifferences, norm_differences
from robustdml_ext.evaluation.pairs import all_pairs_det, all_pairs_eer
from robustdml_ext.evaluation.retrieval import ranking_scores, recall_at_k
from robustdml_ext.evaluation.retrieval_sheets import RetrievalSheets, retrieval_sheets, sheet_rows
from robustdml_ext.evaluation.robustness import attack_dataset, evaluate_under, judge_robustness, judge_threats, sweep
from robustdml_ext.evaluation.score import DEFINITION, RobustnessReport, rank_models, summary_rows
from robustdml_ext.evaluation.scored_retrieval import scored_recall_at_k
from robustdml_ext.evaluation.scorers import (
    SCORERS,
    Scorer,
    cosine_scorer,
    published_sum_scorer,
    similarity_scorer,
    sum_scorer,
)
from robustdml_ext.evaluation.spectrum import rho_spectrum
from robustdml_ext.evaluation.subject import Subject
from robustdml_ext.evaluation.suite import DEFAULT_GROUPS, GROUPS, embed, evaluate
from robustdml_ext.evaluation.tasks import judge_few_shot, judge_retrieval, judge_verification, scorers_of
from robustdml_ext.evaluation.threats import ATTACKS, STANDARD, ThreatModel, standard_threat
from robustdml_ext.evaluation.trials import Verification, random_trials, trial_scores, verify
from robustdml_ext.evaluation.verification import DetPoints, det_points, eer, min_dcf, pair_scores
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
    "SCORERS",
    "STANDARD",
    "AttackedImages",
    "ClassThreat",
    "DetPoints",
    "EmbeddingMap",
    "FewShot",
    "KMeansFit",
    "MMDTest",
    "NearestPsd",
    "NormDifferences",
    "NoveltyDetector",
    "RetrievalSheets",
    "RobustnessReport",
    "Scorer",
    "Subject",
    "ThreatModel",
    "Verification",
    "accuracy",
    "adjusted_rand_index",
    "all_pairs_det",
    "all_pairs_eer",
    "ami",
    "answers",
    "attack_classified_images",
    "attack_dataset",
    "attack_images",
    "corrupt",
    "cosine_scorer",
    "density",
    "det_points",
    "eer",
    "embed",
    "embedding_map",
    "evaluate",
    "evaluate_under",
    "f1",
    "few_shot",
    "fit_kmeans",
    "judge_classifier",
    "judge_few_shot",
    "judge_norms",
    "judge_retrieval",
    "judge_robustness",
    "judge_threats",
    "judge_verification",
    "kmeans",
    "landmark_kernel",
    "map_rows",
    "min_dcf",
    "mmd_test",
    "nearest_prototype_accuracy",
    "nearest_psd",
    "nmi",
    "norm_differences",
    "novelty_detector",
    "pair_scores",
    "places_of",
    "published_sum_scorer",
    "purity",
    "random_trials",
    "rank_models",
    "ranking_scores",
    "recall_at_k",
    "retrieval_sheets",
    "rho_spectrum",
    "scored_recall_at_k",
    "scorers_of",
    "sheet_rows",
    "similarity_kernel",
    "similarity_scorer",
    "standard_threat",
    "sum_scorer",
    "summary_rows",
    "sweep",
    "trial_scores",
    "verify",
    "voted_clusters",
    "voted_recall_at_k",
]
