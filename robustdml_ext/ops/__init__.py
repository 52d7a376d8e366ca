"""Fused operators, each with a plain PyTorch reference of the same meaning."""

from robustdml_ext.ops.distribution_norm import distribution_norm
from robustdml_ext.ops.pgd_step import pgd_step, pgd_step_
from robustdml_ext.ops.target_distance import target_distance

__all__ = ["distribution_norm", "pgd_step", "pgd_step_", "target_distance"]
