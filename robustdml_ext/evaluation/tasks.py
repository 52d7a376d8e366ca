"""One model, four tasks: retrieval, verification and few-shot classification from one set of embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from robustdml_ext.models import PrototypicalClassifier


def judge_tasks(
    classifier: PrototypicalClassifier,
    embeddings: Tensor,
    labels: Tensor,
    *,
    gallery: Tensor | None = None,
    gallery_labels: Tensor | None = None,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    scorers: Sequence[str] = ("similarity", "cosine", "sum"),
    trials: int = 100_000,
    ways: Sequence[int] = (5,),
    shots: Sequence[int] = (1, 5),
    episodes: int = 600,
    seed: int = 0,
) -> dict[str, float]:
    """x"""
    raise NotImplementedError
