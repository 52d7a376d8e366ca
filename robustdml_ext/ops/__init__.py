"""Fused operators, each with a plain PyTorch reference of the same meaning."""

from robustdml_ext.ops.distribution_norm import distribution_norm
from robustdml_ext.ops.energy_confusion import (
    energy_confusion,
    energy_distance,
    maximum_mean_discrepancy,
    pairwise_energy_confusion,
)
from robustdml_ext.ops.neighbors import items_ahead, nearest_centroid, neighbors
from robustdml_ext.ops.pair_loss import pair_loss
from robustdml_ext.ops.pgd_step import pgd_step, pgd_step_
from robustdml_ext.ops.proxy_loss import proxy_loss
from robustdml_ext.ops.similarity import similarity
from robustdml_ext.ops.target_distance import target_distance

__all__ = [
    "distribution_norm",
    "energy_confusion",
    "energy_distance",
    "items_ahead",
    "maximum_mean_discrepancy",
    "nearest_centroid",
    "neighbors",
    "pair_loss",
    "pairwise_energy_confusion",
    "pgd_step",
    "pgd_step_",
    "proxy_loss",
    "similarity",
    "target_distance",
]
