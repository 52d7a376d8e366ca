"""Adversarially robust deep metric learning: five papers' methods on one set of C++/CUDA kernels."""

from __future__ import annotations

__version__ = "0.2.0"
