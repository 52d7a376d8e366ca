"""Metric losses: `loss(embeddings [B, D], labels [B])` → scalar."""

from robustdml_ext.losses.arcface import ArcFaceLoss
from robustdml_ext.losses.multisimilarity import MultiSimilarityLoss

__all__ = ["ArcFaceLoss", "MultiSimilarityLoss"]
