"""How good are the embeddings, clean and under attack."""

from __future__ import annotations

from robustdml_ext.evaluation.clustering import f1, nmi
from robustdml_ext.evaluation.density import density
from robustdml_ext.evaluation.kmeans import kmeans
from robustdml_ext.evaluation.retrieval import recall_at_k
from robustdml_ext.evaluation.robustness import ThreatModel, attack_dataset, evaluate_under
from robustdml_ext.evaluation.suite import embed, evaluate

__all__ = [
    "ThreatModel",
    "attack_dataset",
    "density",
    "embed",
    "evaluate",
    "evaluate_under",
    "f1",
    "kmeans",
    "nmi",
    "recall_at_k",
]
