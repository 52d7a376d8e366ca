"""Metric losses: `loss(embeddings [B, D], labels [B])` → scalar."""

from robustdml_ext.losses.angular import AngularLoss
from robustdml_ext.losses.arcface import ArcFaceLoss
from robustdml_ext.losses.binomial import BinomialDevianceLoss
from robustdml_ext.losses.contrastive import ContrastiveLoss
from robustdml_ext.losses.energyconfusion import EnergyConfusion
from robustdml_ext.losses.lifted import LiftedStructureLoss
from robustdml_ext.losses.multisimilarity import MultiSimilarityLoss
from robustdml_ext.losses.normalizedsoftmax import NormalizedSoftmaxLoss
from robustdml_ext.losses.npair import NPairLoss
from robustdml_ext.losses.proxyanchor import ProxyAnchorLoss
from robustdml_ext.losses.triplet import TripletLoss

__all__ = [
    "AngularLoss",
    "ArcFaceLoss",
    "BinomialDevianceLoss",
    "ContrastiveLoss",
    "EnergyConfusion",
    "LiftedStructureLoss",
    "MultiSimilarityLoss",
    "NPairLoss",
    "NormalizedSoftmaxLoss",
    "ProxyAnchorLoss",
    "TripletLoss",
]
