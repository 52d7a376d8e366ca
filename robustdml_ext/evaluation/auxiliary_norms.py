"""A model judged under each of its norms: what an auxiliary one costs where the clean one belongs."""

from __future__ import annotations

from collections.abc import Sequence

from robustdml_ext.evaluation.figures import measure, wanted_of
from robustdml_ext.evaluation.subject import Subject


def judge_norms(
    subject: Subject,
    *,
    seed: int = 0,
    recall_at: Sequence[int] = (1, 2, 4, 8),
    clustering: bool = True,
    metrics: str | Sequence[str] = "default",
) -> list[dict[str, float]]:
    """The clean figures with each distribution's norms at inference, in the order of the distributions.

    Queries and gallery are both embedded by the norms in question. Distribution 0 is the deployed model: its figures
    are those of every other judgment. MDProp (section 5) reports that on CUB200 the norms of single-targeted images
    take 0.7 and those of multi-targeted ones 1.8 percentage points off Recall@1, as they were trained for others.

    Args:
        subject: an `Embedder`, whose K `distributions` are judged, with its images.
        seed: of k-means.
        recall_at: depths of Recall@k; 1 is always among them.
        clustering, metrics: as `evaluation.evaluate`.

    Raises:
        TypeError: the model has no distributions.
        ValueError: as `evaluation.evaluate`.
    """
    count = getattr(subject.model, "distributions", None)
    if not isinstance(count, int):
        raise TypeError(f"subject: expected an Embedder with distributions, got {type(subject.model).__name__}")
    wanted = wanted_of(recall_at, clustering, seed, metrics)
    return [measure(subject, subject.clean(distribution=k), wanted).metrics for k in range(count)]
